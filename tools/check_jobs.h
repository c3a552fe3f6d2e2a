// Checking with several processes at once.
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <vector>

#include "base/fd.h"
#include "tools/check_outcome.h"

namespace aftercheck::tools {

// Events, both included; hits are those in the segments after them.
struct EventSpan {
  uint64_t first = 0, last = UINT64_MAX;
};

// What a job checks.
struct Part {
  EventSpan span;
  bool from_checkpoint = false;  // there is a kept one right before it
};

using ShowOutput = std::function<void(int stream, const std::byte* bytes, size_t size)>;

// What the program wrote in one part, kept until its turn comes. Shared between the processes.
class JobOutput {
 public:
  // Throws Error(io).
  JobOutput();
  // To stream 1 or 2.
  void write(int stream, const std::byte* bytes, size_t size);
  // All of it, one stream after the other.
  void read(const ShowOutput& show) const;

 private:
  std::array<UniqueFd, 2> files_;  // of streams 1 and 2
};

// Cuts the events of the span that the log at `directory` has into at most `jobs` parts: at kept checkpoints,
// into parts of about the same work, or where there are none into about the same number of events. A segment
// follows the first event of each but the first.
std::vector<Part> split_events(const std::filesystem::path& directory, EventSpan span, unsigned jobs);

// Checks one part. `output` gets what the program writes; null: nobody wants it.
using CheckPart = std::function<CheckOutcome(const Part& part, JobOutput* output)>;

// Has each part checked by a process of its own, which `fork` makes as fork(2) does, one after the other in
// order, and joins what they found as one replay would have found it. What an earlier part ends with in an
// error goes before all later ones. There must be no other thread. `show` gets the program's output in the
// order of the parts; null: nobody does.
CheckOutcome check_in_parts(const std::vector<Part>& parts, uint64_t most_failures, uint64_t most_logs,
                            const std::function<pid_t(const Part& part)>& fork, const CheckPart& check,
                            const ShowOutput& show);

}  // namespace aftercheck::tools
