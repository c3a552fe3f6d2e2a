#include <fmt/chrono.h>

#include <ctime>
#include <filesystem>
#include <map>
#include <system_error>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "recording/meta.h"
#include "recording/position.h"
#include "recording/processes.h"
#include "recording/pt_log.h"
#include "recording/reader.h"
#include "recording/store.h"
#include "system-calls/system_call_names.h"
#include "tools/command.h"
#include "tools/event_text.h"
#include "tools/output.h"
#include "tools/unsupported_text.h"

namespace aftercheck::tools {
namespace {

namespace fs = std::filesystem;
using recording::Event;
using recording::EventKind;

struct Arguments {
  fs::path directory;
  bool json = false, verbose = false;
};

// What one pass over a recording finds. Nothing of it grows with the length of the run.
struct Findings {
  recording::Meta meta;
  uint64_t log_bytes = 0, store_bytes = 0;
  uint64_t events = 0, last_time_ns = 0, output_bytes = 0, written_bytes = 0, memory_digests = 0;
  std::map<EventKind, uint64_t> by_kind;
  uint64_t threads = 1;                         // that there ever were
  std::map<uint64_t, uint64_t> by_call;         // system call's number -> how often
  std::string end, truncation, damage;          // `damage`: the error that ended the pass
  std::map<uint32_t, recording::PtSummary> pt;  // by guest thread
  std::vector<uint64_t> checkpoints;            // their events
  std::vector<recording::Process> processes;    // of the recording, where this is the first
  std::vector<Findings> others;                 // of those but the first, in the same order

