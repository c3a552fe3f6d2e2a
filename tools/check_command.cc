#include <fnmatch.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <chrono>
#include <csignal>

#include "base/error.h"
#include "checks/checker.h"
#include "replay-engine/replay.h"
#include "system-calls/system_call_names.h"
#include "tools/check_jobs.h"
#include "tools/check_writers.h"
#include "tools/command.h"
#include "tools/output.h"
#include "tools/replay_progress.h"
#include "tools/unsupported_text.h"

namespace aftercheck::tools {
namespace {

struct Arguments {
  ReplayOptions replay;
  CheckOptions check;
  std::string machine, hits, events, at, html;
  std::vector<std::string> files, functions, sites;
  uint64_t limit_millions = ExcursionOptions::kDefaultLimit / 1'000'000;
  unsigned jobs = 1;
  bool json = false, show_output = false, require_hits = false;
};

// A pattern without a slash is for the last part of the path.
bool matches_file(const std::string& pattern, const std::string& file) {
  const std::string last = file.substr(file.find_last_of('/') + 1);
  const bool whole = pattern.find('/') != std::string::npos;
  return fnmatch(pattern.c_str(), (whole ? file : last).c_str(), 0) == 0;
}

bool ends_with_path(const std::string& file, const std::string& part) {
  if (file.size() < part.size() || file.compare(file.size() - part.size(), part.size(), part) != 0)
    return false;
  return file.size() == part.size() || part[0] == '/' || file[file.size() - part.size() - 1] == '/';
}

bool matches_site(const std::string& site, const SiteText& text) {
  const size_t colon = site.find_last_of(':');
  return ends_with_path(text.file, site.substr(0, colon)) &&
         site.substr(colon + 1) == std::to_string(text.line);
}

template <typename Matches>
bool any(const std::vector<std::string>& patterns, Matches matches) {
  return patterns.empty() || std::any_of(patterns.begin(), patterns.end(), matches);
}

bool wanted(const Arguments& arguments, const SiteText& text) {
  return any(arguments.files, [&](const auto& pattern) { return matches_file(pattern, text.file); }) &&
         any(arguments.functions,
             [&](const auto& pattern) { return fnmatch(pattern.c_str(), text.function.c_str(), 0) == 0; }) &&
         any(arguments.sites, [&](const auto& site) { return matches_site(site, text); });
}

std::optional<uint64_t> number(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "5", "5-9", "5-" or "-9".
std::optional<std::array<uint64_t, 2>> span_of(const std::string& text, uint64_t least) {
  const size_t dash = text.find('-');
  if (dash == std::string::npos) {
    const auto only = number(text);
    return only && *only >= least ? std::optional(std::array{*only, *only}) : std::nullopt;
  }
  const std::string from = text.substr(0, dash), to = text.substr(dash + 1);
  const auto first = from.empty() ? std::optional(least) : number(from),
             last = to.empty() ? std::optional(UINT64_MAX) : number(to);
  if (!first || !last || *first > *last || *first < least || (from.empty() && to.empty()))
    return std::nullopt;
  return std::array{*first, *last};
}

void take_hits(const std::string& text, HitSelection& hits) {
  if (text.empty()) return;
  const size_t space = text.find_first_of(" =:");
  const std::string word = text.substr(0, space);
  const uint64_t count =
      space == std::string::npos ? 0 : number(std::string_view(text).substr(space + 1)).value_or(0);
  if (word == "first" && count > 0) {
    hits.last = count;
  } else if (word == "every" && count > 0) {
    hits.every = count;
  } else if (const auto span = span_of(text, 1)) {
    hits.first = (*span)[0];
    hits.last = (*span)[1];
  } else {
    fail(ErrorKind::usage, "--hits {}: say N, N-M, \"first N\" or \"every N\", from 1 on", text);
  }
}

void take(Arguments& arguments) {
  take_hits(arguments.hits, arguments.check.hits);
  if (!arguments.events.empty()) {
    const auto span = span_of(arguments.events, 0);
    if (!span) fail(ErrorKind::usage, "--events {}: say A, A-B, A- or -B", arguments.events);
    arguments.check.first_event = (*span)[0];
    arguments.check.last_event = (*span)[1];
  }
  if (!arguments.at.empty()) {
    const recording::Position position = recording::parse_position(arguments.at);
    const auto* arrival = std::get_if<recording::Arrival>(&position.instant);
    if (arrival == nullptr)
      fail(ErrorKind::usage, "--at {}: say the position of a hit, eEVENT+0xADDRESS#N", arguments.at);
    check_belongs(position, recording::read_meta(arguments.replay.directory));
    arguments.check.at = *arrival;
    arguments.check.first_event = arguments.check.last_event = position.event;
  }
  for (const std::string& site : arguments.sites) {
    const size_t colon = site.find_last_of(':');
    if (colon == std::string::npos || colon == 0 || !number(std::string_view(site).substr(colon + 1)))
      fail(ErrorKind::usage, "--site {}: say FILE:LINE", site);
  }
  if (arguments.jobs > 1 && (!arguments.hits.empty() || !arguments.at.empty()))
    fail(ErrorKind::usage,
         "--hits and --at count from the start of the events, and jobs start in between: leave one of them");
  arguments.check.wanted = [&arguments](const SiteText& text) { return wanted(arguments, text); };
  arguments.check.excursion.limit = arguments.limit_millions * 1'000'000;
  arguments.check.excursion.system_call_name = system_call_name;
  arguments.replay.system_call_name = system_call_name;
}

// The guest's output, before the report; null: it is not wanted.
ShowOutput shown_in(Output& output, const Arguments& arguments) {
  if (!arguments.show_output) return nullptr;
  return [&output](int stream, const std::byte* bytes, size_t size) {
    if (stream == STDOUT_FILENO)
      output.text({reinterpret_cast<const char*>(bytes), size});
    else
      write_all(STDERR_FILENO, bytes, size);
  };
}

void write_page(const std::string& path, const std::string& page) {
  std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "we"), std::fclose);
  if (!file || std::fwrite(page.data(), 1, page.size(), file.get()) != page.size() ||
      std::fflush(file.get()) != 0)
    fail(ErrorKind::io, "{}: {}", path, errno_text(errno));
}

// Why no hit was checked; empty: some were.
std::string nothing_checked(const CheckReport& report) {
  uint64_t hits = 0;
  for (const SiteReport& site : report.sites) {
    if (site.checked != 0) return {};
    hits += site.hits;
  }
  if (report.found.empty())
    return "no file that the program maps has a table of VAsserts: they are there where it was built without "
           "VASSERT_DISABLE and linked with libvassert.a";
  if (hits == 0)
    return fmt::format(
        "{} VAssert{} hit in what was replayed",
        report.sites.size() == 1 ? std::string("the") : "none of the " + human_count(report.sites.size()),
        report.sites.size() == 1 ? " was not" : "s was");
  return fmt::format("of {} hit{} none was chosen by --hits or --at", human_count(hits),
                     hits == 1 ? "" : "s");
}

bool any_failed(const CheckReport& report) {
  return std::any_of(report.sites.begin(), report.sites.end(), has_failed);
}

// Replays a recording, or a part of it, and checks what is in it.
class PartReplay {
 public:
  PartReplay(const Arguments& arguments, Console& console) : arguments_(arguments), console_(console) {}

