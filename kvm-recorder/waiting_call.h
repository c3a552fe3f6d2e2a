// A system call on the host that may wait: a guest's signal can interrupt it, and the guest's other threads
// run meanwhile.
#pragma once

#include <cstdint>

namespace aftercheck {

struct GuestTask;

// As interruptible_syscall(), by the thread that has the token, which it gives up if others want it. No
// argument may point to guest memory, but for futex words: it changes meanwhile. Where others have run,
// task.suspended says so afterwards. Throws what CallWaits::end() does.
long waiting_call(GuestTask& task, long number, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0,
                  uint64_t d = 0, uint64_t e = 0, uint64_t f = 0);

}  // namespace aftercheck
