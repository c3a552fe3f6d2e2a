#include <algorithm>
#include <array>
#include <set>

#include "base/error.h"
#include "tools/flow_calls.h"
#include "tools/flow_coverage.h"
#include "tools/output.h"
#include "tools/pt_code.h"
#include "tools/pt_command.h"
#include "tools/pt_replay.h"
#include "tools/pt_source.h"

namespace aftercheck::tools {
namespace {

constexpr size_t kStatuses = static_cast<size_t>(pt::FlowStatus::endless_loop) + 1;
constexpr size_t kTopFunctions = 20;

struct Arguments {
  std::string input, lcov, folded, chrome;
  PtCodeOptions code;
  bool json = false, branches = false, stats = false, quiet = false, replay = false;
  MachineChoice machine = MachineChoice::automatic;
  bool untrusted = false;
  uint64_t limit = 0, chrome_limit = 1'000'000;
  bool prints() const { return !quiet && !stats && lcov.empty() && folded.empty() && chrome.empty(); }
};

std::string hex(uint64_t value) { return fmt::format("{:#x}", value); }

// What is added up over all streams.
struct Totals {
  uint64_t bytes = 0, blocks = 0, instructions = 0, overflows = 0, lost = 0, enabled = 0;
  uint64_t code_blocks = 0, code_instructions = 0;
  std::array<uint64_t, kStatuses> errors{};
  std::string first_error;
  uint64_t error_count() const {
    uint64_t sum = 0;
    for (const uint64_t count : errors) sum += count;
    return sum;
  }
};

// Instructions per function, whoever called it.
class FlatProfile : public pt::CallObserver {
 public:
  void called(uint32_t function) override { stack_.push_back(function); }
  void returned() override { stack_.pop_back(); }
  void replaced(uint32_t function) override { stack_.back() = function; }
  void executed(uint64_t instructions) override {
    if (stack_.back() >= instructions_.size()) instructions_.resize(stack_.back() + 1);
    instructions_[stack_.back()] += instructions;
  }
  std::vector<std::pair<uint64_t, uint32_t>> top() const {
    std::vector<std::pair<uint64_t, uint32_t>> list;
    for (uint32_t i = 0; i < instructions_.size(); ++i)
      if (instructions_[i] != 0) list.emplace_back(instructions_[i], i);
    std::sort(list.rbegin(), list.rend());
    list.resize(std::min(list.size(), kTopFunctions));
    return list;
  }

 private:
  std::vector<uint32_t> stack_;
  std::vector<uint64_t> instructions_;
};

// All that is made of the streams, one after the other.
struct Results {
  Totals totals;
  FunctionNames names;
  FlowCoverage coverage;
  FoldedStacks folded;
  FlatProfile flat;
  std::unique_ptr<ChromeTrace> chrome;
};

// One stream: decodes it and hands everything on.
class Stream : public PtSink, public pt::FlowSink {
 public:
  Stream(const Arguments& arguments, PtCode& code, const std::string& name, bool names_stream,
         Results& results, Output& output)
      : arguments_(arguments),
        code_(code),
        name_(names_stream ? name : ""),
        results_(results),
        output_(output),
        decoder_(code.image(), *this, code.flow_options()),
        calls_(decoder_, code.image(),
               [this](uint64_t address) { return results_.names.at(code_.symbols(), address); }),
        tracks_calls_(arguments.stats || !arguments.folded.empty() || !arguments.chrome.empty()),
        counts_(arguments.stats || !arguments.lcov.empty()) {
    if (arguments.stats) calls_.add(results.flat);
    if (!arguments.folded.empty()) calls_.add(results.folded);
    if (results.chrome != nullptr) calls_.add(*results.chrome);
  }

  // --- what the source gives
  void bytes(uint64_t, std::span<const uint8_t> bytes) override {
    if (!done_) decoder_.feed(bytes);
  }
  void lost(uint64_t offset, uint64_t resume, const std::string& why) override {
    decoder_.mark_lost();
    skipped_ = resume - decoder_.totals().bytes;
    ++results_.totals.lost;
    if (arguments_.prints()) trouble(offset, "AUX data lost: " + why);
  }
  void mark(uint64_t, uint64_t event) override {
    if (code_.answered(event) && tracks_calls_) calls_.reset();
    if (!arguments_.prints() || done_) return;
    if (arguments_.json)
      print(Json{{"event", event}});
    else
      output_.line(fmt::format("-- event {}", event));
  }
  bool done() const { return done_; }

