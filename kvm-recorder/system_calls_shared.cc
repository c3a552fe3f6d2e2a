// System V shared memory (ipc/shm.c): segments are the host's own, so that identifiers, permissions and what
// shmctl(2) tells are what they would be.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include <algorithm>

#include "kvm-recorder/memory_limits.h"
#include "kvm-recorder/placement.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck::calls {
namespace {

// Where shmat(2) puts `length` bytes; 0 or -errno.
long choose(Call& call, uint64_t length, Range& place) {
  const uint64_t asked = call.args[1], flags = call.args[2];
  const bool replaces = (flags & SHM_REMAP) != 0;
  if (!page_aligned(asked) && (flags & SHM_RND) == 0) return -EINVAL;
  const uint64_t address = page_down(asked);
  if (address == 0 && replaces) return -EINVAL;
  if (asked == 0) return choose_place(call.process, 0, length, 0, place);
  const long error =
      choose_place(call.process, address, length, replaces ? MAP_FIXED : MAP_FIXED_NOREPLACE, place);
  return error == -EEXIST ? -EINVAL : error;
}

}  // namespace

long shmat(Call& call) {
  const int segment = call.fd(0);
  const uint64_t flags = call.args[2];
  shmid_ds known{};
  if (const long error = host_call(SYS_shmctl, call.args[0], IPC_STAT, host_pointer(&known)); error < 0)
    return error;
  const uint64_t length = page_up(known.shm_segsz);
  Range place;
  if (const long error = choose(call, length, place)) return error;
  if (!within_limits(call.process, length, false, (flags & SHM_REMAP) != 0 ? place : Range{})) return -ENOMEM;
  const int prot =
      PROT_READ | ((flags & SHM_RDONLY) != 0 ? 0 : PROT_WRITE) | ((flags & SHM_EXEC) != 0 ? PROT_EXEC : 0);
  const auto& mappings = call.process.memory.space().mappings();
  const bool others =
      known.shm_nattch != 0 && std::ranges::none_of(mappings, [&](const auto& entry) {
        return entry.second.name.starts_with("/SYSV") && entry.second.inode == static_cast<uint64_t>(segment);
      });
  const int error = call.process.memory.attach_segment(
      call.answer, place, prot, segment,
      fmt::format("/SYSV{:08x} (deleted)", static_cast<uint32_t>(known.shm_perm.__key)));
  if (error != 0) return error;
  if (others)
    tell_once(
        call.process, "shmat",
        fmt::format("another process has the System V segment {} attached, too: what it writes there from "
                    "now on is not recorded, and a replay that depends on it diverges",
                    segment));
  return static_cast<long>(place.start);
}

long shmdt(Call& call) {
  return page_aligned(call.args[0]) ? call.process.memory.detach_segment(call.answer, call.args[0]) : -EINVAL;
}

}  // namespace aftercheck::calls
