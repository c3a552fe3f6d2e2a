// What the recorder knows of one thread of the guest (the kernel's word for it is task), beside its
// registers.
#pragma once

#include <cstdint>

#include "kvm-recorder/answer.h"
#include "kvm-recorder/guest_process.h"

namespace aftercheck {

struct GuestTask {
  explicit GuestTask(GuestProcess& of) : process(of), answer(of.memory.space()) {}

  GuestProcess& process;
  Answer answer;  // of the thread's event under way

  uint64_t robust_list = 0;  // set_robust_list(2)
};

}  // namespace aftercheck
