#include <algorithm>
#include <bitset>
#include <cctype>
#include <limits>

#include "base/error.h"
#include "pt-trace/packet_stream.h"
#include "tools/output.h"
#include "tools/pt_code.h"
#include "tools/pt_command.h"
#include "tools/pt_packet_text.h"
#include "tools/pt_source.h"

namespace aftercheck::tools {
namespace {

constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

using Kinds = std::bitset<pt::packet_type_count>;

struct Arguments {
  std::string input, cpu;
  std::vector<std::string> kinds;
  bool json = false;
  uint64_t from = 0, to = kNoLimit, limit = kNoLimit;
};

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

std::string type_name(size_t type) { return std::string(pt::packet_name(static_cast<pt::PacketType>(type))); }

// The packet types that the words name; a part before a dot names all that begin so ("tip": TIP.PGE too).
Kinds kinds_of(const std::vector<std::string>& words) {
  Kinds kinds;
  if (words.empty()) return kinds.set();
  for (const std::string& word : words) {
    const std::string wanted = lower(word);
    bool known = false;
    for (size_t type = 0; type < kinds.size(); ++type) {
      const std::string name = lower(type_name(type));
      if (name != wanted && !name.starts_with(wanted + ".") && !name.starts_with(wanted + "-")) continue;
      kinds.set(type);
      known = true;
    }
    if (known) continue;
    std::string all;
    for (size_t type = 0; type < kinds.size(); ++type) all += (type == 0 ? "" : " ") + type_name(type);
    fail(ErrorKind::usage, "--kind {}: no such packet; there are {}", word, all);
  }
  return kinds;
}

// Prints packets and what stands between them. PAD bytes in a row are one line.
class Printer : public PtSink {
 public:
  Printer(const Arguments& arguments, const std::string& stream, bool names_stream, const pt::Errata& errata,
          Output& output)
      : arguments_(arguments),
        kinds_(kinds_of(arguments.kinds)),
        stream_(names_stream ? stream : ""),
        output_(output),
        packets_([this](const pt::ScannedPacket& packet) { on_packet(packet); },
                 [this](const pt::ScanError& damage) { on_damage(damage); }, errata) {}

  void bytes(uint64_t, std::span<const uint8_t> bytes) override {
    if (!done_) packets_.feed(bytes);
  }
  void lost(uint64_t offset, uint64_t resume, const std::string& why) override {
    if (done_) return;
    packets_.mark_lost(resume);
    flush_padding();
    trouble("lost", offset, fmt::format("AUX data lost up to {:#x}: {}", resume, why));
  }
  void mark(uint64_t offset, uint64_t event) override {
    if (done_ || offset < arguments_.from || offset > arguments_.to || !kinds_.all()) return;
    flush_padding();
    if (arguments_.json)
      print(Json{{"offset", offset}, {"event", event}});
    else
      print(offset, "--", fmt::format("event {}", event));
  }
  void finish() {
    packets_.finish();
    flush_padding();
  }
  uint64_t printed() const { return printed_; }
  bool done() const { return done_; }
  // Places where the bytes were no packets, in all of the range.
  uint64_t damaged() const { return damaged_; }

 private:
  bool wanted(uint64_t offset, pt::PacketType type) {
    if (done_ || offset < arguments_.from) return false;
    if (offset > arguments_.to || printed_ == arguments_.limit) {
      done_ = true;
      return false;
    }
    return kinds_.test(static_cast<size_t>(type));
  }

  void on_packet(const pt::ScannedPacket& packet) {
    if (packet.packet.type == pt::PacketType::pad) {
      if (padding_ == 0) padding_start_ = packet.offset;
      ++padding_;
      return;
    }
    flush_padding();
    if (!wanted(packet.offset, packet.packet.type)) return;
    if (arguments_.json)
      print(packet_json(packet));
    else
      print(packet.offset, std::string(pt::packet_name(packet.packet.type)), packet_details(packet));
    ++printed_;
  }

  void flush_padding() {
    const uint64_t count = std::exchange(padding_, 0);
    if (count == 0 || !wanted(padding_start_, pt::PacketType::pad)) return;
    if (arguments_.json)
      print(Json{{"offset", padding_start_}, {"packet", "PAD"}, {"size", count}});
    else
      print(padding_start_, "PAD", fmt::format("{} byte{}", count, count == 1 ? "" : "s"));
    ++printed_;
  }

