#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <optional>
#include <random>
#include <system_error>

#include "base/error.h"
#include "kvm-recorder/recorder.h"
#include "tools/command.h"
#include "tools/duration.h"
#include "tools/unsupported_text.h"

namespace aftercheck::tools {
namespace {

namespace fs = std::filesystem;

// The program's own words are not the parser's, so its usage line would lack them.
class Help : public CLI::Formatter {
 public:
  std::string make_usage(const CLI::App*, std::string) const override {
    return "Usage: aftercheck record [OPTIONS] [--] PROGRAM [ARGUMENT...]\n";
  }
};

struct Arguments {
  RecordOptions options;
  bool verbose = false;
  std::string chaos;  // as it was written; "random" without a seed; or empty
};

std::optional<uint64_t> chaos_seed(const std::string& text) {
  if (text.empty() || text == "false") return std::nullopt;
  if (text == "random" || text == "true") return std::random_device{}();
  uint64_t seed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  if (error != std::errc() || end != text.data() + text.size())
    fail(ErrorKind::usage, "--chaos={}: a seed is a decimal number below 2^64", text);
  return seed;
}

// The directory of the recording, made before the guest starts; taken away again when it is still empty.
class Directory {
 public:
  explicit Directory(fs::path wanted, const std::string& program) : path_(std::move(wanted)) {
    if (path_.empty()) {
      claim_free_name(program);
    } else {
      std::error_code error;
      made_ = !fs::exists(path_, error);
    }
  }
  ~Directory() {
    if (made_) rmdir(path_.c_str());
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  bool made_ = false;

  // recording-PROGRAM-N under the working directory. mkdir decides, so two recordings never get the same one.
  void claim_free_name(const std::string& program) {
    const std::string stem = "recording-" + fs::path(program).filename().string() + "-";
    constexpr unsigned kMost = 1'000'000;
    for (unsigned number = 1; number < kMost; ++number) {
      path_ = stem + std::to_string(number);
      if (mkdir(path_.c_str(), 0777) == 0) {
        made_ = true;
        return;
      }
      if (errno != EEXIST)
        fail(ErrorKind::io, "{}: can't be made here: {}; say where with -o", path_.string(),
             errno_text(errno));
    }
    fail(ErrorKind::io, "{}N: no free number; say where with -o", stem);
  }
};

std::vector<std::string> environment_of_process() {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) result.emplace_back(*entry);
  return result;
}

// Ends this process as the guest ended, so that shells and wait(2) see the same.
[[noreturn]] void die_of(int signal) {
  // Whether there is a core file wait(2) tells. It would show the recorder, not the guest, so there is no
  // more of it than the kernel wants for a file at all (fs/coredump.c; min_coredump is ELF_EXEC_PAGESIZE).
  constexpr rlim_t kLeast = 4096;
  rlimit core{};
  getrlimit(RLIMIT_CORE, &core);
  core.rlim_cur = std::min(core.rlim_cur, kLeast);
  setrlimit(RLIMIT_CORE, &core);
  std::signal(signal, SIG_DFL);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  sigprocmask(SIG_UNBLOCK, &set, nullptr);
  raise(signal);
  _exit(128 + signal);  // what shells make of it
}

// The console's messages while the program runs.
class HeldMessages {
 public:
  explicit HeldMessages(Console& console) : console_(console) { console_.hold_while_terminal_is_used(); }
  ~HeldMessages() { console_.release(); }
  HeldMessages(const HeldMessages&) = delete;
  HeldMessages& operator=(const HeldMessages&) = delete;

