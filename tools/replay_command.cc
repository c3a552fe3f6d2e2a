#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <memory>
#include <optional>

#include "base/error.h"
#include "pt-replay/pt_check.h"
#include "recording/processes.h"
#include "recording/pt_log.h"
#include "replay-engine/replay.h"
#include "system-calls/system_call_names.h"
#include "tools/command.h"
#include "tools/one_process.h"
#include "tools/output.h"
#include "tools/process_replays.h"
#include "tools/replay_progress.h"
#include "tools/unsupported_text.h"

namespace aftercheck::tools {
namespace {

enum class PtUse : uint8_t { automatic, off, soft };

struct Arguments {
  ReplayOptions options;
  PtUse pt = PtUse::automatic;
  std::string from, to;
  std::optional<uint32_t> process;
  std::optional<recording::Position> first, last;  // of them
  bool no_output = false, json = false, verbose = false;
};

// Hands the guest's output on. A reader that goes away does not end the replay: its verdict is still wanted.
// Where the program moved in its output, a regular file, so does this if it has one, too.
class GuestOutput {
 public:
  // `in_order`: not all of the output is shown, so that its places mean nothing.
  GuestOutput(Console& console, bool in_order) : console_(console) {
    struct stat status {};
    for (const int stream : {STDOUT_FILENO, STDERR_FILENO})
      if (!in_order && fstat(stream, &status) == 0 && S_ISREG(status.st_mode) &&
          (fcntl(stream, F_GETFL) & O_APPEND) == 0)
        base_.at(static_cast<size_t>(stream)) = lseek(stream, 0, SEEK_CUR);
  }
  void write(int stream, const std::byte* bytes, size_t size) {
    bool& gone = gone_.at(static_cast<size_t>(stream));
    if (gone) return;
    if (stream == STDERR_FILENO) console_.clear_progress();
    const int error = write_all(stream, bytes, size);
    if (error == EPIPE)
      gone = true;
    else if (error != 0)
      fail(ErrorKind::io, "the program's standard {} can't be written: {}", name(stream), errno_text(error));
  }
  void move(const recording::OutputStep& step) {
    const int64_t base = base_.at(step.stream);
    int64_t to = 0;
    const bool valid = base >= 0 && !__builtin_add_overflow(base, step.offset, &to) && to >= 0;
    const bool seek = step.kind == recording::OutputStepKind::seek;
    if (valid && (seek ? lseek(step.stream, to, SEEK_SET) == to : ftruncate(step.stream, to) == 0)) return;
    if (told_.at(step.stream)) return;
    told_.at(step.stream) = true;
    console_.warning(fmt::format(
        "the program's standard {} was a file in which it moved (lseek, pwrite, ftruncate); what it "
        "wrote comes here in the order in which it wrote it. For the file as it was, replay from "
        "the start into a file that is not opened for appending",
        name(step.stream)));
  }

 private:
  Console& console_;
  std::array<bool, 3> gone_{}, told_{};
  std::array<int64_t, 3> base_{-1, -1, -1};  // where the streams stood before the replay; -1: can't seek