  // Opens it, near the first event of the part. `show`: where the program's output goes in check().
  void open(EventSpan part, bool progress, ShowOutput show) {
    ReplayOptions options = arguments_.replay;
    options.start_near = part.first;
    show_ = std::move(show);
    options.output = [this](int stream, const std::byte* bytes, size_t size) {
      if (checking_ && show_) show_(stream, bytes, size);
    };
    options.warning = [this](const std::string& text) { console_.warning(text); };
    if (progress) show_progress(options, console_);
    replay_.emplace(options);
  }
  void show_to(ShowOutput show) { show_ = std::move(show); }
  Replay& replay() { return *replay_; }

  // To the start of the part, unchecked.
  void skip_to(EventSpan part) {
    if (part.first == 0) return;
    const bool there = replay_->advance({.event = part.first}).why != Stop::Why::end;
    const ReplayResult& result = replay_->result();
    if (there && !result.ended && !result.truncated) return;
    fail(ErrorKind::usage, "{}: nothing runs after event {}: the recording ends with event {}",
         arguments_.replay.directory.string(), part.first, replay_->position().event);
  }

  // From there to its end; `from_start`: checks take part from the start of the recording on. Where ghost
  // state from before the part is wanted and was lost, nothing is checked, and the report says that it is
  // there.
  CheckOutcome check(EventSpan part, bool from_start = false) {
    CheckOptions chosen = arguments_.check;
    chosen.first_event = part.first;
    chosen.last_event = part.last;
    Checker checker(std::move(chosen));
    CheckOutcome outcome;
    ReplayResult before;
    // However this ends: the replay must not keep a checker that is gone.
    const auto detach = [this](Checker* attached) { replay_->detach(*attached); };
    std::unique_ptr<Checker, decltype(detach)> attached(nullptr, detach);
    try {
      if (!from_start) skip_to(part);
      before = replay_->result();
      checking_ = true;
      replay_->attach(checker);
      attached.reset(&checker);
      // The last segment ends with the event after it.
      const Limit end{.event = part.last == UINT64_MAX ? UINT64_MAX : part.last + 1};
      const bool without_state = part.first != 0 && !from_start && checker.ghost_there();
      if (without_state) attached.reset();
      if (!without_state || show_) replay_->advance(end);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::internal) throw;
      outcome.error = error.what();
      outcome.kind = error.kind();
    }
    checking_ = false;
    attached.reset();
    outcome.report = checker.report();
    outcome.report.replay = replay_->result();
    outcome.report.replay.events -= before.events;
    outcome.report.replay.memory_digests -= before.memory_digests;
    return outcome;
  }