  // --- what the decoder gives
  void on_blocks(std::span<const pt::BlockId> blocks) override {
    if (counts_) count(blocks);
    if (tracks_calls_) calls_.on_blocks(blocks);
    if (arguments_.prints())
      for (const pt::BlockId block : blocks) print_block(block);
  }
  void on_event(const pt::FlowEvent& event) override {
    if (tracks_calls_) calls_.on_event(event);
    results_.totals.enabled += event.kind == pt::FlowEventKind::enabled ? 1 : 0;
    if (event.kind == pt::FlowEventKind::error) on_error(event);
    if (arguments_.prints() && !done_) print_event(event);
  }

  void finish() {
    decoder_.finish();
    if (tracks_calls_) calls_.reset();
    Totals& totals = results_.totals;
    totals.bytes += decoder_.totals().bytes;
    totals.overflows += decoder_.totals().overflows;
    totals.blocks += decoder_.totals().blocks;
    for (pt::BlockId block = 0; block < executions_.size(); ++block) {
      if (executions_[block] == 0) continue;
      const uint32_t size = decoder_.block(block).instructions;
      ++totals.code_blocks;
      totals.code_instructions += size;
      totals.instructions += executions_[block] * size;
    }
    if (!arguments_.lcov.empty()) results_.coverage.add(executions_);
  }

 private:
  void count(std::span<const pt::BlockId> blocks) {
    for (const pt::BlockId block : blocks) {
      if (block >= executions_.size())
        executions_.resize(std::max<size_t>(block + 1, executions_.size() * 2));
      if (executions_[block]++ == 0 && !arguments_.lcov.empty())
        results_.coverage.learn(block, decoder_, code_.symbols());
    }
  }

  const std::string& symbol(uint64_t address) {
    // Cached: most blocks come again. Forgotten when the code may have changed, or grows too large.
    if (generation_ != code_.image().generation() || symbol_texts_.size() > 1 << 16) symbol_texts_.clear();
    generation_ = code_.image().generation();
    const auto [known, fresh] = symbol_texts_.try_emplace(address);
    if (fresh) known->second = code_.symbols().text(address);
    return known->second;
  }

  void print_block(pt::BlockId id) {
    if (done_) return;
    const pt::FlowBlock block = decoder_.block(id);
    if (arguments_.branches) {
      // From the last instruction of the block before, where that does not simply go on.
      if (previous_end_ != 0 && block.ip != previous_behind_) print_branch(previous_end_, block.ip);
      uint64_t behind = block.end;
      decoder_.for_each_instruction(id, [&](uint64_t ip, uint8_t size) { behind = ip + size; });
      previous_end_ = block.end;
      previous_behind_ = behind;
      return;
    }
    if (arguments_.json) {
      Json json{{"block", hex(block.ip)}, {"last", hex(block.end)}, {"instructions", block.instructions}};
      if (const std::string& text = symbol(block.ip); !text.empty()) json["symbol"] = text;
      print(std::move(json));
    } else {
      line(fmt::format("{:<18} {:<18} {:>5} {}", hex(block.ip), hex(block.end), block.instructions,
                       symbol(block.ip)));
    }
    printed();
  }

  void print_branch(uint64_t from, uint64_t to) {
    if (arguments_.json)
      print(Json{
          {"from", hex(from)}, {"to", hex(to)}, {"from_symbol", symbol(from)}, {"to_symbol", symbol(to)}});
    else
      line(fmt::format("{:<18} -> {:<18} {} -> {}", hex(from), hex(to), symbol(from), symbol(to)));
    printed();
  }

  void on_error(const pt::FlowEvent& event) {
    // An event in code that is not at hand can't be reached either. Damage has nothing to do with code.
    const bool missing = event.status == pt::FlowStatus::no_code ||
                         (event.status != pt::FlowStatus::bad_packet && code_.image().at(event.from).empty());
    const pt::FlowStatus status = missing ? pt::FlowStatus::no_code : event.status;
    const bool contradiction = !missing && status != pt::FlowStatus::call_not_seen;
    if (contradiction && results_.totals.first_error.empty()) results_.totals.first_error = error_text(event);
    ++results_.totals.errors[static_cast<size_t>(status)];
  }

