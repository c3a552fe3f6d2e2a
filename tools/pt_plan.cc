#include <algorithm>
#include <charconv>
#include <optional>

#include "base/error.h"
#include "pt-trace/landing_plan.h"
#include "tools/output.h"
#include "tools/pt_code.h"
#include "tools/pt_command.h"
#include "tools/pt_source.h"

namespace aftercheck::tools {
namespace {

struct Arguments {
  std::string input, to;
  PtCodeOptions code;
  std::optional<uint64_t> event;
  uint64_t most_blocks = pt::SegmentFlow::default_most_blocks;
  size_t stream = 0;
  bool json = false;
};

std::string hex(uint64_t value) { return fmt::format("{:#x}", value); }

// What --to says: an address or a function's name, and which of its hits.
struct Target {
  std::string place;
  uint64_t nth = 1;
  std::optional<uint64_t> address;
};

std::optional<uint64_t> parse(const std::string& text, int base) {
  uint64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (text.empty() || result.ec != std::errc() || result.ptr != text.data() + text.size())
    return std::nullopt;
  return value;
}

Target parse_target(const std::string& text) {
  Target target;
  target.place = text;
  if (const size_t colon = text.rfind(':'); colon != std::string::npos)
    if (const auto nth = parse(text.substr(colon + 1), 10)) {
      target.nth = *nth;
      target.place = text.substr(0, colon);
    }
  if (target.nth == 0) fail(ErrorKind::usage, "--to {}: hits count from 1", text);
  if (target.place.starts_with("0x")) {
    target.address = parse(target.place.substr(2), 16);
    if (!target.address) fail(ErrorKind::usage, "--to {}: {} is no address", text, target.place);
  }
  return target;
}

// Follows the trace up to the wanted instruction, with the segment that it lies in.
class Search : public PtSink, public pt::FlowSink {
 public:
  Search(const Arguments& arguments, PtCode& code, bool has_marks)
      : arguments_(arguments),
        code_(code),
        has_marks_(has_marks),
        target_(parse_target(arguments.to)),
        decoder_(code.image(), *this, code.flow_options()) {
    begin_segment(0);
  }

  void bytes(uint64_t, std::span<const uint8_t> bytes) override {
    if (!found_) decoder_.feed(bytes);
  }
  void lost(uint64_t, uint64_t, const std::string&) override {
    if (found_) return;
    decoder_.mark_lost();
    whole_ = false;
  }
  void mark(uint64_t, uint64_t event) override {
    if (found_) return;
    code_.answered(event);
    begin_segment(event);
  }
  void finish() {
    if (!found_) decoder_.finish();
  }

  void on_blocks(std::span<const pt::BlockId> blocks) override {
    if (found_ || !flow_ || (arguments_.event && segment_ != *arguments_.event)) return;
    flow_->add(blocks);
    found_ = before_ + flow_->hits(0) >= target_.nth;
  }
  void on_event(const pt::FlowEvent& event) override {
    // What comes behind the wanted execution must not begin another segment: plans are made of this one.
    if (found_) return;
    if (flow_) flow_->add(event);
    switch (event.kind) {
      case pt::FlowEventKind::error:
      case pt::FlowEventKind::overflow:
        whole_ = false;
        break;
      case pt::FlowEventKind::async_disabled:
        paused_at_ = event.from;
        break;
      case pt::FlowEventKind::disabled:
        paused_at_.reset();
        break;
      case pt::FlowEventKind::enabled:
        // Without marks, segments end where tracing went off, but not where the host merely interrupted.
        if (!has_marks_ && started_ && paused_at_ != event.to) begin_segment(segment_ + 1);
        started_ = true;
        break;
      default:
        break;
    }
  }

  bool found() const { return found_; }
  // Nothing of the segment is missing in front of the wanted instruction.
  bool whole() const { return whole_; }
  uint64_t segment() const { return segment_; }
  // Where no plan was found: how often the address was executed in what was asked for.
  uint64_t hits() const { return before_ + (flow_ ? flow_->hits(0) : 0); }
  uint64_t address() const { return *target_.address; }
  uint64_t nth_in_segment() const { return target_.nth - before_; }
  const Target& target() const { return target_; }
  pt::SegmentFlow& flow() { return *flow_; }

 private:
  void begin_segment(uint64_t number) {
    // With --event nothing is added behind its segment, so this counts that segment alone.
    if (flow_) before_ += flow_->hits(0);
    if (!target_.address && generation_ != code_.image().generation()) resolve();
    if (flow_)
      flow_->clear();
    else if (target_.address)
      flow_.emplace(decoder_, std::vector<uint64_t>{*target_.address}, arguments_.most_blocks);
    segment_ = number;
    whole_ = true;
  }

  void resolve() {
    generation_ = code_.image().generation();
    const auto addresses = code_.symbols().addresses_of(target_.place);
    if (addresses.size() > 1)
      fail(ErrorKind::usage,
           "--to {}: several functions have this name, at {:#x} and {:#x}; write the address", arguments_.to,
           addresses[0], addresses[1]);
    if (!addresses.empty()) target_.address = addresses[0];
  }

