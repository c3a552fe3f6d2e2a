// What the recorder knows of the guest process beside its memory and registers.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "kvm-recorder/logged_space.h"
#include "kvm-recorder/own_files.h"
#include "machine/cpu_model.h"
#include "machine/registers.h"

namespace aftercheck {

class ProcessSignals;
class Descriptors;

// getrlimit(2).
struct ResourceLimit {
  uint64_t soft = 0, hard = 0;
};

struct GuestProcess {
  LoggedSpace& memory;
  ProcessSignals& signals;
  Descriptors& descriptors;
  const CpuModel& cpu;
  OwnFiles own_files{};  // what no name of the guest's leads to

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
};

}  // namespace aftercheck
