#include <chrono>
#include <filesystem>
#include <set>
#include <system_error>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "recording/meta.h"
#include "recording/reader.h"
#include "recording/store.h"
#include "replay-engine/checkpointer.h"
#include "replay-engine/replay.h"
#include "system-calls/system_call_names.h"
#include "tools/command.h"
#include "tools/duration.h"
#include "tools/output.h"
#include "tools/replay_progress.h"

namespace aftercheck::tools {
namespace {

struct Arguments {
  std::filesystem::path directory;
  MachineChoice machine = MachineChoice::automatic;
  bool untrusted = false;
  std::string every = "2s";
  bool list = false, verify = false, remove = false, json = false, verbose = false;
};

// --- making ---

int make(const Arguments& arguments, Console& console) {
  CheckpointWriterOptions writing;
  writing.directory = arguments.directory;
  writing.every_ns = parse_duration("--every", arguments.every);
  if (writing.every_ns == 0) writing.share = 0;
  recording::read_meta(arguments.directory);  // before anything is written
  Checkpointer checkpointer(writing);
  ReplayOptions options;
  options.directory = arguments.directory;
  options.machine = arguments.machine;
  options.untrusted = arguments.untrusted;
  options.system_call_name = system_call_name;
  show_progress(options, console);
  options.participants = {&checkpointer};
  const auto start = std::chrono::steady_clock::now();
  const ReplayResult result = replay(options);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  console.clear_progress();
  const CheckpointWriter::Statistics made = checkpointer.statistics();
  Output output;
  if (arguments.json)
    output.json({{"checkpoints", made.checkpoints},
                 {"pages", made.pages},
                 {"new_pages", made.new_pages},
                 {"written_bytes", made.written_bytes},
                 {"stopped_seconds", made.seconds},
                 {"seconds", took.count()},
                 {"events", result.events},
                 {"machine", name(result.machine)},
                 {"truncated", result.truncated}});
  else
    output.line(fmt::format("{} checkpoint{}, {} written, in {}", human_count(made.checkpoints),
                            made.checkpoints == 1 ? "" : "s", human_size(made.written_bytes),
                            human_time(took.count())));
  output.flush();
  if (made.checkpoints == 0) console.note("the run is shorter than --every: there was no time for one");
  if (result.truncated) console.warning(fmt::format("the recording has no end: {}", result.truncation));
  return 0;
}

// --- looking ---

struct Row {
  Checkpoints::Known known;
  CheckpointSummary summary;
  std::string damage;
};

Row look(const Checkpoints::Known& known, const recording::Store& store, bool pages) {
  Row row{known, {}, {}};
  try {
    row.summary = Checkpoints::summary(known);
    const Checkpoint checkpoint = Checkpoints::load(known);
    if (pages) read_pages(checkpoint, store, [](const PageRun&, std::span<const std::byte>) {});
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::internal) throw;
    row.damage = error.what();
  }
  return row;
}

int list(const Arguments& arguments, Console& console) {
  recording::read_meta(arguments.directory);
  const Checkpoints checkpoints(arguments.directory);
  const recording::Store store(arguments.directory, false);
  Output output;
  Json json = Json::array();
  uint64_t damaged = 0;
  for (const Checkpoints::Known& known : checkpoints.all()) {
    const Row row = look(known, store, arguments.verify);
    damaged += row.damage.empty() ? 0 : 1;
    json.push_back({{"event", known.event},
                    {"time_ns", row.summary.time_ns},
                    {"pages", row.summary.pages},
                    {"new_pages", row.summary.new_pages},
                    {"damage", row.damage.empty() ? Json(nullptr) : Json(row.damage)}});
    if (arguments.json) continue;
    if (row.damage.empty())
      output.line(fmt::format("e{:<12} {:>10}  {:>10} of memory, {} of it new", known.event,
                              human_time(static_cast<double>(row.summary.time_ns) * 1e-9),
                              human_size(row.summary.pages * kPageSize),
                              human_size(row.summary.new_pages * kPageSize)));
    else
      output.line(fmt::format("e{:<12} damaged: {}", known.event, row.damage));
  }
  if (arguments.json) output.json(json);
  output.flush();
  if (checkpoints.all().empty()) console.note("the recording has no checkpoints");
  return damaged == 0 ? 0 : exit_status(ErrorKind::bad_input);
}

// --- removing ---

// The blobs that the log needs.
std::set<recording::Digest128> blobs_of_log(const std::filesystem::path& directory) {
  std::set<recording::Digest128> blobs;
  recording::Reader reader(directory);
  while (const recording::Event* event = reader.next())
    for (const recording::SpaceOp& op : event->space_ops)
      if (op.blob != recording::Digest128{}) blobs.insert(op.blob);
  return blobs;
}

// Packs belong to checkpoints alone; a forged one may name others. Of one that can't be read the packs stay:
// nobody can say which they are.
int remove(const Arguments& arguments, Console& console) {
  recording::read_meta(arguments.directory);
  const Checkpoints checkpoints(arguments.directory);
  recording::Store store(arguments.directory, false);
  std::set<recording::Digest128> packs;
  for (const Checkpoints::Known& known : checkpoints.all()) {
    try {
      const Checkpoint checkpoint = Checkpoints::load(known);
      packs.insert(checkpoint.packs.begin(), checkpoint.packs.end());
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::bad_input && error.kind() != ErrorKind::unsupported) throw;
      console.warning(fmt::format("{}; what it has in the store stays there", error.what()));
    }
  }
  const std::set<recording::Digest128> needed = blobs_of_log(arguments.directory);
  // First what names them: a checkpoint without its pages is damage, pages without a checkpoint are only dead
  // weight.
  for (const Checkpoints::Known& known : checkpoints.all()) {
    std::error_code error;
    std::filesystem::remove(known.file, error);
    if (error) fail(ErrorKind::io, "{}: {}", known.file.string(), error.message());
  }
  for (const recording::Digest128& pack : packs)
    if (!needed.contains(pack)) store.remove(pack);
  console.note(
      fmt::format("{} checkpoints removed{}", human_count(checkpoints.all().size()),
                  store.shared() ? "; their memory stays in the store, which recordings share" : ""));
  return 0;
}