  double seconds() const { return static_cast<double>(last_time_ns) * 1e-9; }
  double bytes_per_event() const {
    return events == 0 ? 0 : static_cast<double>(log_bytes) / static_cast<double>(events);
  }
};

// A hostile log may name as many calls as it has events; real ones stay far below.
constexpr size_t kMostCalls = 4096;

constexpr uint64_t kProgressEvery = 4096;  // events

void count(const Event& event, Findings& found) {
  ++found.events;
  ++found.by_kind[event.kind];
  found.threads += event.kind == EventKind::thread_start ? 1 : 0;
  found.last_time_ns = std::max(found.last_time_ns, event.time_ns);
  found.memory_digests += event.memory.size();
  if (event.kind == EventKind::syscall && !event.operands.empty() && found.by_call.size() < kMostCalls)
    ++found.by_call[event.operands[0]];
  for (const recording::MemoryWrite& write : event.writes) found.written_bytes += write.bytes.size();
  for (const recording::Output& output : event.outputs)
    for (const auto& piece : output.pieces) found.output_bytes += piece.length;
  for (const recording::OutputStep& step : event.output_steps) found.output_bytes += step.bytes.size();
  if (event.kind == EventKind::end) found.end = describe_end(event);
}

Findings examine(const fs::path& directory, Console& console) {
  Findings found;
  found.meta = recording::read_meta(directory);
  std::error_code error;
  const uintmax_t size = fs::file_size(directory / "events", error);
  if (!error) found.log_bytes = size;
  try {
    found.store_bytes = recording::Store(directory, false).size();
    recording::Reader reader(directory);
    while (const Event* event = reader.next()) {
      count(*event, found);
      if (found.events % kProgressEvery == 0)
        console.progress(reader.progress(), fmt::format("event {}", human_count(found.events)));
    }
    reader.truncated(&found.truncation);
  } catch (const Error& damage) {
    found.damage = damage.what();
  }
  console.clear_progress();
  const Checkpoints checkpoints(directory);
  for (const Checkpoints::Known& known : checkpoints.all()) found.checkpoints.push_back(known.event);
  for (const uint32_t thread : recording::pt_threads(directory))
    found.pt.emplace(thread, recording::summarize_pt(directory, thread));
  return found;
}

// Of a recording's other processes what the tree shows.
void examine_others(Findings& found, const fs::path& directory, Console& console) {
  if (found.meta.parent) return;
  found.processes = recording::read_processes(directory);
  for (size_t i = 1; i < found.processes.size(); ++i)
    found.others.push_back(examine(found.processes[i].directory, console));
}

std::string quoted_command(const std::vector<std::string>& command) {
  std::string text;
  for (const std::string& word : command) {
    if (!text.empty()) text += ' ';
    const bool plain = !word.empty() && word.find_first_not_of(
                                            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                            "0123456789@%_-+=:,./") == std::string::npos;
    if (plain) {
      text += word;
      continue;
    }
    text += '\'';
    for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
    text += '\'';
  }
  return text;
}

std::string local_time(uint64_t ns) {
  const auto seconds = static_cast<time_t>(ns / 1'000'000'000);
  tm parts{};
  if (localtime_r(&seconds, &parts) == nullptr) return "unknown";
  return fmt::format("{:%Y-%m-%d %H:%M:%S %z}", parts);
}

std::vector<std::pair<uint64_t, uint64_t>> calls_by_count(const Findings& found) {
  std::vector<std::pair<uint64_t, uint64_t>> calls(found.by_call.begin(), found.by_call.end());
  std::stable_sort(calls.begin(), calls.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return calls;
}

std::string ending(const Findings& found) {
  if (!found.damage.empty()) return "damaged: the log can be read up to event " + human_count(found.events);
  return found.end.empty() ? "cut short: " + found.truncation : found.end;
}

std::string describe(const recording::PtSummary& pt) {
  return fmt::format("{} ({} compressed), source {}, {} losses{}{}", human_size(pt.aux_bytes),
                     human_size(pt.file_bytes), recording::name(pt.format.source), human_count(pt.losses),
                     pt.complete ? "" : "; not whole: ", pt.problem);
}

std::string ended(const Findings& found) {
  return !found.damage.empty() ? "damaged" : found.end.empty() ? "cut short" : found.end;
}

// The process in this place of the list, and below it those that it made, further to the right.
void print_tree(const Findings& found, size_t place, size_t depth, Output& output) {
  const recording::Process& process = found.processes[place];
  const Findings& own = place == 0 ? found : found.others[place - 1];
  std::string line = std::string(2 * depth + 2, ' ') + std::to_string(process.number);
  if (process.meta.parent) line += fmt::format("  from e{}", process.meta.parent->event);
  line += fmt::format("  pid {}  {}, {} events: {}", process.meta.process_id, ended(own),
                      human_count(own.events), quoted_command(process.meta.command));
  output.line(printable(line));
  constexpr size_t kDeepest = 40;  // further ones stand there, too
  for (const size_t child : process.children) print_tree(found, child, std::min(depth + 1, kDeepest), output);
}

void print_text(const Findings& found, bool verbose, Output& output) {
  auto row = [&](const char* label, const std::string& value) {
    output.line(fmt::format("{:<18}{}", label, value));
  };
  const recording::Meta& meta = found.meta;
  row("command", quoted_command(meta.command));
  row("recording", fmt::format("{:08x}", recording::recording_id(meta)));
  row("directory", meta.working_directory);
  row("started", local_time(meta.start_time_ns));
  row("duration", human_time(found.seconds()));
  row("end", ending(found));
  if (!meta.stopped_at.empty()) row("stopped at", printable(meta.stopped_at) + ": it can't be recorded");
  if (!meta.answered_calls.empty()) row("not done", describe_answered(meta.answered_calls));
  row("machine", fmt::format("{}, cpu model {}", meta.machine, meta.cpu_model));
  if (const auto chaos = meta.capabilities.find("chaos"); chaos != meta.capabilities.end())
    row("threads", "switched at random (--chaos=" + chaos->second + ")");
  if (meta.capabilities.contains(recording::kSharesMemory))
    row("memory", "some is shared with other processes, which are replayed together with this one");
  row("host", fmt::format("{}, {}, {}", meta.host_name, meta.host_kernel, meta.host_cpu));
  row("written by", fmt::format("{}, format version {}", meta.writer, meta.format_version));
  row("log", fmt::format("{}, {:.1f} bytes per event", human_size(found.log_bytes), found.bytes_per_event()));
  row("store", human_size(found.store_bytes));
  for (const auto& [thread, pt] : found.pt)
    row(found.pt.size() == 1 ? "PT trace" : fmt::format("PT trace {}", thread).c_str(), describe(pt));
  if (!found.checkpoints.empty())
    row("checkpoints", fmt::format("{}, the last at event {}", human_count(found.checkpoints.size()),
                                   found.checkpoints.back()));
  row("answers", human_size(found.written_bytes) + " written into the program's memory");
  row("output", human_size(found.output_bytes));
  row("memory digests", human_count(found.memory_digests));
  if (found.threads > 1) row("threads started", human_count(found.threads));
  row("events", human_count(found.events));
  for (const auto& [kind, number] : found.by_kind)
    output.line(fmt::format("  {:>14}  {}", human_count(number), name(kind)));
  if (meta.parent)
    row("process", fmt::format("{} (pid {}), made by process {} at event {}", meta.process, meta.process_id,
                               meta.parent->process, meta.parent->event));
  if (found.processes.size() > 1) {
    row("processes", human_count(found.processes.size()));
    print_tree(found, 0, 0, output);
  }
  if (!verbose) return;
  row("system calls", human_count(found.by_call.size()) + " different ones");
  for (const auto& [call, number] : calls_by_count(found))
    output.line(fmt::format("  {:>14}  {}", human_count(number), system_call_name(call)));
  for (const auto& [capability, value] : meta.capabilities)
    row("capability", fmt::format("{}: {}", capability, value));
  row("environment", human_count(meta.environment.size()) + " variables");
  for (const std::string& variable : meta.environment) output.line("  " + variable);
}

Json to_json(const Findings& found) {
  const recording::Meta& meta = found.meta;
  Json json;
  json["format_version"] = meta.format_version;
  json["writer"] = meta.writer;
  json["recording"] = fmt::format("{:08x}", recording::recording_id(meta));
  json["command"] = meta.command;
  json["working_directory"] = meta.working_directory;
  json["environment"] = meta.environment;
  json["machine"] = meta.machine;
  json["cpu_model"] = meta.cpu_model;
  json["host"] = {{"name", meta.host_name}, {"kernel", meta.host_kernel}, {"cpu", meta.host_cpu}};
  json["capabilities"] = meta.capabilities;
  json["start_time_ns"] = meta.start_time_ns;
  json["duration_ns"] = found.last_time_ns;
  json["complete"] = found.damage.empty() && !found.end.empty();
  json["end"] = found.end.empty() ? Json(nullptr) : Json(found.end);
  json["truncation"] = found.truncation.empty() ? Json(nullptr) : Json(found.truncation);
  json["damage"] = found.damage.empty() ? Json(nullptr) : Json(found.damage);
  add_unsupported(meta, json);
  json["log_bytes"] = found.log_bytes;
  json["store_bytes"] = found.store_bytes;
  json["pt"] = Json::array();
  for (const auto& [thread, pt] : found.pt)
    json["pt"].push_back({{"thread", thread},
                          {"source", recording::name(pt.format.source)},
                          {"bytes", pt.aux_bytes},
                          {"file_bytes", pt.file_bytes},
                          {"marks", pt.marks},
                          {"losses", pt.losses},
                          {"complete", pt.complete},
                          {"problem", pt.problem.empty() ? Json(nullptr) : Json(pt.problem)}});
  json["checkpoints"] = found.checkpoints;
  json["answer_bytes"] = found.written_bytes;
  json["output_bytes"] = found.output_bytes;
  json["memory_digests"] = found.memory_digests;
  json["threads"] = found.threads;
  json["events"] = found.events;
  json["bytes_per_event"] = found.bytes_per_event();
  for (const auto& [kind, number] : found.by_kind) json["events_by_kind"][name(kind)] = number;
  for (const auto& [call, number] : calls_by_count(found))
    json["system_calls"][system_call_name(call)] = number;
  json["process"] = meta.process;
  json["process_id"] = meta.process_id;
  if (meta.parent) json["parent"] = {{"process", meta.parent->process}, {"event", meta.parent->event}};
  for (const Findings& other : found.others) json["processes"].push_back(to_json(other));
  return json;
}

int run(const Arguments& arguments, Console& console) {
  Findings found = examine(arguments.directory, console);
  examine_others(found, arguments.directory, console);
  Output output;
  if (arguments.json)
    output.json(to_json(found));
  else
    print_text(found, arguments.verbose, output);
  output.flush();
  for (const std::string& warning : unsupported_warnings(found.meta)) console.warning(warning);
  if (!found.damage.empty()) fail(ErrorKind::bad_input, "{}", found.damage);
  return 0;
}

}  // namespace

Command add_info(CLI::App& parent) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* app = parent.add_subcommand("info", "Tell what a recording holds");
  app->add_option("DIR", arguments->directory, "The recording")->required()->type_name("");
  app->add_flag("--json", arguments->json, "Print JSON");
  app->add_flag("-v,--verbose", arguments->verbose,
                "Also system calls by name, capabilities and environment");
  app->footer(
      "A recording that was cut short is told of as far as it goes.\n\n"
      "Examples:\n"
      "  aftercheck info recording-ls-1\n"
      "  aftercheck info --json recording-ls-1 | jq .events_by_kind\n\n"
      "Exit status:\n"
      "  0   the log is whole up to its end, or up to where it was cut short\n"
      "  2   usage, not a recording, or damaged (what could be read is printed)\n"
      "  70  a bug of aftercheck");
  return {app, [arguments](Console& console) { return run(*arguments, console); }, nullptr};
}

}  // namespace aftercheck::tools
