// Host signals that hit the thread while it executes translated code: what the guest's code raises, and
// kicks.
#pragma once

#include <cstdint>

#include "machine/translated/notes.h"

namespace aftercheck::translated {

class TranslatedMachine;

// What the processor said about an instruction of the guest (SDM vol. 3, 6.15; the kernel's sigcontext).
struct HostFault {
  int signal = 0;
  uint64_t number = 0;      // of the exception
  uint64_t error_code = 0;  // as the processor gives it
  uint64_t address = 0;     // CR2
  bool counted = false;     // a branch behind it too
};

// How far into a block translated code came that was left by a fault or a kick.
struct LeftInside {
  bool inside = false;
  Path so_far;
  uint32_t unnoted = kNoPath;  // kLeftUnnoted: the path that could not be noted, if it was one
};

// Once for each machine: the process's handlers ask us.
void claim_host_faults();

// While this lives the thread executes code of `machine`, on a stack that signals do not touch. `kicked` says
// whether somebody wants it out.
class Running {
 public:
  Running(TranslatedMachine& machine, HostFault& fault, LeftInside& left);
  ~Running();
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  TranslatedMachine& machine() { return machine_; }
  HostFault& fault() { return fault_; }
  LeftInside& left() { return left_; }

 private:
  TranslatedMachine& machine_;
  HostFault& fault_;
  LeftInside& left_;
};

// Has the thread leave translated code soon, if it is there. Async-signal-safe; any thread.
void interrupt(int thread) noexcept;

}  // namespace aftercheck::translated