 private:
  const Arguments& arguments_;
  Console& console_;
  ShowOutput show_;
  bool checking_ = false;
  std::optional<Replay> replay_;
};

CheckOutcome check_alone(const Arguments& arguments, EventSpan span, Console& console) {
  Output output;
  PartReplay part(arguments, console);
  part.open(span, true, shown_in(output, arguments));
  CheckOutcome outcome = part.check(span);
  output.flush();
  return outcome;
}

// All hits before the span are passed with their checks, for what they leave behind.
CheckOutcome check_from_start(const Arguments& arguments, EventSpan span, Console& console) {
  PartReplay part(arguments, console);
  part.open({}, true, nullptr);
  return part.check(span, true);
}

// Each job starts from the kept checkpoint before its part. Where there is none, this process replays without
// checking, and every job is a fork of it.
CheckOutcome check_in_jobs(const Arguments& arguments, EventSpan span, Console& console) {
  const std::vector<Part> parts = split_events(arguments.replay.directory, span, arguments.jobs);
  const bool kept =
      std::all_of(parts.begin() + 1, parts.end(), [](const Part& part) { return part.from_checkpoint; });
  Output output;
  PartReplay replay(arguments, console);
  if (!kept) replay.open(span, false, nullptr);
  CheckOutcome outcome = check_in_parts(
      parts, arguments.check.most_failures, arguments.check.most_logs,
      [&](const Part& part) {
        if (kept) return fork();
        replay.skip_to(part.span);
        return replay.replay().fork();
      },
      [&](const Part& part, JobOutput* job) {
        ShowOutput keep;
        if (arguments.show_output)
          keep = [&](int stream, const std::byte* bytes, size_t size) { job->write(stream, bytes, size); };
        if (kept)
          replay.open(part.span, part.span.first == parts.front().span.first, keep);
        else
          replay.show_to(keep);
        return replay.check(part.span);
      },
      shown_in(output, arguments));
  output.flush();
  return outcome;
}

