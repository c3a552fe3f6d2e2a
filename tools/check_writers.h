// The report of `aftercheck check` in its forms.
#pragma once

#include <string>
#include <vector>

#include "checks/check_report.h"
#include "recording/processes.h"
#include "tools/output.h"

namespace aftercheck::tools {

// One process of a recording that has several.
struct CheckedProcess {
  recording::Process process;
  std::string verdict;  // "held", "failed", "divergence", "error", "unreached"
  std::string error;    // why its replay ended early; may be empty
  bool truncated = false, several_threads = false;
  uint64_t events = 0, hits = 0, checked = 0;
  uint64_t failures = 0;  // of the hits checked, those that could not be completed included
};

struct CheckRun {
  std::string recording;  // its directory, as it was named
  uint32_t id = 0;        // recording::recording_id()
  std::string machine;    // --machine, if it was given
  double seconds = 0;
  unsigned jobs = 1;
  std::string remark;           // for people; may be empty
  std::string error;            // why the replay ended early; may be empty
  std::string nothing_checked;  // why no hit was checked, if none was
  std::string verdict;          // "held", "failed", "divergence", "error"
  recording::Meta meta;         // of the first process, or of the one that was chosen
  CheckReport report;           // of all
  // Those that were checked, by number; empty where the recording has one process.
  std::vector<CheckedProcess> processes;
};

// "assert", "message", "log" or "block"; "kind 7".
std::string kind_name(uint32_t kind);
// What a reader sees of a site: its expression, or what it is.
std::string title(const SiteText& text);
// "server.c:42".
std::string place(const SiteText& text);
// True when some check failed or could not be completed.
bool has_failed(const SiteReport& site);
// " in process 3 (pid 1234, make -j2), thread 2": as much of it as is needed to know whose hit it was.
std::string whose(const CheckRun& run, const CheckHit& hit);
// "process 3 (pid 1234, make -j2): 5 hits, 1 failed".
std::string summary(const CheckedProcess& process);
// Where the program was at the hit.
std::string position(const CheckRun& run, const CheckHit& hit);
// The command that checks this one hit again.
std::string again(const CheckRun& run, const SiteReport& site, const CheckHit& hit);

void write_text(const CheckRun& run, Output& output);
Json check_json(const CheckRun& run);
// One self-contained page.
std::string check_html(const CheckRun& run);

}  // namespace aftercheck::tools
