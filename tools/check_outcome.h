// What checking came to, by processes that replay at once, and how they tell it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "checks/check_report.h"

namespace aftercheck::tools {

// What one replay came to.
struct CheckOutcome {
  CheckReport report;
  std::string error;  // why it ended early, "" if it did not
  ErrorKind kind = ErrorKind::internal;
};

// From one process to another of the same program.
std::vector<uint8_t> to_bytes(const CheckOutcome& outcome);
CheckOutcome outcome_from(const std::vector<uint8_t>& bytes);

// Of the same site, elsewhere: adds places and counts. The hits with details stay as they are.
void add_counts(SiteReport& to, const SiteReport& from);
// Adds all but the sites, which are added one by one. Where `from` replayed is where `to` has come to.
void add_all_but_sites(CheckReport& to, const CheckReport& from);

}  // namespace aftercheck::tools
