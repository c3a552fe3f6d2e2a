// Where the guest's names of files lead. The recorder's own files, descriptors and threads are not there for
// it: whatever the way (links, /proc/<tid>, a descriptor of a directory), the thing that is reached decides.
#pragma once

#include <fcntl.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "kvm-recorder/guest_process.h"

namespace aftercheck {

struct Call;  // system_calls.h

struct NameOfFile {
  int directory = AT_FDCWD;  // what a relative name is relative to; a descriptor of the guest's
  std::string path;
  bool followed = true;  // a link at the end is followed
  bool made = false;     // it need not exist: then its folder counts
  bool moved = false;    // it gets another name
  uint64_t resolve = 0;  // openat2(2), RESOLVE_...
};

struct Reached {
  int error = 0;        // positive errno: the guest must not go there
  UniqueFd object;      // O_PATH; none where the kernel will refuse, or where nothing is yet
  std::string instead;  // not empty: where the name leads for a guest (its /proc/self/exe is its own program)
};

// What somebody else does to the file system between this and the call is not seen; the guest itself waits.
Reached reach(const GuestProcess& process, const NameOfFile& name);

// True for nearly all names, by one call: nothing is there, or nothing of the recorder's. Of the links in
// /proc it notices those with a number in the name only, so this is for calls that change nothing.
bool is_clearly_elsewhere(const GuestProcess& process, const NameOfFile& name);
// True for "/proc/123/root" and the like: through the folder of a thread one gets to any file.
bool has_number(std::string_view path);

// As reach() for something that is open already: 0 or a positive errno.
int refusal(const GuestProcess& process, int fd);

// Looks at all names of the call that no handler looks at (file_names.h), and at addresses of local sockets.
// 0 or -errno; where a name leads elsewhere for a guest, the call is changed to go there.
long check_names(Call& call);

}  // namespace aftercheck
