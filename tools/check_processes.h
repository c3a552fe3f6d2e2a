// Checking all processes of a recording.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "checks/checker.h"
#include "recording/processes.h"
#include "replay-engine/replay.h"
#include "tools/check_outcome.h"
#include "tools/process_replays.h"

namespace aftercheck::tools {

// Checks each in a replay of its own, beside each other as ProcessReplays has them. What a check finds does
// not depend on how these are interleaved. `output` gets what the programs write, in the recorded order, in
// whichever process replays it; where the options want one process, of that alone; null: nobody does. There
// must be no other thread. In the order of the list; one that did not get to run has nothing. Throws Error
// where the recording can't be opened.
struct ProcessOutcome {
  ProcessReplays::State state = ProcessReplays::State::unreached;
  CheckOutcome outcome;
};
std::vector<ProcessOutcome> check_processes(
    const std::vector<recording::Process>& processes, ReplayOptions options, const CheckOptions& check,
    const std::function<void(int stream, const std::byte* bytes, size_t size)>& output);

// The whole recording's. Counts add up, and hits with details are in the order of the recorded time at
// which their segments ended, then of the processes; as many for each site as one replay would have kept.
CheckReport join_processes(const std::vector<ProcessOutcome>& outcomes, const CheckOptions& check);

}  // namespace aftercheck::tools