  void on_damage(const pt::ScanError& damage) {
    flush_padding();
    ++damaged_;
    trouble("damage", damage.offset, damage.text() + "; goes on at the next PSB");
  }

  void trouble(const char* kind, uint64_t offset, const std::string& text) {
    if (done_ || offset < arguments_.from || offset > arguments_.to) return;
    if (arguments_.json)
      print(Json{{"offset", offset}, {"trouble", kind}, {"message", text}});
    else
      print(offset, "!", text);
  }

  void print(Json json) {
    if (!stream_.empty()) json["stream"] = stream_;
    output_.json_line(json);
  }
  void print(uint64_t offset, const std::string& name, const std::string& details) {
    const std::string line = fmt::format("{:010x}  {:<9} {}", offset, name, details);
    output_.line(line.substr(0, line.find_last_not_of(' ') + 1));
  }

  const Arguments& arguments_;
  const Kinds kinds_;
  const std::string stream_;
  Output& output_;
  pt::PacketStream packets_;
  uint64_t padding_ = 0, padding_start_ = 0, printed_ = 0, damaged_ = 0;
  bool done_ = false;
};

int run(const Arguments& arguments, Console& console) {
  kinds_of(arguments.kinds);  // says what is wrong before anything is opened
  const auto source = open_pt_source(arguments.input);
  Output output;
  uint64_t damaged = 0;
  std::vector<std::string> without_psb;
  for (size_t i = 0; i < source->streams().size(); ++i) {
    const PtStream& stream = source->streams()[i];
    const bool several = source->streams().size() > 1;
    if (several && !arguments.json) output.line(fmt::format("{}:", stream.name));
    Printer printer(arguments, stream.name, several, pt_errata(arguments.cpu, *source, i), output);
    PtProgress progress(printer, stream, console);
    source->read(i, progress);
    printer.finish();
    if (progress.without_psb()) without_psb.push_back(stream.name);
    damaged += printer.damaged();
  }
  console.clear_progress();
  output.flush();
  for (const std::string& warning : source->warnings())
    console.warning(fmt::format("{}: {}", source->name(), warning));
  require_psb(*source, without_psb);
  if (damaged > 0)
    fail(ErrorKind::bad_input, "{}: in {} places the bytes are no Intel PT packets; they are marked with `!`",
         source->name(), human_count(damaged));
  return 0;
}

}  // namespace

Command add_pt_dump(CLI::App& group) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* app = group.add_subcommand("dump", "Print the packets of a trace, one a line");
  app->add_option("INPUT", arguments->input, kPtInputHelp)->required()->type_name("");
  app->add_option("--kind", arguments->kinds,
                  "Only these packets: TNT, TIP (with TIP.PGE and TIP.PGD), PSB, ...")
      ->type_name("NAME,...")
      ->delimiter(',');
  app->add_option("--from", arguments->from, "First offset")->type_name("OFFSET");
  app->add_option("--to", arguments->to, "Last offset")->type_name("OFFSET");
  app->add_option("--limit", arguments->limit, "At most so many lines")->type_name("N");
  add_pt_cpu_option(*app, arguments->cpu);
  app->add_flag("--json", arguments->json, "One JSON object a line");
  app->footer(
      "Each line has the offset in the trace (hexadecimal), the packet's name in Intel's manual and what it\n"
      "says: outcomes of conditional branches, the oldest first (T taken, N not), or an address with its\n"
      "compression undone. In recordings, lines with `--` tell which event of the log was answered there. "
      "Bytes that are no packets, and places where data was lost, are lines with `!`.\n\n"
      "Examples:\n"
      "  aftercheck pt dump --kind TIP,FUP perf.data\n"
      "  aftercheck pt dump --from 0x1000 --limit 20 trace.pt\n"
      "  aftercheck pt dump --json trace.pt | jq -r 'select(.packet == \"TIP\").address' | sort | uniq -c\n\n"
      "Exit status:\n"
      "  0   printed\n"
      "  2   usage, or damaged: some bytes are no packets (the rest is printed), or there is no PSB\n"
      "  70  a bug of aftercheck");
  return {app, [arguments](Console& console) { return run(*arguments, console); }, nullptr};
}

}  // namespace aftercheck::tools
