#include "kvm-recorder/robust_locks.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#include "kvm-recorder/guest_task.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

void wake(uint64_t address) { host_call(SYS_futex, address, FUTEX_WAKE, 1); }

// A list's walk.
struct Dying {
  GuestTask& task;
  uint32_t number;  // that its locks have
  bool marked = false;
};

// kernel/futex/core.c, handle_futex_death().
bool owner_died(Dying& dying, uint64_t address, bool inherits, bool pending) {
  GuestTask& task = dying.task;
  uint32_t word = 0;
  if (address % sizeof word != 0 || !task.process.memory.read_object(address, word)) return false;
  if (pending && !inherits && word == 0) {
    wake(address);
    return true;
  }
  if ((word & FUTEX_TID_MASK) != dying.number) return true;
  const uint32_t left = (word & FUTEX_WAITERS) | FUTEX_OWNER_DIED;
  if (!task.answer.write_object(address, left)) return false;
  dying.marked = true;
  if (!inherits && (word & FUTEX_WAITERS) != 0) wake(address);
  return true;
}

// kernel/futex/core.c, exit_robust_list(). What can't be read ends the walk.
void walk(Dying& dying) {
  constexpr unsigned kMostEntries = 2048;  // ROBUST_LIST_LIMIT
  const GuestTask& task = dying.task;
  const LoggedSpace& memory = task.process.memory;
  struct {
    uint64_t first, offset, pending;
  } head{};
  if (task.robust_list == 0 || !memory.read_object(task.robust_list, head)) return;
  const uint64_t pending = head.pending & ~uint64_t{1};
  uint64_t entry = head.first;
  for (unsigned i = 0; i < kMostEntries && (entry & ~uint64_t{1}) != task.robust_list; ++i) {
    const bool inherits = (entry & 1) != 0;
    const uint64_t at = entry & ~uint64_t{1};
    uint64_t next = 0;
    const bool more = memory.read_object(at, next);
    if (at != pending && !owner_died(dying, at + head.offset, inherits, false)) return;
    if (!more) return;
    entry = next;
  }
  if (pending != 0) owner_died(dying, pending + head.offset, (head.pending & 1) != 0, true);
}

}  // namespace

void leave_robust_locks(GuestTask& task) {
  Dying dying{task, static_cast<uint32_t>(task.signals.host_thread())};
  walk(dying);
}

bool leave_robust_locks_in_exec(GuestTask& task) {
  Dying dying{task, static_cast<uint32_t>(getpid())};
  walk(dying);
  return dying.marked;
}

}  // namespace aftercheck
