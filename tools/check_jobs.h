// Checking with several processes at once.
#pragma once

#include <functional>

#include "base/error.h"
#include "checks/check_report.h"

namespace aftercheck::tools {

// What one replay came to.
struct CheckOutcome {
  CheckReport report;
  std::string error;  // why it ended early, "" if it did not
  ErrorKind kind = ErrorKind::internal;
};

// The part of the events that a job checks, both included.
struct EventSpan {
  uint64_t first = 0, last = UINT64_MAX;
};

// Cuts the events of [span] that the log at `directory` has into `jobs` parts of about the same number.
std::vector<EventSpan> split_events(const std::filesystem::path& directory, EventSpan span, unsigned jobs);

// Runs `check(part, number)` for each part in a process of its own, and joins what they found as one replay
// would have found it. There must be no other thread.
CheckOutcome check_in_parts(const std::vector<EventSpan>& parts, uint64_t most_failures, uint64_t most_logs,
                            const std::function<CheckOutcome(EventSpan part, unsigned number)>& check);

}  // namespace aftercheck::tools