  std::string error_text(const pt::FlowEvent& event) const {
    std::string text =
        fmt::format("offset {:#x}: {}", event.offset + skipped_, pt::flow_status_text(event.status));
    if (event.from != 0) text += fmt::format(" ({:#x}", event.from);
    if (event.from != 0 && event.has_to) text += fmt::format(", to {:#x}", event.to);
    return event.from != 0 ? text + ")" : text;
  }

  static const char* event_name(pt::FlowEventKind kind) {
    constexpr const char* kNames[] = {"enabled",     "disabled", "disabled-async", "async-branch", "overflow",
                                      "transaction", "ptwrite",  "mode",           "error"};
    return kNames[static_cast<size_t>(kind)];
  }

  void print_event(const pt::FlowEvent& event) {
    previous_end_ = 0;
    if (event.kind == pt::FlowEventKind::error) return trouble(event.offset + skipped_, error_text(event));
    if (arguments_.json) {
      Json json{{"offset", event.offset + skipped_}, {"trace", event_name(event.kind)}};
      if (event.from != 0) json["from"] = hex(event.from);
      if (event.has_to) json["to"] = hex(event.to);
      if (event.detail != 0) json["detail"] = event.detail;
      return print(std::move(json));
    }
    std::string text = fmt::format("-- {} at offset {:#x}", event_name(event.kind), event.offset + skipped_);
    if (event.from != 0) text += fmt::format(", from {:#x}", event.from);
    if (event.has_to) text += fmt::format(", to {:#x}", event.to);
    if (event.kind == pt::FlowEventKind::ptwrite) text += fmt::format(", payload {:#x}", event.detail);
    line(text);
  }

  void trouble(uint64_t offset, const std::string& text) {
    if (arguments_.json)
      print(Json{{"offset", offset}, {"trouble", text}});
    else
      line("!! " + text);
  }

  void print(Json json) {
    if (!name_.empty()) json["stream"] = name_;
    output_.json_line(json);
  }
  void line(const std::string& text) { output_.line(text.substr(0, text.find_last_not_of(' ') + 1)); }
  void printed() {
    ++lines_;
    done_ = arguments_.limit != 0 && lines_ >= arguments_.limit;
  }

