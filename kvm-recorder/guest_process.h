// What the recorder knows of the guest process beside its memory and registers.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "kvm-recorder/logged_space.h"
#include "machine/cpu_model.h"
#include "machine/registers.h"

namespace aftercheck {

class Signals;
class Descriptors;

// getrlimit(2).
struct ResourceLimit {
  uint64_t soft = 0, hard = 0;
};

struct GuestProcess {
  LoggedSpace& memory;
  Signals& signals;
  Descriptors& descriptors;
  const CpuModel& cpu;

  // Set by the loader, and again by a guest's execve.
  std::string executable{};                // absolute, symlinks resolved: /proc/self/exe
  std::vector<std::string> arguments{};    // /proc/self/cmdline
  std::vector<std::string> environment{};  // /proc/self/environ
  std::vector<uint64_t> auxv{};            // pairs, AT_NULL included: /proc/self/auxv
  uint64_t heap_start = 0, heap_end = 0;   // brk(2); heap_end is the current break, not page-aligned
  Range stack{};
  Registers entry{};  // initial registers of the image

  // Lines for people (calls answered with a refusal, ...), without a prefix or newline; may be empty.
  std::function<void(const std::string&)> message{};
  // Of the system calls (system_calls*.cc).
  std::set<std::string> told{};           // said once already
  std::map<int, ResourceLimit> limits{};  // limits that the guest sees but that must not bind the recorder
  std::set<int> timers{};                 // timer_create(2); deleted by execve
  uint64_t robust_list = 0;               // set_robust_list(2)
};

// Bookkeeping of the kernel's internal results (include/linux/errno.h): a call that a signal interrupted.
constexpr long kRestartSys = -512;     // restarted if the handler has SA_RESTART, else EINTR
constexpr long kRestartNoHand = -514;  // restarted only if no handler ran

// What a system call did to the guest.
struct CallOutcome {
  enum class Kind {
    result,     // `value` goes to RAX (or is kRestartSys/kRestartNoHand: the signal code decides)
    registers,  // the call set all registers itself (rt_sigreturn, execve)
    exited,     // exit_group: `value` is the status
  };
  Kind kind = Kind::result;
  long value = 0;
  bool fpu_changed = false;  // registers: the FPU state was set too (it is in `fpu`)
  FpuState fpu{};
};

// Makes the system call that `registers` describe (RAX, RDI, RSI, RDX, R10, R8, R9). Never throws for what
// the guest passes; Error(io) only when the recording itself can't be written.
CallOutcome make_system_call(GuestProcess& process, Registers& registers);

}  // namespace aftercheck