CheckOutcome check_all(Arguments& arguments, std::string& remark, Console& console) {
  const EventSpan whole{arguments.check.first_event, arguments.check.last_event};
  CheckOutcome outcome =
      arguments.jobs > 1 ? check_in_jobs(arguments, whole, console) : check_alone(arguments, whole, console);
  console.clear_progress();
  // A check can see what those before it left there: in another job's part, or before the first event.
  if (arguments.jobs == 1 && whole.first == 0) return outcome;
  const bool endless =
      arguments.jobs > 1 && std::any_of(outcome.report.sites.begin(), outcome.report.sites.end(),
                                        [](const SiteReport& site) { return site.endless >= kMostEndless; });
  if (!outcome.report.ghost_used && !outcome.report.ghost_there && !endless) return outcome;
  if (endless)
    remark = "checks ran into the limit, so all were run again one after the other (without --jobs)";
  else if (arguments.jobs > 1)
    remark = "the checks keep ghost state, so they were run again one after the other (without --jobs)";
  outcome = check_from_start(arguments, whole, console);
  console.clear_progress();
  return outcome;
}

// A check's breakpoints are in the program's code, where the program may read them. What can be said of that
// after a divergence, or nothing.
std::string reads_own_code(const Arguments& arguments, Console& console) {
  console.warning(
      "the replay left the recording: once more without checks, to see whether it is their doing");
  ReplayOptions options = arguments.replay;
  options.output = nullptr;
  options.output_moved = nullptr;
  options.participants.clear();
  show_progress(options, console);
  try {
    replay(options);
  } catch (const Error&) {
    return {};
  }
  return "\n  without checks the replay is faithful: most likely the program reads its own code (to make a "
         "checksum, say), and found a breakpoint in the place of a VAssert. Leave those out that it reads, "
         "with "
         "--file, --function or --site";
}

int run(Arguments& arguments, Console& console) {
  take(arguments);
  Output output;
  CheckRun result;
  result.recording = arguments.replay.directory.string();
  result.machine = arguments.machine;
  result.jobs = arguments.jobs;
  const auto start = std::chrono::steady_clock::now();
  CheckOutcome outcome;
  try {
    result.meta = recording::read_meta(arguments.replay.directory);
    result.id = recording::recording_id(result.meta);
    outcome = check_all(arguments, result.remark, console);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::internal) throw;
    outcome.error = error.what();
    outcome.kind = error.kind();
  }
  int status = 0;
  console.clear_progress();
  if (outcome.kind == ErrorKind::divergence && !outcome.error.empty())
    outcome.error += reads_own_code(arguments, console);
  if (!outcome.error.empty()) {
    result.error = outcome.error;
    if (outcome.kind == ErrorKind::internal) fail(ErrorKind::internal, "{}", outcome.error);
    result.verdict = outcome.kind == ErrorKind::divergence ? "divergence" : "error";
    status = exit_status(outcome.kind);
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  console.clear_progress();
  result.report = std::move(outcome.report);
  if (status == 0) {
    status = any_failed(result.report) ? 1 : 0;
    result.verdict = status == 0 ? "held" : "failed";
    if (result.report.sites.empty() && result.report.found.size() != 0) {
      status = exit_status(ErrorKind::usage);
      result.verdict = "error";
      result.error = fmt::format("none of the {} VAsserts is wanted: see --file, --function and --site",
                                 human_count(result.report.found.size()));
    } else if (result.nothing_checked = nothing_checked(result.report);
               !result.nothing_checked.empty() && arguments.require_hits) {
      status = 1;
      result.verdict = "failed";
      result.error = "nothing was checked: " + result.nothing_checked;
    }
  }
  if (!arguments.html.empty()) write_page(arguments.html, check_html(result));
  if (arguments.json)
    output.json(check_json(result));
  else if (result.verdict != "error")
    write_text(result, output);
  output.flush();
  if (result.report.replay.truncated)
    console.warning(fmt::format("the recording has no end: {}", result.report.replay.truncation));
  for (const std::string& warning : unsupported_warnings(result.meta)) console.warning(warning);
  if (!result.error.empty())
    console.error(result.error);
  else if (!result.nothing_checked.empty())
    console.warning("nothing was checked: " + result.nothing_checked);
  return status;
}

}  // namespace

