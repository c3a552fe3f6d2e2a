// Adds an Intel PT trace to a recording that was made without one, by replaying it on a machine that tells
// branches.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "replay-engine/replay.h"

namespace aftercheck {

struct PtSynthOptions {
  std::filesystem::path directory;
  bool replace = false;  // a trace that is there gives way; else it is Error(usage)
  // As in ReplayOptions.
  MachineChoice machine = MachineChoice::automatic;
  bool untrusted = false;
  std::function<std::string(uint64_t number)> system_call_name = {};
  std::function<void(double share, uint64_t events)> progress = {};
};

struct PtSynthResult {
  ReplayResult replay;
  uint64_t branches = 0;
  // Places where the vCPU could not tell the control flow; the trace has a gap there.
  uint64_t losses = 0;
};

// The trace appears whole or not at all. Throws what replay() throws, and Error(io).
PtSynthResult synthesize_pt(const PtSynthOptions& options);

}  // namespace aftercheck
