// What `aftercheck doctor` finds out about a host, by trying it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "machine/vcpu.h"

namespace aftercheck::tools {

struct Finding {
  std::string group;          // "kvm", "translated", "soft", "host"
  std::string name;           // for scripts: "single_step"
  std::string title;          // for people
  std::optional<bool> works;  // nothing: a fact that is neither good nor bad
  std::string value;          // measured value, or why it does not work
  std::string cost;           // what its lack costs
  bool needed = false;        // without it this machine can't record or replay
};

// Runs tiny guests on the machine, in a child process of their own: a host that hangs or crashes there is a
// finding too. The first finding is whether the machine can be had at all.
std::vector<Finding> examine_machine(MachineKind kind);

// Counters, Intel PT, file system, limits.
std::vector<Finding> examine_host();
// What stands between this host and a trace of a guest; part of examine_host().
std::vector<Finding> examine_processor_trace();

// True when all that is needed works.
bool usable(const std::vector<Finding>& findings);

}  // namespace aftercheck::tools
