// The options of `aftercheck check`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checks/checker.h"
#include "recording/processes.h"
#include "replay-engine/replay.h"

namespace aftercheck::tools {

struct CheckArguments {
  ReplayOptions replay;
  CheckOptions check;
  std::string machine, hits, events, at, html;
  std::vector<std::string> files, functions, sites;
  uint64_t limit_millions = ExcursionOptions::kDefaultLimit / 1'000'000;
  unsigned jobs = 1;
  bool json = false, show_output = false, require_hits = false;
  std::optional<uint32_t> process;  // nothing: all

  // Of the recording, whose folder replay.directory is.
  std::vector<recording::Process> processes;
  std::vector<size_t> way;  // to the one that is wanted: places in the list

  bool all_processes() const { return processes.size() > 1 && !process; }
  const recording::Process& wanted_process() const { return processes[way.back()]; }
};

// What the words mean; `arguments` must stay where it is. Throws Error(usage).
void take(CheckArguments& arguments);
// Which processes that is. Throws Error(usage), also for what can't be asked of several, and as
// recording::read_processes().
void take_processes(CheckArguments& arguments);

// --file, --function and --site with a pattern that none of these sites has.
std::vector<std::string> useless_patterns(const CheckArguments& arguments,
                                          const std::vector<SiteText>& found);

}  // namespace aftercheck::tools
