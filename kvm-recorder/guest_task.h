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
  uint64_t robust_list = 0;  // set_robust_list(2)
};

}  // namespace aftercheck
