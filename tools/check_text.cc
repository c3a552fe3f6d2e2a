#include <algorithm>

#include "tools/check_writers.h"
#include "tools/console.h"
#include "tools/one_process.h"
#include "vassert-hooks/include/vassert_format.h"

namespace aftercheck::tools {
namespace {

// Sites that held, one line each: more would bury what failed.
constexpr size_t kMostHeld = 100;
constexpr size_t kMostLogLines = 20;
constexpr size_t kMostProcesses = 20;

void indented(Output& output, const std::string& indent, const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    output.line(indent + printable(text.substr(at, end - at)));
    at = end + 1;
  }
}

std::string quoted(const std::string& word) {
  const auto plain = [](char letter) {
    return std::isalnum(static_cast<unsigned char>(letter)) != 0 ||
           std::string("/._-+:=@%,").find(letter) != std::string::npos;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), plain)) return word;
  std::string result = "'";
  for (const char letter : word) result += letter == '\'' ? std::string("'\\''") : std::string(1, letter);
  return result + "'";
}

void write_frames(Output& output, const std::vector<CheckFrame>& stack) {
  unsigned number = 0;
  for (const CheckFrame& frame : stack) {
    const std::string where = frame.file.empty() ? (frame.module.empty() ? "" : " in " + frame.module)
                                                 : fmt::format(" at {}:{}{}", frame.file, frame.line,
                                                               frame.inlined ? " (inlined)" : "");
    output.line(printable(
        fmt::format("      #{:<2} {}{}", number++,
                    frame.function.empty() ? fmt::format("{:#x}", frame.address) : frame.function, where)));
  }
}

void write_hit(const CheckRun& run, const SiteReport& site, const CheckHit& hit, Output& output) {
  output.line(fmt::format(
      "    hit {}{}{}: after event {}, at {:.6f} s{}", human_count(hit.number), whose(run, hit),
      hit.nested ? fmt::format(" (within the check of {})", printable(place(hit.reached_by))) : "",
      human_count(hit.event), static_cast<double>(hit.time_ns) / 1e9,
      hit.verdict == Verdict::failed || hit.verdict == Verdict::passed
          ? ""
          : fmt::format(": {}: {}", name(hit.verdict), printable(hit.detail))));
  for (const std::string& message : hit.failures) indented(output, "      ", message);
  for (const std::string& line : hit.logs) indented(output, "      log: ", line);
  indented(output, "      output: ", hit.output);
  if (hit.dropped != 0) output.line(fmt::format("      ({} more bytes of text)", human_count(hit.dropped)));
  write_frames(output, hit.stack);
  output.line("      again: " + again(run, site, hit));
}

std::string counts(const SiteReport& site) {
  std::string text = fmt::format("{} hit{}", human_count(site.hits), site.hits == 1 ? "" : "s");
  if (site.checked != site.hits) text += fmt::format(", {} checked", human_count(site.checked));
  if (site.failed != 0) text += fmt::format(", {} failed", human_count(site.failed));
  if (site.broken != 0) text += fmt::format(", {} not completed", human_count(site.broken));
  return text;
}

void write_failed(const CheckRun& run, const SiteReport& site, Output& output) {
  output.line(printable(fmt::format("FAILED {}: {}", place(site.text), title(site.text))));
  output.line(printable(fmt::format("  {}; {}{}", counts(site),
                                    site.text.function.empty() ? "" : "in " + site.text.function + ", ",
                                    site.module)));
  for (const CheckHit& hit : site.failures) write_hit(run, site, hit, output);
  const uint64_t all = site.failed + site.broken;
  if (all > site.failures.size())
    output.line(
        fmt::format("    ... and {} more (--limit-failures)", human_count(all - site.failures.size())));
  output.line("");
}

void write_logs(const CheckRun& run, const SiteReport& site, Output& output) {
  output.line(printable(fmt::format("{}: {}", place(site.text), title(site.text))));
  size_t lines = 0;
  for (const CheckHit& hit : site.logs) {
    if (lines++ == kMostLogLines) break;
    // Several processes take turns here, by these times.
    const bool several = run.processes.size() > 1;
    const std::string when =
        fmt::format("  {:>10.6f} s  {}", static_cast<double>(several ? hit.until_ns : hit.time_ns) / 1e9,
                    several ? fmt::format("process {}: ", hit.process) : "");
    for (const std::string& line : hit.logs) indented(output, when, line);
    indented(output, when + "output: ", hit.output);
  }
  if (site.logs.size() + site.logs_dropped > kMostLogLines)
    output.line(fmt::format("  ... and {} more hits; --json and --html have {}",
                            human_count(site.logs.size() + site.logs_dropped - kMostLogLines),
                            site.logs_dropped == 0 ? "all" : human_count(site.logs.size())));
  output.line("");
}

void write_held(const CheckRun& run, Output& output) {
  size_t held = 0;
  for (const SiteReport& site : run.report.sites) {
    if (has_failed(site) || held++ >= kMostHeld) continue;
    output.line(printable(fmt::format("{:<9} {}: {} ({})", site.hits == 0 ? "never hit" : "held",
                                      place(site.text), title(site.text), counts(site))));
  }
  if (held > kMostHeld)
    output.line(fmt::format("... and {} more that held or were never hit", human_count(held - kMostHeld)));
  if (held != 0) output.line("");
}