  const Arguments& arguments_;
  PtCode& code_;
  const bool has_marks_;
  Target target_;
  pt::FlowDecoder decoder_;
  std::optional<pt::SegmentFlow> flow_;
  uint64_t segment_ = 0, before_ = 0;
  uint64_t generation_ = ~uint64_t{0};
  std::optional<uint64_t> paused_at_;
  bool found_ = false, whole_ = true, started_ = false;
};

std::string where(const Arguments& arguments, const PtSource& source, uint64_t segment) {
  if (source.has_marks(arguments.stream)) return fmt::format("the segment after event {}", segment);
  return fmt::format("segment {}", segment);
}

void print(const Arguments& arguments, const PtSource& source, const PtCode& code, Search& search,
           const pt::LandingPlan& plan, Output& output) {
  if (arguments.json) {
    Json json{{"address", hex(search.address())}, {"nth", search.target().nth}};
    json[source.has_marks(arguments.stream) ? "event" : "segment"] = search.segment();
    json["nth_in_segment"] = search.nth_in_segment();
    json["stops"] = plan.cost;
    json["naive_stops"] = plan.naive;
    json["optimal"] = plan.optimal;
    json["chain"] = Json::array();
    for (const pt::LandingStop& stop : plan.stops)
      json["chain"].push_back({{"address", hex(stop.address)},
                               {"hits", stop.hits},
                               {"symbol", code.symbols().text(stop.address)}});
    return output.json(json);
  }
  output.line(fmt::format("{} {}, hit {} in {}", hex(search.address()), code.symbols().text(search.address()),
                          human_count(search.nth_in_segment()), where(arguments, source, search.segment())));
  for (const pt::LandingStop& stop : plan.stops)
    output.line(fmt::format("  until {:<18} was hit {:>8}   {}", hex(stop.address), human_count(stop.hits),
                            code.symbols().text(stop.address)));
  output.line(fmt::format("{} stops; {} with a breakpoint at the address alone{}", human_count(plan.cost),
                          human_count(plan.naive),
                          plan.optimal ? "" : "; the segment was too long to say whether fewer would do"));
}

int run(const Arguments& arguments, Console& console) {
  const auto source = open_pt_source(arguments.input);
  if (arguments.stream >= source->streams().size())
    fail(ErrorKind::usage, "--stream {}: there are {} streams in {}, counted from 0", arguments.stream,
         source->streams().size(), source->name());
  PtCode code(arguments.code, *source, arguments.stream);
  Search search(arguments, code, source->has_marks(arguments.stream));
  PtProgress progress(search, source->streams()[arguments.stream], console);
  source->read(arguments.stream, progress);
  search.finish();
  console.clear_progress();
  for (const std::string& warning : code.warnings()) console.warning(warning);
  if (progress.without_psb()) require_psb(*source, {source->streams()[arguments.stream].name});
  const Target& target = search.target();
  if (!target.address)
    fail(ErrorKind::usage, "--to {}: no code in this trace has a function of this name; write an address",
         arguments.to);
  if (!search.found())
    fail(ErrorKind::usage, "{:#x} is executed {} times in {}, so there is no hit {}", *target.address,
         search.hits(), arguments.event ? where(arguments, *source, *arguments.event) : "the trace",
         target.nth);
  if (!search.whole())
    console.warning("parts of this segment are missing in the trace: the plan counts only what is there");
  const pt::LandingPlan plan = search.flow().plan(0, search.nth_in_segment());
  Output output;
  print(arguments, *source, code, search, plan, output);
  output.flush();
  return 0;
}

}  // namespace

Command add_pt_plan(CLI::App& group) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* app = group.add_subcommand("plan", "Find the fewest stops that lead to one executed instruction");
  app->add_option("INPUT", arguments->input, kPtInputHelp)->required()->type_name("");
  app->add_option(
         "--to", arguments->to,
         "The instruction's address (0x...) or a function's name, and which execution of it: the first, "
         "or the NTH")
      ->required()
      ->type_name("PLACE[:NTH]");
  app->add_option("--event", arguments->event,
                  "Count executions in the segment after this event of the recording (of traces without "
                  "events: in this segment), not from the beginning")
      ->type_name("N");
  app->add_option("--stream", arguments->stream, "Which thread or CPU of the trace, from 0")->type_name("N");
  app->add_option(
         "--most-blocks", arguments->most_blocks,
         "Keep so many blocks of a segment, 4 bytes each; of longer ones, plans may not be the shortest")
      ->type_name("N")
      ->check(CLI::PositiveNumber.description(""))
      ->capture_default_str();
  add_pt_code_options(*app, arguments->code);
  app->add_flag("--json", arguments->json, "Print JSON");
  app->footer(
      "A debugger or checker that wants to stop a replay at, say, the millionth execution of an instruction\n"
      "would stop there a million times. A plan is a short chain of breakpoints, each waited for so many\n"
      "times, that ends at the same place; it holds within one segment, the run between two events.\n\n"
      "Examples:\n"
      "  aftercheck pt plan --to 0x401136:100000 recording\n"
      "  aftercheck pt plan --to compute:5 --event 312 --json recording\n\n"
      "Exit status:\n"
      "  0   printed\n"
      "  2   usage (the instruction is not executed so often), or bad input\n"
      "  70  a bug of aftercheck");
  return {app, [arguments](Console& console) { return run(*arguments, console); }, nullptr};
}

}  // namespace aftercheck::tools
