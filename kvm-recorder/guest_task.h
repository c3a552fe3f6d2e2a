// What the recorder knows of one thread of the guest (the kernel's word for it is task), beside its
// registers.
#pragma once

#include <cstdint>

#include "kvm-recorder/answer.h"
#include "kvm-recorder/call_buffers.h"
#include "kvm-recorder/guest_process.h"
#include "kvm-recorder/seccomp.h"
#include "kvm-recorder/thread_signals.h"

namespace aftercheck {

// Calls that wait in the host's kernel give the token up meanwhile (token.h).
class CallWaits {
 public:
  // The call goes to the kernel next; it has come back. Nothing of the guest or of the recorder may be
  // touched in between. What end() throws ends the thread.
  virtual void begin() = 0;
  virtual void end() = 0;

 protected:
  ~CallWaits() = default;
};

struct GuestTask {
  // On the host thread that runs the guest's; see ThreadSignals. `vcpu` must outlive this.
  GuestTask(GuestProcess& of, Vcpu& vcpu, uint64_t signal_mask)
      : process(of),
        answer(of.memory.space()),
        signals(of.signals, vcpu, signal_mask),
        buffers(of.memory.space()) {
    if (process.seccomp == nullptr) process.seccomp = &seccomp;
  }
  ~GuestTask() {
    if (process.seccomp == &seccomp) process.seccomp = nullptr;
  }
  GuestTask(const GuestTask&) = delete;
  GuestTask& operator=(const GuestTask&) = delete;

  GuestProcess& process;
  Answer answer;  // of the thread's event under way
  ThreadSignals signals;
  CallBuffers buffers;
  Seccomp seccomp{};
  uint64_t robust_list = 0;      // set_robust_list(2)
  uint64_t clear_child_tid = 0;  // set_tid_address(2), CLONE_CHILD_CLEARTID
  CallWaits* waits = nullptr;    // null: there is no other thread that could run
  // The call under way has waited, and the beginning of its event is in the log already.
  bool suspended = false;
  bool yields = false;  // sched_yield(2): others are to run before this thread goes on
};

// `work` may wait, and touches nothing of the guest's: meanwhile others may run. Throws what CallWaits::end()
// does.
template <typename Work>
auto while_others_run(GuestTask& task, Work work) {
  if (task.waits == nullptr) return work();
  task.waits->begin();
  const auto result = work();
  task.waits->end();
  return result;
}

}  // namespace aftercheck
