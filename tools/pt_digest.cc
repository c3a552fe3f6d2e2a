#include <deque>

#include "base/error.h"
#include "pt-trace/branch_stream.h"
#include "tools/output.h"
#include "tools/pt_code.h"
#include "tools/pt_command.h"
#include "tools/pt_source.h"

namespace aftercheck::tools {
namespace {

struct Arguments {
  std::string input, cpu;
  bool json = false, totals_only = false;
};

std::string hex(const pt::StreamDigest& digest) {
  return fmt::format("{:016x}{:016x}", digest.high, digest.low);
}

// Prints each exit of one stream.
class Printer : public PtSink {
 public:
  Printer(const Arguments& arguments, const std::string& stream, const pt::Errata& errata, Output& output)
      : arguments_(arguments),
        name_(stream),
        output_(output),
        stream_([this](const pt::StreamExit& exit) { on_exit(exit); },
                [this](const pt::StreamDamage& damage) { on_damage(damage); }, errata) {}

  void bytes(uint64_t, std::span<const uint8_t> bytes) override { stream_.feed(bytes); }
  void lost(uint64_t offset, uint64_t resume, const std::string& why) override {
    stream_.mark_lost();
    trouble("lost", offset, why);
    lost_ = resume - stream_.totals().bytes;
  }
  void mark(uint64_t offset, uint64_t event) override { marks_.push_back({offset, event}); }
  void finish() { stream_.finish(); }
  const pt::StreamTotals& totals() const { return stream_.totals(); }

  void print_totals() {
    const pt::StreamTotals& t = totals();
    const std::string rolling = hex(last_);
    if (arguments_.json) {
      output_.json_line({{"stream", name_},
                         {"totals", true},
                         {"bytes", t.bytes},
                         {"branch_bits", t.branch_bits},
                         {"targets", t.targets},
                         {"exits", t.exits},
                         {"unverified_exits", unverified_},
                         {"interruptions", t.interruptions},
                         {"overflows", t.overflows},
                         {"damaged", t.damaged},
                         {"rolling", rolling}});
      return;
    }
    output_.line(
        fmt::format("{}: {} bytes, {} conditional outcomes, {} indirect targets, {} exits ({} unverified)",
                    name_, human_count(t.bytes), human_count(t.branch_bits), human_count(t.targets),
                    human_count(t.exits), human_count(unverified_)));
    output_.line(fmt::format("{} interruptions by the host removed, {} losses, {} damaged places",
                             human_count(t.interruptions), human_count(t.overflows), human_count(t.damaged)));
    output_.line("digest " + rolling);
  }

 private:
  struct Mark {
    uint64_t offset, event;
  };

  // The event that was answered behind this place; nothing where the trace has no marks.
  std::optional<uint64_t> event_behind(uint64_t offset) {
    while (!marks_.empty() && marks_.front().offset <= offset) marks_.pop_front();
    if (marks_.empty()) return std::nullopt;
    return marks_.front().event;
  }

  void on_exit(const pt::StreamExit& exit) {
    last_ = exit.rolling;
    unverified_ += exit.verified ? 0 : 1;
    const auto event = event_behind(exit.offset);
    if (arguments_.totals_only) return;
    if (arguments_.json) {
      Json json{{"stream", name_}, {"exit", exit.index}, {"offset", exit.offset + lost_}};
      if (event) json["event"] = *event;
      json["asynchronous"] = exit.asynchronous;
      json["from"] = exit.asynchronous ? Json(fmt::format("{:#x}", exit.from)) : Json(nullptr);
      json["resume"] = exit.has_resume ? Json(fmt::format("{:#x}", exit.resume)) : Json(nullptr);
      json["branch_bits"] = exit.branch_bits;
      json["targets"] = exit.targets;
      json["verified"] = exit.verified;
      json["segment"] = hex(exit.segment);
      json["rolling"] = hex(exit.rolling);
      output_.json_line(json);
      return;
    }
    output_.line(fmt::format("{:>8} {:010x} {:>10} {:>8} {} {}{}{}{}", exit.index, exit.offset + lost_,
                             exit.branch_bits, exit.targets, hex(exit.segment), hex(exit.rolling),
                             event ? fmt::format(" event {}", *event) : "",
                             exit.asynchronous ? fmt::format(" before {:#x}", exit.from) : "",
                             exit.verified ? "" : " unverified"));
  }

