// What the recorder knows of the guest process beside its memory and registers.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/fd.h"
#include "kvm-recorder/logged_space.h"
#include "kvm-recorder/own_files.h"
#include "kvm-recorder/unsupported_calls.h"
#include "machine/cpu_model.h"
#include "machine/registers.h"

namespace aftercheck {

class ProcessSignals;
class Descriptors;
class ProcessTree;
class Seccomp;
class GuestThreads;

// getrlimit(2).
struct ResourceLimit {
  uint64_t soft = 0, hard = 0;
};

struct GuestProcess {
  LoggedSpace& memory;
  ProcessSignals& signals;
  Descriptors& descriptors;
  const CpuModel& cpu;
  OwnFiles own_files{};             // what no name of the guest's leads to
  GuestThreads* threads = nullptr;  // null: it has one, and can't have more

  // Set by the loader, and again by a guest's execve.
  std::string executable{};                // absolute, symlinks resolved: /proc/self/exe
  UniqueFd executable_file{};              // what that leads to, out of the guest's reach
  std::vector<std::string> arguments{};    // /proc/self/cmdline
  std::vector<std::string> environment{};  // /proc/self/environ
  std::vector<uint64_t> auxv{};            // pairs, AT_NULL included: /proc/self/auxv
  uint64_t heap_start = 0, heap_end = 0;   // brk(2); heap_end is the current break, not page-aligned
  Range stack{};                           // as far as it has grown
  uint64_t mmap_top =
      0;  // below it mappings go where the guest does not say: above, the stack has room to grow
  bool lock_future = false;     // mlockall(MCL_FUTURE)
  Registers entry{};            // initial registers of the image
  uint64_t placement_seed = 0;  // where images lie, if at random; children have their parent's

  // Lines for people (calls answered with a refusal, ...), without a prefix or newline; may be empty.
  std::function<void(const std::string&)> message{};
  // Of the system calls (system_calls*.cc).
  UnsupportedCalls unsupported{};
  std::set<std::string> told{};           // said once already
  std::map<int, ResourceLimit> limits{};  // limits that the guest sees but that must not bind the recorder
  std::set<int> timers{};                 // timer_create(2); deleted by execve
  uint32_t personality = 0;               // personality(2)
  uint64_t ipc_namespace = 0;             // how many unshare(2) made: tells equal identifiers apart
  int dumpable = 1;                       // prctl(2), PR_SET_DUMPABLE
  ProcessTree* tree = nullptr;            // null: the guest has no other processes
  bool unrecorded = false;                // a child with --children=native: what it executes runs natively
  bool children_unrecorded = false;       // record --children=native
  bool refuses_children = false;          // record --children=refuse
  // execve is about to take the old image away: whoever waits for that may go on (vfork(2)). May be empty.
  std::function<void()> memory_is_left{};
  bool forbids_tsc = false;          // PR_SET_TSC: RDTSC and RDTSCP fault
  const Seccomp* seccomp = nullptr;  // of the first thread, which /proc/self/status shows

  // A name that leads to the program's file for the host's calls, whatever has become of its own.
  std::string executable_path() const;
};

}  // namespace aftercheck