  const Arguments& arguments_;
  PtCode& code_;
  const std::string name_;
  Results& results_;
  Output& output_;
  pt::FlowDecoder decoder_;
  pt::CallTracker calls_;
  const bool tracks_calls_, counts_;
  std::vector<uint64_t> executions_;  // by block
  std::unordered_map<uint64_t, std::string> symbol_texts_;
  uint64_t generation_ = 0, previous_end_ = 0, previous_behind_ = 0, lines_ = 0, skipped_ = 0;
  bool done_ = false;
};

Json errors_json(const Totals& totals) {
  Json json = Json::object();
  for (size_t i = 1; i < kStatuses; ++i)
    if (totals.errors[i] != 0)
      json[std::string(pt::flow_status_text(static_cast<pt::FlowStatus>(i)))] = totals.errors[i];
  return json;
}

void print_stats(const Arguments& arguments, const Results& results, Output& output) {
  const Totals& t = results.totals;
  const auto top = results.flat.top();
  if (arguments.json) {
    Json json{{"bytes", t.bytes},
              {"blocks", t.blocks},
              {"instructions", t.instructions},
              {"times_enabled", t.enabled},
              {"overflows", t.overflows},
              {"losses", t.lost},
              {"code_blocks", t.code_blocks},
              {"code_instructions", t.code_instructions}};
    json["errors"] = errors_json(t);
    json["functions"] = Json::array();
    for (const auto& [instructions, function] : top)
      json["functions"].push_back(
          {{"function", results.names.name(function)}, {"instructions", instructions}});
    return output.json(json);
  }
  const auto row = [&](const char* label, const std::string& value) {
    output.line(fmt::format("{:<20}{}", label, value));
  };
  row("trace", human_size(t.bytes));
  row("blocks", human_count(t.blocks));
  row("instructions", human_count(t.instructions));
  row("times enabled", human_count(t.enabled));
  row("overflows, losses", fmt::format("{}, {}", human_count(t.overflows), human_count(t.lost)));
  row("code executed", fmt::format("{} blocks, {} instructions", human_count(t.code_blocks),
                                   human_count(t.code_instructions)));
  for (size_t i = 1; i < kStatuses; ++i)
    if (t.errors[i] != 0)
      row("errors", fmt::format("{} x {}", human_count(t.errors[i]),
                                pt::flow_status_text(static_cast<pt::FlowStatus>(i))));
  if (!top.empty()) output.line("instructions by function");
  for (const auto& [instructions, function] : top)
    output.line(fmt::format("  {:>14} {:5.1f} %  {}", human_count(instructions),
                            100.0 * static_cast<double>(instructions) / static_cast<double>(t.instructions),
                            results.names.name(function)));
}

// Errors of the trace end in status 2; code that is not at hand only in a warning.
void judge(const Totals& totals, const std::string& input, const char* why_missing, Console& console) {
  const uint64_t all = totals.error_count();
  if (all == 0) return;
  const auto count = [&totals](pt::FlowStatus status) { return totals.errors[static_cast<size_t>(status)]; };
  const uint64_t no_code = count(pt::FlowStatus::no_code), no_call = count(pt::FlowStatus::call_not_seen);
  const uint64_t missing = no_code + no_call;
  const uint64_t damaged = count(pt::FlowStatus::bad_packet);
  if (no_call != 0)
    console.warning(fmt::format(
        "{}: in {} places a function returned whose call could not be followed: where to is not known", input,
        human_count(no_call)));
  if (no_code != 0)
    console.warning(
        fmt::format("{}: in {} places the code that ran is not at hand ({}): what ran there is not shown",
                    input, human_count(no_code), why_missing));
  if (all == missing) return;
  std::string what;
  if (damaged != 0)
    what = fmt::format("in {} places the bytes are no Intel PT packets", human_count(damaged));
  if (const uint64_t wrong = all - missing - damaged; wrong != 0)
    what +=
        fmt::format("{}in {} places trace and code do not fit", what.empty() ? "" : ", ", human_count(wrong));
  fail(ErrorKind::bad_input, "{}: {}; the first error: {}", input, what, totals.first_error);
}

void write_files(const Arguments& arguments, const PtSource& source, Results& results, Console& console) {
  const std::string program = std::filesystem::path(source.name()).filename().string();
  if (!arguments.folded.empty()) {
    OutputFile file(arguments.folded);
    results.folded.write(results.names, program, file);
    file.close();
    if (results.folded.cut())
      console.warning(
          fmt::format("{}: some stacks were too deep or too many; what ran there is counted for the "
                      "caller that still fitted",
                      arguments.folded));
  }
  if (results.chrome != nullptr) {
    results.chrome->finish();
    if (results.chrome->left_out() > 0)
      console.warning(fmt::format("{}: {} calls were left out; raise --chrome-limit to have them",
                                  arguments.chrome, human_count(results.chrome->left_out())));
  }
  if (arguments.lcov.empty()) return;
  OutputFile file(arguments.lcov);
  const FlowCoverage::Lines lines = results.coverage.write(file);
  file.close();
  if (lines.all == 0)
    console.warning(fmt::format(
        "{}: none of the code has line tables (compile with -g, or install debug files)", arguments.lcov));
  else
    console.note(
        fmt::format("{} of {} lines were executed", human_count(lines.reached), human_count(lines.all)));
}

int run(const Arguments& arguments, Console& console) {
  const auto source = open_pt_source(arguments.input);
  if (arguments.replay && !source->is_recording())
    fail(ErrorKind::usage, "{}: --replay is for recordings", source->name());
  Results results;
  if (!arguments.chrome.empty())
    results.chrome = std::make_unique<ChromeTrace>(arguments.chrome,
                                                   std::filesystem::path(source->name()).filename().string(),
                                                   arguments.chrome_limit, results.names);
  Output output;
  std::vector<std::unique_ptr<PtCode>> codes;  // functions and lines are in them
  std::set<std::string> warnings;
  std::vector<std::string> without_psb;
  for (size_t i = 0; i < source->streams().size(); ++i) {
    const PtStream& info = source->streams()[i];
    const bool several = source->streams().size() > 1;
    codes.push_back(std::make_unique<PtCode>(arguments.code, *source, i));
    warnings.insert(codes.back()->warnings().begin(), codes.back()->warnings().end());
    if (several && arguments.prints() && !arguments.json) output.line(fmt::format("{}:", info.name));
    if (results.chrome != nullptr) results.chrome->begin_stream(i, info.name);
    Stream stream(arguments, *codes.back(), info.name, several, results, output);
    PtProgress progress(stream, info, console);
    if (arguments.replay) {
      const std::string why = read_in_replay(*source, i, progress, *codes.back(), arguments.machine,
                                             arguments.untrusted, [&stream] { return stream.done(); });
      if (!why.empty()) warnings.insert(fmt::format("{}: the trace has no end: {}", source->name(), why));
    } else {
      source->read(i, progress);
    }
    stream.finish();
    if (progress.without_psb()) without_psb.push_back(info.name);
    if (results.chrome != nullptr) results.chrome->end_stream();
  }
  console.clear_progress();
  write_files(arguments, *source, results, console);
  if (arguments.stats) print_stats(arguments, results, output);
  output.flush();
  for (const std::string& warning : warnings) console.warning(warning);
  for (const std::string& warning : source->warnings())
    console.warning(fmt::format("{}: {}", source->name(), warning));
  require_psb(*source, without_psb);
  bool has_marks = true;
  for (size_t i = 0; i < source->streams().size(); ++i) has_marks = has_marks && source->has_marks(i);
  const char* const why_missing =
      arguments.replay          ? "written over before the next event"
      : !source->is_recording() ? "made at run time, or a file that was not given"
      : has_marks               ? "made at run time: --replay gets it"
                  : "made at run time: of a trace made by `aftercheck pt synth --force`, --replay gets it";
  judge(results.totals, source->name(), why_missing, console);
  return 0;
}

}  // namespace

Command add_pt_flow(CLI::App& group) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* app =
      group.add_subcommand("flow", "Follow a trace through the code: what executed, in which order");
  app->add_option("INPUT", arguments->input, kPtInputHelp)->required()->type_name("");
  add_pt_code_options(*app, arguments->code);
  CLI::Option* replay =
      app->add_flag("--replay", arguments->replay,
                    "Replay the recording meanwhile, for the code that the program wrote at run time");
  add_machine_option(*app, arguments->machine)->needs(replay);
  add_untrusted_flag(*app, arguments->untrusted)->needs(replay);
  app->add_flag("--branches", arguments->branches, "Print branches that were taken, not blocks");
  app->add_option("--limit", arguments->limit, "At most so many lines of blocks or branches")->type_name("N");
  app->add_flag("--stats", arguments->stats, "Print totals and the functions that executed most");
  app->add_option("--lcov", arguments->lcov, "Write line coverage, as lcov's tracefile")->type_name("FILE");
  app->add_option("--folded", arguments->folded, "Write instructions per stack of calls, for flame graphs")
      ->type_name("FILE");
  app->add_option("--chrome", arguments->chrome, "Write calls in Chrome's trace format, for ui.perfetto.dev")
      ->type_name("FILE");
  app->add_option("--chrome-limit", arguments->chrome_limit, "At most so many calls in that file")
      ->type_name("N")
      ->capture_default_str();
  app->add_flag("-q,--quiet", arguments->quiet, "Print no blocks: only whether everything could be followed");
  app->add_flag("--json", arguments->json, "One JSON object a line; --stats: one object");
  app->footer(
      "Without another output, each line is a block: addresses of its first and last instruction, how many\n"
      "there are (direct jumps and calls are followed), and the function. A recording has its code in it; "
      "for\n"
      "perf.data the files are read that it names; for raw AUX bytes name the code with --image or --pages.\n"
      "Code that a program makes at run time is in no file: of a recording --replay gets it, as it is at "
      "the\n"
      "end of each stretch between two events; else it shows as missing.\n\n"
      "Examples:\n"
      "  aftercheck pt flow --limit 100 recording-ls-1\n"
      "  aftercheck pt flow --folded stacks.txt perf.data && flamegraph.pl stacks.txt > flames.svg\n"
      "  aftercheck pt flow --lcov run.info recording && genhtml run.info -o coverage\n"
      "  aftercheck pt flow --image prog@0x401000:0x1000:0x5000 --cpu 6/94 --stats trace.pt\n\n"
      "Exit status:\n"
      "  0   followed, except for code that was not at hand (with a warning)\n"
      "  2   usage, or damage, or trace and code do not fit somewhere (what could be followed is written)\n"
      "  3   divergence: the replay of --replay left the recording\n"
      "  70  a bug of aftercheck");
  return {app, [arguments](Console& console) { return run(*arguments, console); }, nullptr};
}

}  // namespace aftercheck::tools
