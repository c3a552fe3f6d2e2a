// Limits (getrlimit(2)) that bind the guest and not the recorder, which shares its process.
#pragma once

#include <cstdint>
#include <optional>

#include "kvm-recorder/guest_process.h"

namespace aftercheck {

struct Call;

// The recorder writes more than the guest may (RLIMIT_FSIZE): the limit that the process was started with
// becomes the guest's alone. Before the recording begins.
void take_over_limits(GuestProcess& process);

// getrlimit(2), as the guest sees it: 0 or -errno.
long get_limit(const GuestProcess& process, int resource, ResourceLimit& limit);

// The number that no descriptor of the guest's reaches: its RLIMIT_NOFILE, and the recorder's own.
int end_of_descriptors(const GuestProcess& process);
// A new descriptor: closed again, and -EMFILE, where the guest may not have it.
long within_limit(const GuestProcess& process, long fd);

// How many of `count` bytes a regular file may take at `offset` (nothing: where the descriptor stands, or the
// file's end); `count` for all else. -EFBIG, and SIGXFSZ is raised, when none (generic_write_checks()).
long room_in_file(Call& call, int fd, std::optional<int64_t> offset, uint64_t count);
// A file is to have `size` bytes and has `now`. 0, or the same error.
long check_file_size(Call& call, int64_t now, int64_t size);

}  // namespace aftercheck