Command add_check(CLI::App& parent) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* app = parent.add_subcommand("check", "Replay a recording and evaluate its VAsserts");
  app->add_option("DIR", arguments->replay.directory, "The recording")->required()->type_name("");
  add_machine_option(*app, arguments->replay.machine);
  add_untrusted_flag(*app, arguments->replay.untrusted);
  app->add_option("--file", arguments->files, "Only VAsserts in source files like this")->type_name("GLOB");
  app->add_option("--function", arguments->functions, "Only VAsserts in functions like this")
      ->type_name("GLOB");
  app->add_option("--site", arguments->sites, "Only the VAssert there")->type_name("FILE:LINE");
  app->add_option("--hits", arguments->hits, "Which hits of each VAssert: N, N-M, \"first N\", \"every N\"")
      ->type_name("WHICH");
  app->add_flag("--no-plan{false}", arguments->check.plan,
                "Stop at every hit, even where the recording's PT trace could spare stops");
  CLI::Option* events =
      app->add_option("--events", arguments->events,
                      "Only hits after these events; the replay starts from the nearest checkpoint\n"
                      "before them and ends with them")
          ->type_name("A-B");
  app->add_option("--at", arguments->at, "Only the hit at this position, as reports name it")
      ->type_name("POSITION")
      ->excludes(events);
  app->add_option("--limit-failures", arguments->check.most_failures,
                  "Failures with details for each VAssert")
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--check-limit", arguments->limit_millions,
                  "Millions of instructions that one check may take")
      ->type_name("N")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 40).description(""))
      ->capture_default_str();
  app->add_option("--jobs", arguments->jobs,
                  "Processes that replay at once, each checking a part of the events")
      ->type_name("N")
      ->check(CLI::Range(1U, 256U).description(""))
      ->capture_default_str();
  app->add_flag("--require-hits", arguments->require_hits, "Fail if no hit of any VAssert was checked");
  CLI::Option* json = app->add_flag("--json", arguments->json, "Print the report as JSON");
  app->add_option("--html", arguments->html, "Write the report as a page for browsers too")
      ->type_name("FILE");
  app->add_flag("--show-output", arguments->show_output, "Show the program's output before the report")
      ->excludes(json);
  app->footer(
      "Each hit of a VAssert is evaluated on a throw-away copy of the program; the replay goes on as "
      "recorded.\n"
      "--file, --function and --site may be given several times.\n\n"
      "Examples:\n"
      "  aftercheck check recording-server-1\n"
      "  aftercheck check --html report.html --limit-failures 3 recording-server-1\n"
      "  aftercheck check --site server.c:42 --hits 'every 100' recording-server-1\n"
      "  aftercheck check --json recording-server-1 | jq '.sites[] | select(.failed > 0)'\n\n"
      "Exit status:\n"
      "  0   every VAssert held\n"
      "  1   one failed, or its check could not be completed; or none was hit, with --require-hits\n"
      "  3   divergence: the replay left the recording\n" +
      std::string(kExitStatusHelp));
  return {app,
          [arguments, app](Console& console) {
            const CLI::Option* machine = app->get_option("--machine");
            if (machine->count() != 0) arguments->machine = machine->as<std::string>();
            return run(*arguments, console);
          },
          nullptr};
}

}  // namespace aftercheck::tools
