#include "kvm-recorder/waiting_call.h"

#include "kvm-recorder/guest_task.h"
#include "kvm-recorder/interruptible_syscall.h"

namespace aftercheck {

long waiting_call(GuestTask& task, long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                  uint64_t f) {
  return while_others_run(
      task, [&] { return interruptible_syscall(task.signals.waiting(), number, a, b, c, d, e, f); });
}

}  // namespace aftercheck
