// What came of a recording's VAsserts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checks/check_sites.h"
#include "checks/excursion.h"
#include "replay-engine/replay.h"

namespace aftercheck {

// One frame of a call stack, innermost first. Inlined calls are frames of their own.
struct CheckFrame {
  uint64_t address = 0;
  std::string function;  // demangled, "" if unknown
  std::string module;    // path in the recorded run, "" if unknown
  std::string file;      // "" if unknown
  uint32_t line = 0;
  bool inlined = false;
};

// One hit that has something to tell.
struct CheckHit {
  // Of the site's hits within the range of events that is checked, from 1. Of a nested one: of all visits.
  uint64_t number = 0;
  uint64_t event = 0;       // the hit is in the segment after this event
  uint32_t process = 0;     // whose segment that is, by its number in the recording
  uint32_t thread = 0;      // and which thread's of it
  uint64_t in_segment = 0;  // of the site's hits in that segment, from 1
  // Where the program was: at its arrival-th arrival at this address in that segment, from 1. Of a nested
  // hit that is the place of the check around all others.
  uint64_t program_at = 0, arrival = 0;
  uint64_t time_ns = 0;   // of the event: a call's is when it was made, however long it then took
  uint64_t until_ns = 0;  // of the event that ends the segment
  uint64_t address = 0;   // of the site
  bool nested = false;    // reached by another check, not by the program
  SiteText reached_by;    // for a nested hit: the site that the program was at
  Verdict verdict = Verdict::passed;
  std::string detail;
  std::vector<std::string> failures, logs;
  std::string output;
  uint64_t dropped = 0;           // bytes of text that were too many
  std::vector<CheckFrame> stack;  // at the site; where the check ended if it could not be completed
};

// A check that ran into the limit so often does it again, and each time takes seconds: further hits are not
// checked.
constexpr uint64_t kMostEndless = 3;

struct SiteReport {
  SiteText text;
  std::string module;            // the first it was found in
  std::vector<uint64_t> places;  // its addresses in the program, in no order
  uint64_t hits = 0;             // in the range of events
  uint64_t own_hits = 0;         // of them the program's own, not by way of another check
  uint64_t checked = 0;          // of these were chosen and checked
  uint64_t passed = 0, failed = 0;
  uint64_t broken = 0;   // checks that could not be completed: every other verdict
  uint64_t endless = 0;  // of the broken ones; after a few, further hits are not checked
  uint64_t logged = 0;   // lines
  // In order; of failed and broken ones, and of those with logs or output, only the first ones.
  std::vector<CheckHit> failures, logs;
  uint64_t logs_dropped = 0;
};

struct CheckReport {
  std::vector<SiteReport> sites;  // those that were wanted, in order of file and line
  std::vector<SiteText> found;    // of all sites, wanted or not, in the order in which they were found
  bool ghost_used = false;        // some check wrote ghost memory
  bool ghost_there = false;       // some module has ghost variables, which earlier hits may have written
  bool several_threads = false;   // the program had more than one, before or in what was replayed
  Excursions::Counts excursions;
  uint64_t stops = 0;  // of the guest at breakpoints
  ReplayResult replay;
};

}  // namespace aftercheck
