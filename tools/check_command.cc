#include <unistd.h>

#include <chrono>
#include <csignal>

#include "base/error.h"
#include "checks/checker.h"
#include "replay-engine/replay.h"
#include "system-calls/system_call_names.h"
#include "tools/check_arguments.h"
#include "tools/check_jobs.h"
#include "tools/check_processes.h"
#include "tools/check_writers.h"
#include "tools/command.h"
#include "tools/one_process.h"
#include "tools/output.h"
#include "tools/replay_progress.h"
#include "tools/unsupported_text.h"

namespace aftercheck::tools {
namespace {

// The guest's output, before the report; null: it is not wanted.
ShowOutput shown_in(Output& output, const CheckArguments& arguments) {
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
  PartReplay(const CheckArguments& arguments, Console& console) : arguments_(arguments), console_(console) {}

  // Opens it, near the first event of the part; `from_start`: before the first event of the first process.
  // `show`: where the program's output goes in check().
  void open(EventSpan part, bool progress, ShowOutput show, bool from_start = false) {
    ReplayOptions options = arguments_.replay;
    const recording::Process& wanted = arguments_.wanted_process();
    entered_ = wanted.number == 0 || (!from_start && has_checkpoint(wanted, part.first));
    if (entered_) options.directory = wanted.directory;
    if (entered_ && !from_start) options.start_near = part.first;
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
    enter_process();
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
      if (!from_start) {
        skip_to(part);
        before = replay_->result();
      }
      replay_->attach(checker);
      attached.reset(&checker);
      enter_process();
      checking_ = true;
      // The last segment ends with the event after it.
      const Limit end{.event = part.last == UINT64_MAX ? UINT64_MAX : part.last + 1};
      const bool is_start = from_start || (part.first == 0 && arguments_.wanted_process().number == 0);
      const bool without_state = !is_start && checker.ghost_there();
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
  const CheckArguments& arguments_;
  Console& console_;
  ShowOutput show_;
  bool checking_ = false;
  bool entered_ = false;  // the process that is wanted
  std::optional<Replay> replay_;

  void enter_process() {
    if (entered_) return;
    enter(*replay_, arguments_.processes, arguments_.way);
    entered_ = true;
  }
};

CheckOutcome check_alone(const CheckArguments& arguments, EventSpan span, Console& console) {
  Output output;
  PartReplay part(arguments, console);
  part.open(span, true, shown_in(output, arguments));
  CheckOutcome outcome = part.check(span);
  output.flush();
  return outcome;
}

// All hits before the span are passed with their checks, for what they leave behind. `shows`: the program's
// output where that is wanted.
CheckOutcome check_from_start(const CheckArguments& arguments, EventSpan span, bool shows, Console& console) {
  PartReplay part(arguments, console);
  Output output;
  part.open({}, true, shows ? shown_in(output, arguments) : nullptr, true);
  CheckOutcome outcome = part.check(span, true);
  output.flush();
  return outcome;
}

// Each job starts from the kept checkpoint before its part. Where there is none, this process replays without
// checking, and every job is a fork of it.
CheckOutcome check_in_jobs(const CheckArguments& arguments, EventSpan span, Console& console) {
  const std::vector<Part> parts = split_events(arguments.wanted_process().directory, span, arguments.jobs);
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

CheckOutcome check_all(CheckArguments& arguments, std::string& remark, Console& console) {
  const EventSpan whole{arguments.check.first_event, arguments.check.last_event};
  const bool is_child = arguments.wanted_process().number != 0;
  // What its parent's checks have left is there when a child begins.
  if (arguments.jobs == 1 && whole.first == 0 && is_child)
    return check_from_start(arguments, whole, true, console);
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
  outcome = check_from_start(arguments, whole, false, console);
  console.clear_progress();
  return outcome;
}

// The replay without checks, of the process in this place of the list.
void replay_unchecked(const CheckArguments& arguments, size_t place, Console& console) {
  ReplayOptions options = arguments.replay;
  show_progress(options, console);
  Replay replay(options);
  enter(replay, arguments.processes,
        recording::way_to(arguments.processes, arguments.processes[place].number));
  replay.advance();
}

// A check's breakpoints are in the program's code, where the program may read them. What can be said of that
// after a divergence, or nothing.
std::string reads_own_code(const CheckArguments& arguments, size_t place, Console& console) {
  console.warning(
      "the replay left the recording: once more without checks, to see whether it is their doing");
  try {
    replay_unchecked(arguments, place, console);
  } catch (const Error&) {
    return {};
  }
  console.clear_progress();
  return "\n  without checks the replay is faithful: most likely the program reads its own code (to make a "
         "checksum, say), and found a breakpoint in the place of a VAssert. Leave those out that it reads, "
         "with "
         "--file, --function or --site";
}

CheckedProcess describe(const recording::Process& process, const CheckOutcome& outcome) {
  CheckedProcess checked;
  checked.process = process;
  checked.several_threads = outcome.report.several_threads;
  checked.truncated = outcome.report.replay.truncated;
  checked.events = outcome.report.replay.events;
  checked.error = outcome.error;
  for (const SiteReport& site : outcome.report.sites) {
    checked.hits += site.hits;
    checked.checked += site.checked;
    checked.failures += site.failed + site.broken;
  }
  if (!outcome.error.empty())
    checked.verdict = outcome.kind == ErrorKind::divergence ? "divergence" : "error";
  else
    checked.verdict = any_failed(outcome.report) ? "failed" : "held";
  return checked;
}

// All of them, or with all of them the one that is wanted. The worst is the whole recording's: a divergence
// before all, then the first error.
CheckOutcome check_at_once(CheckArguments& arguments, CheckRun& result, Console& console) {
  ReplayOptions options = arguments.replay;
  options.warning = [&console](const std::string& text) { console.warning(text); };
  show_progress(options, console);
  ShowOutput show;
  if (arguments.show_output)
    show = [](int stream, const std::byte* bytes, size_t size) { write_all(stream, bytes, size); };
  std::vector<ProcessOutcome> outcomes = check_processes(arguments.processes, options, arguments.check, show);
  console.clear_progress();
  CheckOutcome all;
  for (size_t i = 0; i < outcomes.size(); ++i) {
    if (!arguments.all_processes() && i != arguments.way.back()) {
      outcomes[i] = {};
      continue;
    }
    const recording::Process& process = arguments.processes[i];
    CheckOutcome& outcome = outcomes[i].outcome;
    if (!outcome.error.empty() && outcome.kind == ErrorKind::divergence)
      outcome.error += reads_own_code(arguments, i, console);
    CheckedProcess& checked = result.processes.emplace_back(describe(process, outcome));
    if (outcomes[i].state == ProcessReplays::State::unreached) checked.verdict = "unreached";
    const bool worse =
        !outcome.error.empty() &&
        (all.error.empty() || (outcome.kind == ErrorKind::divergence && all.kind != outcome.kind));
    if (!worse) continue;
    all.error = process_name(process) + ": " + outcome.error;
    all.kind = outcome.kind;
  }
  all.report = join_processes(outcomes, arguments.check);
  return all;
}

// Where only one of several is checked, results name it all the same.
CheckOutcome check_wanted(CheckArguments& arguments, CheckRun& result, Console& console) {
  if (arguments.all_processes()) return check_at_once(arguments, result, console);
  if (arguments.processes.size() > 1 && shares_memory(arguments.processes, arguments.way)) {
    if (arguments.jobs > 1)
      result.remark =
          "the process shares memory with others, so all were replayed beside each other (without --jobs)";
    return check_at_once(arguments, result, console);
  }
  CheckOutcome outcome = check_all(arguments, result.remark, console);
  if (!outcome.error.empty() && outcome.kind == ErrorKind::divergence)
    outcome.error += reads_own_code(arguments, arguments.way.back(), console);
  if (arguments.processes.size() > 1)
    result.processes.push_back(describe(arguments.wanted_process(), outcome));
  return outcome;
}

// What the report does not say, or says too far up.
void warn(const CheckRun& run, Console& console) {
  if (run.processes.empty()) {
    if (run.report.replay.truncated)
      console.warning(fmt::format("the recording has no end: {}", run.report.replay.truncation));
    for (const std::string& warning : unsupported_warnings(run.meta)) console.warning(warning);
  }
  for (const CheckedProcess& one : run.processes) {
    const std::string name = process_name(one.process);
    if (one.verdict == "unreached")
      console.warning(
          fmt::format("{} was not checked: its parent's replay did not come to where it begins", name));
    if (one.truncated) console.warning(fmt::format("{}: the recording has no end", name));
    for (const std::string& warning : unsupported_warnings(one.process.meta))
      console.warning(fmt::format("{}: {}", name, warning));
    if (!one.error.empty() && run.processes.size() > 1) console.error(fmt::format("{}: {}", name, one.error));
  }
}

// Of a replay that was faithful: what came of the checks. Gives the exit status.
int judge(const CheckArguments& arguments, CheckRun& result, Console& console) {
  const int status = any_failed(result.report) ? 1 : 0;
  result.verdict = status == 0 ? "held" : "failed";
  if (result.report.sites.empty() && !result.report.found.empty()) {
    result.verdict = "error";
    result.error = fmt::format("none of the {} VAsserts is wanted: see --file, --function and --site",
                               human_count(result.report.found.size()));
    return exit_status(ErrorKind::usage);
  }
  for (const std::string& useless : useless_patterns(arguments, result.report.found))
    console.warning(useless);
  result.nothing_checked = nothing_checked(result.report);
  if (result.nothing_checked.empty() || !arguments.require_hits) return status;
  result.verdict = "failed";
  result.error = "nothing was checked: " + result.nothing_checked;
  return 1;
}

int run(CheckArguments& arguments, Console& console) {
  take(arguments);
  Output output;
  CheckRun result;
  result.recording = arguments.replay.directory.string();
  result.machine = arguments.machine;
  result.jobs = arguments.jobs;
  const auto start = std::chrono::steady_clock::now();
  CheckOutcome outcome;
  try {
    take_processes(arguments);
    result.meta = arguments.wanted_process().meta;
    result.id = recording::recording_id(result.meta);
    outcome = check_wanted(arguments, result, console);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::internal) throw;
    outcome.error = error.what();
    outcome.kind = error.kind();
  }
  console.clear_progress();
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.report = std::move(outcome.report);
  int status = 0;
  if (outcome.error.empty()) {
    status = judge(arguments, result, console);
  } else {
    result.error = outcome.error;
    if (outcome.kind == ErrorKind::internal) fail(ErrorKind::internal, "{}", outcome.error);
    result.verdict = outcome.kind == ErrorKind::divergence ? "divergence" : "error";
    status = exit_status(outcome.kind);
  }
  if (!arguments.html.empty()) write_page(arguments.html, check_html(result));
  // What the other processes' checks came to is told though one could not be replayed.
  const bool others = result.processes.size() > 1 && !outcome.error.empty();
  if (arguments.json)
    output.json(check_json(result));
  else if (result.verdict != "error" || others)
    write_text(result, output);
  output.flush();
  warn(result, console);
  if (!result.error.empty() && !others)
    console.error(result.error);
  else if (!result.nothing_checked.empty())
    console.warning("nothing was checked: " + result.nothing_checked);
  return status;
}

}  // namespace

Command add_check(CLI::App& parent) {
  auto arguments = std::make_shared<CheckArguments>();
  CLI::App* app = parent.add_subcommand("check", "Replay a recording and evaluate its VAsserts");
  app->add_option("DIR", arguments->replay.directory, "The recording")->required()->type_name("");
  add_machine_option(*app, arguments->replay.machine);
  add_untrusted_flag(*app, arguments->replay.untrusted);
  app->add_option("--process", arguments->process,
                  "One process of the recording only, by its number in `aftercheck info`\n"
                  "(default: all, beside each other; 0 is the first)")
      ->type_name("N");
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
      "--file, --function and --site may be given several times.\n"
      "Of a recording with child processes that is done in all of them.\n\n"
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
