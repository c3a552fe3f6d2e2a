#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>

#include "base/error.h"
#include "kvm-recorder/system_call_table.h"
#include "replay-engine/replayer.h"
#include "tools/command.h"
#include "tools/output.h"

namespace aftercheck::tools {
namespace {

struct Arguments {
  ReplayOptions options;
  bool no_output = false, json = false, verbose = false;
};

// Hands the guest's output on. A reader that goes away does not end the replay: its verdict is still wanted.
class GuestOutput {
 public:
  explicit GuestOutput(Console& console) : console_(console) {}
  void write(int stream, const std::byte* bytes, size_t size) {
    bool& gone = gone_.at(static_cast<size_t>(stream));
    if (gone) return;
    if (stream == STDERR_FILENO) console_.clear_progress();
    const int error = write_all(stream, bytes, size);
    if (error == EPIPE)
      gone = true;
    else if (error != 0)
      fail(ErrorKind::io, "the program's standard {} can't be written: {}",
           stream == STDOUT_FILENO ? "output" : "error", errno_text(error));
  }

 private:
  Console& console_;
  std::array<bool, 3> gone_{};
};

Json result_json(const ReplayResult& result, double seconds) {
  Json json;
  json["verdict"] = result.truncated ? "faithful-truncated" : "faithful";
  json["events"] = result.events;
  json["memory_digests"] = result.memory_digests;
  json["machine"] = name(result.machine);
  json["seconds"] = seconds;
  json["truncated"] = result.truncated;
  if (result.truncated)
    json["truncation"] = result.truncation;
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

void say(const ReplayResult& result, double seconds, Console& console) {
  if (result.truncated)
    console.warning(
        fmt::format("the recording has no end: {}; what is there, {} events, was replayed faithfully",
                    result.truncation, human_count(result.events)));
  else
    console.note(fmt::format("faithful: {} events and {} stretches of memory, in {} on {}; the program {} {}",
                             human_count(result.events), human_count(result.memory_digests),
                             human_time(seconds), name(result.machine),
                             result.signaled ? "was killed by signal" : "ended with status", result.status));
}

int run(Arguments& arguments, Console& console) {
  console.set_verbose(arguments.verbose);
  ReplayOptions& options = arguments.options;
  std::signal(SIGPIPE, SIG_IGN);
  GuestOutput guest_output(console);
  const bool shows_output = !arguments.no_output && !arguments.json;
  if (shows_output)
    options.output = [&](int stream, const std::byte* bytes, size_t size) {
      guest_output.write(stream, bytes, size);
    };
  options.system_call_name = system_call_name;
  // Output and progress on the same terminal would mix.
  if (!shows_output || isatty(STDOUT_FILENO) == 0)
    options.progress = [&](double share, uint64_t events) {
      console.progress(share, fmt::format("event {}", human_count(events)));
    };

  const auto start = std::chrono::steady_clock::now();
  Output output;
  try {
    const ReplayResult result = replay(options);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    console.clear_progress();
    if (arguments.json) output.json(result_json(result, took.count()));
    say(result, took.count(), console);
  } catch (const Divergence& divergence) {
    console.error(divergence.what());
    if (arguments.json) output.json(divergence_json(divergence));
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
  app->add_flag("-q,--no-output", arguments->no_output, "Do not show the program's output");
  app->add_flag("--json", arguments->json, "Print the verdict as JSON, and not the program's output");
  app->add_flag("-v,--verbose", arguments->verbose, "Say on standard error how it went");
  app->footer(
      "The program's output goes where the program wrote it: to standard output and standard error.\n"
      "A recording that was cut short is replayed as far as it goes, with a warning.\n\n"
      "Examples:\n"
      "  aftercheck replay recording-ls-1\n"
      "  aftercheck replay -q -v --machine soft recording-ls-1\n"
      "  aftercheck replay --json recording-ls-1 | jq .verdict\n\n"
      "Exit status:\n"
      "  0   faithful, however the program ended\n"
      "  3   divergence: the replay left the recording\n" +
      std::string(kExitStatusHelp));
  return {app, [arguments](Console& console) { return run(*arguments, console); }, nullptr};
}

}  // namespace aftercheck::tools