int run(const Arguments& arguments, Console& console) {
  console.set_verbose(arguments.verbose);
  if (arguments.remove) return remove(arguments, console);
  if (arguments.list || arguments.verify) return list(arguments, console);
  return make(arguments, console);
}

}  // namespace

Command add_checkpoint(CLI::App& parent) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* app = parent.add_subcommand(
      "checkpoint", "Replay a recording once and keep checkpoints in it, for faster starts");
  app->add_option("DIR", arguments->directory, "The recording")->required()->type_name("");
  add_machine_option(*app, arguments->machine);
  add_untrusted_flag(*app, arguments->untrusted);
  CLI::Option* every = app->add_option("--every", arguments->every,
                                       "Time of the recorded run between two checkpoints; 0: at every event")
                           ->type_name("TIME")
                           ->capture_default_str();
  CLI::Option* list = app->add_flag("--list", arguments->list, "Show the checkpoints that there are");
  app->add_flag("--verify", arguments->verify, "As --list, and read all of each of them");
  app->add_flag("--remove", arguments->remove, "Remove all checkpoints")->excludes(every)->excludes(list);
  app->add_flag("--json", arguments->json, "Print JSON");
  app->add_flag("-v,--verbose", arguments->verbose, "Say on standard error how it went");
  app->footer(
      "Replays with --from, and checks of some events or in several jobs, start from the nearest "
      "checkpoint.\n"
      "A recording is as good without them: a damaged one is told of and passed over. They take at most a\n"
      "twentieth of the replay's time; where they would take more there are fewer.\n\n"
      "Examples:\n"
      "  aftercheck checkpoint recording-server-1\n"
      "  aftercheck checkpoint --every 500ms recording-server-1\n"
      "  aftercheck checkpoint --list recording-server-1\n\n"
      "Exit status:\n"
      "  0   they were made, listed or removed; with --list and --verify: and all are whole\n"
      "  3   divergence: the replay left the recording\n" +
      std::string(kExitStatusHelp));
  return {app, [arguments](Console& console) { return run(*arguments, console); }, nullptr};
}

}  // namespace aftercheck::tools