// Those that came by a VAssert.
void write_processes(const CheckRun& run, Output& output) {
  if (run.processes.size() <= 1) return;
  size_t shown = 0;
  for (const CheckedProcess& one : run.processes) {
    const bool tells = one.hits != 0 || !one.error.empty();
    if (tells && shown++ < kMostProcesses) output.line(summary(one));
  }
  if (shown > kMostProcesses)
    output.line(fmt::format("... and {} more processes with hits; --json has all",
                            human_count(shown - kMostProcesses)));
  if (shown != 0) output.line("");
}

std::string in_processes(const CheckRun& run) {
  if (run.processes.size() <= 1) return {};
  const auto count = std::ranges::count_if(run.processes, [](const auto& one) { return one.hits != 0; });
  return fmt::format(" in {} of {} processes", count, human_count(run.processes.size()));
}

}  // namespace

std::string kind_name(uint32_t kind) {
  switch (kind) {
    case VASSERT_KIND_ASSERT:
      return "assert";
    case VASSERT_KIND_MESSAGE:
      return "message";
    case VASSERT_KIND_LOG:
      return "log";
    case VASSERT_KIND_BLOCK:
      return "block";
    default:
      return fmt::format("kind {}", kind);
  }
}

std::string title(const SiteText& text) {
  if (!text.text.empty()) return text.text;
  return text.kind == VASSERT_KIND_BLOCK ? "a block" : kind_name(text.kind);
}

std::string place(const SiteText& text) { return fmt::format("{}:{}", text.file, text.line); }

bool has_failed(const SiteReport& site) { return site.failed != 0 || site.broken != 0; }

std::string whose(const CheckRun& run, const CheckHit& hit) {
  const auto found = std::ranges::find(run.processes, hit.process,
                                       [](const CheckedProcess& one) { return one.process.number; });
  if (found == run.processes.end())
    return run.report.several_threads ? fmt::format(" in thread {}", hit.thread) : "";
  return fmt::format(" in {}{}", process_name(found->process),
                     found->several_threads ? fmt::format(", thread {}", hit.thread) : "");
}

std::string summary(const CheckedProcess& process) {
  std::string text = fmt::format("{}: {} hit{}", process_name(process.process), human_count(process.hits),
                                 process.hits == 1 ? "" : "s");
  if (process.checked != process.hits) text += fmt::format(", {} checked", human_count(process.checked));
  if (process.failures != 0) text += fmt::format(", {} failed", human_count(process.failures));
  if (process.verdict == "divergence" || process.verdict == "error" || process.verdict == "unreached")
    text += ", " + process.verdict;
  return text;
}

std::string position(const CheckRun& run, const CheckHit& hit) {
  recording::Position position;
  position.recording = run.id;
  position.event = hit.event;
  position.process = hit.process;
  if (hit.thread != 0) position.thread = hit.thread;
  position.instant = recording::Arrival{hit.program_at, hit.arrival};
  return to_text(position);
}

std::string again(const CheckRun& run, const SiteReport& site, const CheckHit& hit) {
  std::string sites = " --site " + quoted(place(site.text));
  if (hit.nested && place(hit.reached_by) != place(site.text))
    sites += " --site " + quoted(place(hit.reached_by));
  return fmt::format("aftercheck check {}{}{} --at {}", quoted(run.recording),
                     run.machine.empty() ? "" : " --machine " + run.machine, sites, position(run, hit));
}

void write_text(const CheckRun& run, Output& output) {
  const CheckReport& report = run.report;
  uint64_t failed = 0, hits = 0, checked = 0, failures = 0;
  for (const SiteReport& site : report.sites) {
    failed += has_failed(site) ? 1 : 0;
    hits += site.hits;
    checked += site.checked;
    failures += site.failed + site.broken;
  }
  for (const SiteReport& site : report.sites)
    if (has_failed(site)) write_failed(run, site, output);
  const auto has_logs = [](const SiteReport& site) { return !site.logs.empty(); };
  if (std::any_of(report.sites.begin(), report.sites.end(), has_logs)) {
    output.line("LOGGED");
    for (const SiteReport& site : report.sites)
      if (has_logs(site)) write_logs(run, site, output);
  }
  write_held(run, output);
  write_processes(run, output);
  if (report.found.empty()) {
    output.line("no VAsserts");
  } else {
    output.line(fmt::format("{} VAssert{}, {} hit{}{}, {} checked: {}", human_count(report.sites.size()),
                            report.sites.size() == 1 ? "" : "s", human_count(hits), hits == 1 ? "" : "s",
                            in_processes(run), human_count(checked),
                            failed == 0 ? "all held"
                                        : fmt::format("{} failed, in {} hit{}", human_count(failed),
                                                      human_count(failures), failures == 1 ? "" : "s")));
  }
  if (!run.remark.empty()) output.line(run.remark);
}

}  // namespace aftercheck::tools