  static const char* name(int stream) { return stream == STDOUT_FILENO ? "output" : "error"; }
};

// Compares branches with the process's trace where that is wanted and there is one; from begin() on, where
// the replay goes through other processes' logs first.
std::unique_ptr<PtCheck> make_pt_check(Arguments& arguments, const std::filesystem::path& directory,
                                       bool waits) {
  if (arguments.pt == PtUse::off) return nullptr;
  const bool required = arguments.pt == PtUse::soft;
  arguments.options.control_flow = required;
  if (recording::pt_threads(directory).empty()) {
    if (!required) return nullptr;
    fail(ErrorKind::usage, "{}: the recording has no PT trace; add one with `aftercheck pt synth`",
         directory.string());
  }
  return std::make_unique<PtCheck>(PtCheck::Options{directory, 0, required, waits});
}

Json pt_json(const PtCheck* check) {
  if (check == nullptr || !check->result().active) return nullptr;
  const PtCheck::Result& result = check->result();
  return {{"segments", result.compared},
          {"branches", result.branches},
          {"unverified", result.unverified},
          {"reason", result.unverified == 0 ? Json(nullptr) : Json(result.reason)}};
}

void say(const PtCheck& check, Console& console) {
  const PtCheck::Result& result = check.result();
  if (!result.active) {
    console.note(
        "the recording's PT trace was not used: KVM does not tell the guest's branches (--pt soft replays "
        "elsewhere)");
    return;
  }
  console.note(fmt::format("the branches of {} segments are those of the PT trace: {} branches",
                           human_count(result.compared), human_count(result.branches)));
  if (result.unverified != 0)
    console.warning(fmt::format("the branches of {} segments could not be compared with the PT trace: {}",
                                human_count(result.unverified), result.reason));
}

// Where the replay stopped, if that was not the recording's end.
struct Reached {
  recording::Position position;
  Registers registers;
};

Json result_json(const ReplayResult& result, const std::optional<Reached>& reached, const PtCheck* check,
                 double seconds) {
  Json json;
  json["verdict"] = reached ? "faithful-so-far" : result.truncated ? "faithful-truncated" : "faithful";
  json["events"] = result.events;
  json["memory_digests"] = result.memory_digests;
  json["machine"] = name(result.machine);
  json["pt"] = pt_json(check);
  json["seconds"] = seconds;
  json["checkpoint"] = result.checkpoint ? Json(*result.checkpoint) : Json(nullptr);
  json["truncated"] = result.truncated;
  if (reached) {
    json["position"] = to_text(reached->position);
    const RegisterWords words = to_words(reached->registers);
    for (size_t i = 0; i < words.size(); ++i)
      json["registers"][kRegisterNames[i]] = fmt::format("{:#x}", words[i]);
  } else if (result.truncated)
    json["truncation"] = result.truncation;
  else if (result.stopped)
    json["end"] = {{"stopped_at", system_call_name(static_cast<uint64_t>(result.status))}};
  else
    json["end"] = {{result.signaled ? "signal" : "exit_status", result.status}};
  return json;
}

Json divergence_json(const Divergence& divergence) {
  return {{"verdict", "divergence"},
          {"event", divergence.event()},
          {"expected", divergence.expected()},
          {"actual", divergence.actual()},
          {"detail", divergence.detail()}};
}

void say(const ReplayResult& result, const std::optional<Reached>& reached, double seconds,
         Console& console) {
  if (reached)
    console.note(
        fmt::format("stopped at {}; faithful so far: {} events and {} stretches of memory, in {} on {}",
                    to_text(reached->position), human_count(result.events),
                    human_count(result.memory_digests), human_time(seconds), name(result.machine)));
  else if (result.truncated)
    console.warning(
        fmt::format("the recording has no end: {}; what is there, {} events, was replayed faithfully",
                    result.truncation, human_count(result.events)));
  else
    console.note(fmt::format("faithful: {} events and {} stretches of memory, in {} on {}; the program {} {}",
                             human_count(result.events), human_count(result.memory_digests),
                             human_time(seconds), name(result.machine),
                             result.stopped    ? "was ended at"
                             : result.signaled ? "was killed by signal"
                                               : "ended with status",
                             result.stopped ? system_call_name(static_cast<uint64_t>(result.status))
                                            : std::to_string(result.status)));
}

Json outcome_json(const recording::Process& process, const ProcessReplays::Outcome& outcome) {
  using State = ProcessReplays::State;
  Json json;
  json["process"] = process.number;
  json["pid"] = process.meta.process_id;
  if (process.meta.parent)
    json["parent"] = {{"process", process.meta.parent->process}, {"event", process.meta.parent->event}};
  json["command"] = process.meta.command;
  json["verdict"] = outcome.state == State::unreached  ? "unreached"
                    : outcome.state == State::diverged ? "divergence"
                    : outcome.state == State::failed   ? "error"
                    : outcome.truncated                ? "faithful-truncated"
                                                       : "faithful";
  json["events"] = outcome.events;
  json["memory_digests"] = outcome.memory_digests;
  if (!outcome.message.empty()) json["message"] = outcome.message;
  if (outcome.state != State::faithful || outcome.truncated) return json;
  if (outcome.stopped)
    json["end"] = {{"stopped_at", system_call_name(static_cast<uint64_t>(outcome.status))}};
  else
    json["end"] = {{outcome.signaled ? "signal" : "exit_status", outcome.status}};
  return json;
}

// The whole recording's: the worst of its processes'. Sets `status` to this program's.
const char* verdict_of(const std::vector<ProcessReplays::Outcome>& outcomes, int& status) {
  using State = ProcessReplays::State;
  bool truncated = false;
  for (const ProcessReplays::Outcome& outcome : outcomes) {
    if (outcome.state == State::diverged) {
      status = outcome.status;
      return "divergence";
    }
    if (outcome.state == State::failed && status == 0) status = outcome.status;
    truncated = truncated || outcome.truncated || outcome.state == State::unreached;
  }
  return status != 0 ? "error" : truncated ? "faithful-truncated" : "faithful";
}

// Of all processes but the first: what is not as it should be.
void say(const std::vector<recording::Process>& processes,
         const std::vector<ProcessReplays::Outcome>& outcomes, Console& console) {
  using State = ProcessReplays::State;
  for (size_t i = 0; i < processes.size(); ++i) {
    const ProcessReplays::Outcome& outcome = outcomes[i];
    const std::string name = process_name(processes[i]);
    if (outcome.state == State::unreached)
      console.warning(
          fmt::format("{} was not replayed: its parent's replay did not come to where it begins", name));
    else if (outcome.state == State::faithful && outcome.truncated)
      console.warning(
          fmt::format("{}: the recording has no end: {}; what is there, {} events, was replayed faithfully",
                      name, outcome.message, human_count(outcome.events)));
  }
}

int replay_all(const Arguments& arguments, Replay& replay, ProcessReplays& replays,
               const std::vector<recording::Process>& processes, Console& console) {
  const auto start = std::chrono::steady_clock::now();
  replays.run(replay);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  const std::vector<ProcessReplays::Outcome> outcomes = replays.outcomes();
  int status = 0;
  const char* const verdict = verdict_of(outcomes, status);
  uint64_t events = 0;
  for (const ProcessReplays::Outcome& outcome : outcomes) events += outcome.events;
  if (arguments.json) {
    Json json = outcome_json(processes[0], outcomes[0]);
    json["verdict"] = verdict;
    json["machine"] = name(replay.guest().machine().kind());
    json["seconds"] = took.count();
    add_unsupported(processes[0].meta, json);
    for (size_t i = 0; i < processes.size(); ++i)
      json["processes"].push_back(outcome_json(processes[i], outcomes[i]));
    Output output;
    output.json(json);
    output.flush();
  }
  say(processes, outcomes, console);
  for (const recording::Process& process : processes)
    for (const std::string& warning : unsupported_warnings(process.meta))
      console.warning(process.number == 0 ? warning : fmt::format("{}: {}", process_name(process), warning));
  if (status == 0)
    console.note(fmt::format("{}: {} processes, {} events, in {} on {}", verdict, processes.size(),
                             human_count(events), human_time(took.count()),
                             name(replay.guest().machine().kind())));
  return status;
}

// What a position says, and the folder if it is a child's, is --process said in other words.
void take_process(Arguments& arguments) {
  choose_by_folder(arguments.process, arguments.options.directory);
  if (arguments.first)
    choose_process(arguments.process, arguments.first->process, "position " + arguments.from);
  if (arguments.last) choose_process(arguments.process, arguments.last->process, "position " + arguments.to);
}

void take_positions(Arguments& arguments) {
  if (!arguments.from.empty()) {
    arguments.first = recording::parse_position(arguments.from);
    arguments.options.start_near = arguments.first->event;
  }
  if (!arguments.to.empty()) arguments.last = recording::parse_position(arguments.to);
  if (arguments.first && arguments.last && arguments.last->event < arguments.first->event)
    fail(ErrorKind::usage, "--to {} lies before --from {}", arguments.to, arguments.from);
}

// A position that is only an event is reached with the answer to it, whichever continuations that has.
Limit limit_of(const recording::Position& position, const recording::Meta& meta) {
  check_belongs(position, meta);
  Limit limit;
  if (std::holds_alternative<std::monostate>(position.instant))
    limit.event = position.event;
  else
    limit.position = position;
  return limit;
}

// To the end or to --to. `shown` is true from --from on.
std::optional<Reached> go(const Arguments& arguments, Replay& replay, bool& shown) {
  const auto advance = [&](const recording::Position& position) {
    if (replay.advance(limit_of(position, replay.meta())).why == Stop::Why::end)
      fail(ErrorKind::usage, "position {}: the recording ends before it, after event {}", to_text(position),
           replay.position().event);
    check_thread(position, replay.guest().running().number());
  };
  if (arguments.first) {
    shown = false;
    advance(*arguments.first);
    shown = true;
  }
  if (!arguments.last) {
    replay.advance();
    return std::nullopt;
  }
  advance(*arguments.last);
  return Reached{replay.position(), replay.guest().running().registers()};
}

int run(Arguments& arguments, Console& console) {
  console.set_verbose(arguments.verbose);
  ReplayOptions& options = arguments.options;
  std::signal(SIGPIPE, SIG_IGN);
  take_positions(arguments);
  take_process(arguments);
  const std::vector<recording::Process> processes = recording::read_processes(options.directory);
  const std::vector<size_t> way = recording::way_to(processes, arguments.process.value_or(0));
  const bool shows_output = !arguments.no_output && !arguments.json;
  GuestOutput guest_output(console, !arguments.from.empty());
  bool shown = true;              // not before --from
  ProcessReplays* all = nullptr;  // replayed beside each other
  if (shows_output)
    options.output = [&](int stream, const std::byte* bytes, size_t size) {
      if (all != nullptr && arguments.process && all->own() != way.back()) return;
      if (all != nullptr) all->wait_for_turn();
      if (shown) guest_output.write(stream, bytes, size);
    };
  if (shows_output)
    options.output_moved = [&](const recording::OutputStep& step) {
      if (all != nullptr && arguments.process && all->own() != way.back()) return;
      if (all != nullptr) all->wait_for_turn();
      if (shown) guest_output.move(step);
    };
  options.warning = [&](const std::string& text) { console.warning(text); };
  options.system_call_name = system_call_name;
  const bool shares = processes.size() > 1 && shares_memory(processes, way);
  if (shares && (arguments.first || arguments.last))
    fail(ErrorKind::usage,
         "process {} shares memory with others, and is replayed with them from the start to the end: without "
         "--from and --to",
         processes[way.back()].number);
  const bool shows_all = processes.size() > 1 && (!arguments.process || shares);
  const recording::Process& wanted = processes[way.back()];
  // Output and progress on the same terminal would mix.
  if (!shows_all && (!shows_output || isatty(STDOUT_FILENO) == 0)) show_progress(options, console);

  const auto start = std::chrono::steady_clock::now();
  Output output;
  recording::Meta meta;
  const auto say_warnings = [&] {
    for (const std::string& warning : unsupported_warnings(meta)) console.warning(warning);
  };
  try {
    meta = wanted.meta;
    if (shows_all) {
      if (arguments.pt == PtUse::soft)
        fail(ErrorKind::usage, "--pt soft compares one process with its trace: say which with --process");
      ProcessReplays replays(processes, [&](size_t place, const ProcessReplays::Failure* failure) {
        if (failure == nullptr) return;
        console.error(place == 0 ? failure->message
                                 : process_name(processes[place]) + ": " + failure->message);
      });
      options.participants.push_back(&replays);
      options.sharing = &replays;
      Replay replay(options);
      all = &replays;
      return replay_all(arguments, replay, replays, processes, console);
    }
    const bool from_checkpoint = wanted.number != 0 && has_checkpoint(wanted, options.start_near);
    const bool enters = wanted.number != 0 && !from_checkpoint;
    const std::unique_ptr<PtCheck> check = make_pt_check(arguments, wanted.directory, enters);
    if (check) options.participants.push_back(check.get());
    if (from_checkpoint) options.directory = wanted.directory;
    if (enters) options.start_near = 0;
    Replay replay(options);
    if (enters) {
      shown = false;
      enter(replay, processes, way);
      shown = true;
      if (check) check->begin();
    }
    const std::optional<Reached> reached = go(arguments, replay, shown);
    const ReplayResult& result = replay.result();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    console.clear_progress();
    if (arguments.json) {
      Json json = result_json(result, reached, check.get(), took.count());
      add_unsupported(meta, json);
      output.json(json);
    }
    say(result, reached, took.count(), console);
    say_warnings();
    if (check) say(*check, console);
  } catch (const Divergence& divergence) {
    console.error(divergence.what());
    say_warnings();
    if (arguments.json) {
      Json json = divergence_json(divergence);
      add_unsupported(meta, json);
      output.json(json);
    }
    output.flush();
    return exit_status(divergence.kind());
  } catch (const Error& error) {
    console.clear_progress();
    if (arguments.json) output.json({{"verdict", "error"}, {"message", error.what()}});
    output.flush();
    throw;
  }
  output.flush();
  return 0;
}

}  // namespace

Command add_replay(CLI::App& parent) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* app = parent.add_subcommand("replay", "Run a recorded program again and verify every step");
  app->add_option("DIR", arguments->options.directory, "The recording")->required()->type_name("");
  add_machine_option(*app, arguments->options.machine);
  add_untrusted_flag(*app, arguments->options.untrusted);
  app->add_option_function<std::string>(
         "--pt",
         [arguments](const std::string& word) {
           arguments->pt = word == "soft" ? PtUse::soft : word == "off" ? PtUse::off : PtUse::automatic;
         },
         "Compare all branches with the recording's PT trace. auto: where it has one and\n"
         "the machine tells branches, as all but KVM do; soft: nothing less will do")
      ->check(CLI::IsMember({"auto", "off", "soft"}).description(""))
      ->type_name("auto|off|soft")
      ->default_str("auto");
  app->add_option("--process", arguments->process,
                  "One process of the recording only, by its number in `aftercheck info`\n"
                  "(default: all, beside each other; 0 is the first)")
      ->type_name("N");
  app->add_option("--from", arguments->from,
                  "Show the program's output from this event or position on, and start from the\n"
                  "nearest checkpoint before it")
      ->type_name("POSITION");
  app->add_option("--to", arguments->to, "Stop there")->type_name("POSITION");
  app->add_flag("-q,--no-output", arguments->no_output, "Do not show the program's output");
  app->add_flag("--json", arguments->json, "Print the verdict as JSON, and not the program's output");
  app->add_flag("-v,--verbose", arguments->verbose, "Say on standard error how it went");
  app->footer(
      "The program's output goes where the program wrote it: to standard output and standard error.\n"
      "A recording that was cut short is replayed as far as it goes, with a warning.\n\n"
      "Examples:\n"
      "  aftercheck replay recording-ls-1\n"
      "  aftercheck replay -q -v --machine soft recording-ls-1\n"
      "  aftercheck replay --json recording-ls-1 | jq .verdict\n"
      "  aftercheck replay --from 120000 recording-server-1\n"
      "  aftercheck replay -v --to e1234+0x401136#3 recording-server-1\n\n"
      "A position is an event's number, or what other commands print: e1234, or e1234+0xADDRESS#N for the\n"
      "Nth time that the program comes to the instruction there after event 1234.\n\n"
      "Of a recording with child processes that replays all of them; p3.e1234 is a position in process 3.\n\n"
      "Exit status:\n"
      "  0   faithful, however the program ended; with --to: up to there\n"
      "  3   divergence: the replay left the recording\n" +
      std::string(kExitStatusHelp));
  return {app, [arguments](Console& console) { return run(*arguments, console); }, nullptr};
}

}  // namespace aftercheck::tools