  void on_damage(const pt::StreamDamage& damage) {
    trouble("damage", damage.offset + lost_, std::string(pt::status_text(damage.status)));
  }

  void trouble(const char* kind, uint64_t offset, const std::string& text) {
    if (arguments_.totals_only) return;
    if (arguments_.json)
      output_.json_line({{"stream", name_}, {"offset", offset}, {"trouble", kind}, {"message", text}});
    else
      output_.line(fmt::format("{:>8} {:010x} {}: {}", "!", offset, kind, text));
  }

  const Arguments& arguments_;
  const std::string name_;
  Output& output_;
  pt::BranchStream stream_;
  std::deque<Mark> marks_;  // those that no exit has passed
  pt::StreamDigest last_{};
  uint64_t unverified_ = 0, lost_ = 0;
};

int run(const Arguments& arguments, Console& console) {
  const auto source = open_pt_source(arguments.input);
  Output output;
  uint64_t damaged = 0;
  std::vector<std::string> without_psb;
  for (size_t i = 0; i < source->streams().size(); ++i) {
    const PtStream& stream = source->streams()[i];
    if (!arguments.json && !arguments.totals_only)
      output.line(fmt::format("{:>8} {:<10} {:>10} {:>8} {:<32} {:<32}", "exit", "offset", "outcomes",
                              "targets", "digest of the segment", "digest of all up to here"));
    Printer printer(arguments, stream.name, pt_errata(arguments.cpu, *source, i), output);
    PtProgress progress(printer, stream, console);
    source->read(i, progress);
    printer.finish();
    if (progress.without_psb()) without_psb.push_back(stream.name);
    printer.print_totals();
    damaged += printer.totals().damaged;
    if (source->perf_data() != nullptr && source->flow_options(i).return_compression)
      console.warning(
          fmt::format("{}: {}: made with return compression (no `noretcomp=1`): runs of one program "
                      "may differ in digest all the same",
                      source->name(), stream.name));
  }
  console.clear_progress();
  output.flush();
  for (const std::string& warning : source->warnings())
    console.warning(fmt::format("{}: {}", source->name(), warning));
  require_psb(*source, without_psb);
  if (damaged > 0)
    fail(ErrorKind::bad_input, "{}: in {} places the bytes are no Intel PT packets", source->name(),
         human_count(damaged));
  return 0;
}

}  // namespace

Command add_pt_digest(CLI::App& group) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* app =
      group.add_subcommand("digest", "Digest the branches of a trace, with a value for every exit");
  app->add_option("INPUT", arguments->input, kPtInputHelp)->required()->type_name("");
  app->add_flag("--totals", arguments->totals_only, "Only the totals, not the exits");
  add_pt_cpu_option(*app, arguments->cpu);
  app->add_flag("--json", arguments->json, "One JSON object a line");
  app->footer(
      "Two runs that executed the same instructions have the same digests, whatever else their traces "
      "differ\n"
      "in: packets that only the host or the hardware caused do not count. An exit is where tracing went "
      "off:\n"
      "a system call, a fault, a trap. A digest is unverified where data was lost before it; the digest of "
      "all\n"
      "begins anew there.\n\n"
      "Examples:\n"
      "  aftercheck pt digest --totals perf.data\n"
      "  diff <(aftercheck pt digest --json a) <(aftercheck pt digest --json b)\n\n"
      "Exit status:\n"
      "  0   printed\n"
      "  2   usage, or damaged: some bytes are no packets (the rest is printed), or there is no PSB\n"
      "  70  a bug of aftercheck");
  return {app, [arguments](Console& console) { return run(*arguments, console); }, nullptr};
}

}  // namespace aftercheck::tools