 private:
  Console& console_;
};

// Whoever records must learn of these wherever standard error leads: the program did not do what it would do
// natively.
void say_unsupported(const RecordResult& result, const fs::path& directory, Console& console) {
  recording::Meta meta;
  meta.answered_calls = result.answered_calls;
  for (const std::string& warning : unsupported_warnings(meta)) console.warning(warning);
  if (!result.unsupported.empty())
    console.error(printable(fmt::format("{} (status {}; {} replays up to it)", result.unsupported,
                                        result.status, directory.string())));
}

// This is the recorder of a child: nothing of the command's own is to be done here, which its parent will do.
[[noreturn]] void end_child(const RecordResult& result, const RecordOptions& options, Console& console) {
  console.release();
  if (!result.log_error.empty())
    console.error(fmt::format("the recording of process {} in {} is incomplete: {}", result.process,
                              options.directory.string(), result.log_error));
  say_unsupported(result, options.directory, console);
  if (result.signaled) die_of(result.status);
  _exit(result.status);
}

int run(Arguments& arguments, Console& console) {
  RecordOptions& options = arguments.options;
  console.set_verbose(arguments.verbose);
  console.leave_standard_error_to_guest();
  if (options.command.empty()) fail(ErrorKind::usage, "no program to record; see `aftercheck record --help`");
  options.environment = environment_of_process();
  options.chaos = chaos_seed(arguments.chaos);
  if (options.chaos) console.note(fmt::format("--chaos={}", *options.chaos));
  options.message = [&console](const std::string& text) { console.note(text); };
  options.warning = [&console](const std::string& text) { console.warning(text); };

  options.end_child = [&](const RecordResult& result) { end_child(result, options, console); };

  RecordResult result;
  {
    const Directory directory(options.directory, options.command[0]);
    options.directory = directory.path();
    const auto start = std::chrono::steady_clock::now();
    {
      const HeldMessages held(console);
      result = record(options);
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (!result.log_error.empty())
      console.error(
          fmt::format("the recording in {} is incomplete: {}", directory.path().string(), result.log_error));
    else if (options.write_log)
      console.note(fmt::format("recorded {} events in {} on {}: {}", human_count(result.events),
                               human_time(took.count()), name(result.machine), directory.path().string()));
    else
      console.note(fmt::format("ran without a log: {} events in {} on {}", human_count(result.events),
                               human_time(took.count()), name(result.machine)));
    say_unsupported(result, directory.path(), console);
  }
  if (result.signaled) die_of(result.status);
  return result.status;
}

}  // namespace

Command add_record(CLI::App& parent) {
  auto arguments = std::make_shared<Arguments>();
  auto program = std::shared_ptr<std::vector<std::string>>(arguments, &arguments->options.command);
  RecordOptions& options = arguments->options;
  CLI::App* app = parent.add_subcommand("record", "Run a program and record the run");
  app->formatter(std::make_shared<Help>());
  app->add_option("-o,--output", options.directory,
                  "Where the recording goes: a directory that does not exist or is empty\n"
                  "(default: recording-PROGRAM-N in the working directory)")
      ->type_name("DIR");
  app->add_option("--store", options.store,
                  "Keep the files that the program maps in DIR, once for all recordings that name it\n"
                  "(default: in the recording)")
      ->type_name("DIR");
  add_machine_option(*app, options.machine);
  app->add_option_function<std::string>(
         "--cpu",
         [&options](const std::string& word) {
           options.cpu = cpu_model_named(word).value_or(CpuModelKind::portable);
         },
         "The processor that the guest sees: portable replays everywhere, v3 (x86-64-v3: AVX2)\n"
         "where the processor has that and not on the soft vCPU, host only on its like")
      ->check(CLI::IsMember({"portable", "v3", "host"}).description(""))
      ->type_name("portable|v3|host")
      ->default_str("portable");
  app->add_option_function<std::string>(
         "--pt",
         [&options](const std::string& word) {
           static const std::map<std::string, PtChoice> kChoices = {{"auto", PtChoice::automatic},
                                                                    {"off", PtChoice::off},
                                                                    {"perf", PtChoice::perf},
                                                                    {"soft", PtChoice::soft}};
           options.pt = kChoices.at(word);
         },
         "An Intel PT trace beside the log: perf by the processor, soft by the encoder, of\n"
         "what any machine but KVM tells, or auto: perf where it works")
      ->check(CLI::IsMember({"auto", "off", "perf", "soft"}).description(""))
      ->type_name("auto|off|perf|soft")
      ->default_str("auto");
  app->add_option_function<std::string>(
         "--on-log-error",
         [&options](const std::string& word) {
           options.on_log_error = word == "run" ? OnLogError::run : OnLogError::stop;
         },
         "When the log can't be written (disk full): stop the program, or let it run unrecorded")
      ->check(CLI::IsMember({"stop", "run"}).description(""))
      ->type_name("stop|run")
      ->default_str("stop");
  app->add_option_function<std::string>(
         "--on-unsupported",
         [&options](const std::string& word) {
           options.on_unsupported = word == "continue" ? OnUnsupported::answer : OnUnsupported::stop;
         },
         "At a call that can't be recorded and that the program would go on wrongly without\n"
         "(a thread, a child process): end program and recording with status 69, or answer\n"
         "an error, go on, and say so with every use of the recording")
      ->check(CLI::IsMember({"stop", "continue"}).description(""))
      ->type_name("stop|continue")
      ->default_str("stop");
  app->add_option_function<std::string>(
         "--children",
         [&options](const std::string& word) {
           options.children = word == "refuse"   ? OnChildren::refuse
                              : word == "native" ? OnChildren::native
                                                 : OnChildren::record;
         },
         "Child processes: record each; run them without recording them; or take making one for\n"
         "a call that can't be recorded")
      ->check(CLI::IsMember({"record", "native", "refuse"}).description(""))
      ->type_name("record|native|refuse")
      ->default_str("record");
  app->add_flag_callback(
      "--no-wait", [&options] { options.waits = false; },
      "End with the program, though processes that it has left go on (and are recorded)");
  app->add_option_function<std::string>(
         "--allow", [&options](const std::string&) { options.allow_kill_all = true; },
         "What else is refused: kill-all, a signal to every process (kill(-1))")
      ->check(CLI::IsMember({"kill-all"}).description(""))
      ->type_name("kill-all");
  app->add_option_function<std::string>(
         "--checkpoint-every",
         [&options](const std::string& text) {
           options.checkpoint_every_ns = parse_duration("--checkpoint-every", text);
         },
         "Keep a checkpoint so often, from which replays can start; 0: at every event\n"
         "(default: none; `aftercheck checkpoint` makes them afterwards)")
      ->type_name("TIME");
  app->add_flag_callback(
      "--no-aslr", [&options] { options.randomize = false; },
      "Same addresses in every run, as with `setarch -R`");
  app->add_flag("--chaos{random}", arguments->chaos,
                "Switch threads at random, to bring rare interleavings out; with --chaos=SEED by\n"
                "the same choices as the recording that has this seed (`aftercheck info` tells it)")
      ->type_name("[=SEED]");
  app->add_flag_callback(
      "--no-log", [&options] { options.write_log = false; },
      "Run in the machine without recording: to measure what recording costs");
  app->add_flag("-v,--verbose", arguments->verbose, "Say on standard error what happens");
  app->footer(
      "The program has its standard streams to itself, and gets all words after PROGRAM.\n\n"
      "Examples:\n"
      "  aftercheck record ls -la\n"
      "  aftercheck record -o /tmp/r --machine soft -- ./server --port 8080\n"
      "  aftercheck record --pt soft sort --parallel=1 big.txt\n\n"
      "Exit status: the program's own; where it died of a signal, death by that signal. Else:\n"
      "  69  ended at a call that can't be recorded (see --on-unsupported)\n"
      "Before it starts:\n" +
      std::string(kExitStatusHelp));
  return {app, [arguments](Console& console) { return run(*arguments, console); }, program};
}

}  // namespace aftercheck::tools
