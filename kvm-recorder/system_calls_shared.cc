// System V shared memory (ipc/shm.c): segments are the host's own, so that identifiers, permissions and what
// shmctl(2) tells are what they would be.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <optional>

#include "kvm-recorder/guest_threads.h"
#include "kvm-recorder/memory_limits.h"
#include "kvm-recorder/placement.h"
#include "kvm-recorder/process_tree.h"
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

// Attached beside the guest's views, to be looked at; not at all where the guest could not attach it either.
class Probe {
 public:
  explicit Probe(const Segment& segment)
      : address_(host_call(SYS_shmat, static_cast<uint64_t>(segment.id), 0, SHM_RDONLY)) {}
  ~Probe() {
    if (address_ >= 0) host_call(SYS_shmdt, static_cast<uint64_t>(address_));
  }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;
  // A mapping of huge pages can't be split within one (mm/hugetlb.c, hugetlb_vm_op_split()).
  bool huge() const {
    return address_ >= 0 &&
           host_call(SYS_mprotect, static_cast<uint64_t>(address_), kPageSize, PROT_NONE) == -EINVAL;
  }

 private:
  long address_;
};

}  // namespace

// Of huge pages there are none, as for mmap(2). The flag is for new segments only.
long shmget(Call& call) {
  const uint64_t key = call.args[0], flags = call.args[2];
  const auto is_new = [&] {
    return static_cast<key_t>(key) == IPC_PRIVATE ||
           ((flags & IPC_CREAT) != 0 && host_call(SYS_shmget, key, 0, 0) == -ENOENT);
  };
  if ((flags & SHM_HUGETLB) == 0 || !is_new()) return pass(call);
  return call.args[1] == 0 ? -EINVAL : -ENOMEM;
}

long shmat(Call& call) {
  const Segment segment{call.fd(0), call.process.ipc_namespace};
  const uint64_t flags = call.args[2];
  shmid_ds known{};
  if (const long error = host_call(SYS_shmctl, call.args[0], IPC_STAT, host_pointer(&known)); error < 0)
    return error;
  // Of huge pages more is mapped than shm_segsz says, over what lies behind. The guest's own segments have
  // none. Attached until the guest's view is: some segments go with the last one (kernel.shm_rmid_forced).
  std::optional<Probe> probe;
  if (known.shm_cpid != getpid()) probe.emplace(segment);
  if (probe && probe->huge()) return cannot_record(call, "shmat (a segment of huge pages)", ENOMEM);
  const uint64_t length = page_up(known.shm_segsz);
  Range place;
  if (const long error = choose(call, length, place)) return error;
  if (!within_limits(call.process, length, false, (flags & SHM_REMAP) != 0 ? place : Range{})) return -ENOMEM;
  const int prot =
      PROT_READ | ((flags & SHM_RDONLY) != 0 ? 0 : PROT_WRITE) | ((flags & SHM_EXEC) != 0 ? PROT_EXEC : 0);
  const bool has_others = has_other_processes(call.process);
  if (has_others) call.process.threads->share_memory(call.task);
  const bool others = !has_others && known.shm_nattch != 0 && !call.process.memory.maps_segment(segment);
  const int error = call.process.memory.attach_segment(
      call.answer, place, prot, segment,
      fmt::format("/SYSV{:08x} (deleted)", static_cast<uint32_t>(known.shm_perm.__key)));
  if (error != 0) return error;
  if (others)
    tell_once(
        call.process, "shmat",
        fmt::format("another process has the System V segment {} attached, too: what it writes there from "
                    "now on is not recorded, and a replay that depends on it diverges",
                    segment.id));
  return static_cast<long>(place.start);
}

long shmdt(Call& call) {
  return page_aligned(call.args[0]) ? call.process.memory.detach_segment(call.answer, call.args[0]) : -EINVAL;
}

}  // namespace aftercheck::calls
