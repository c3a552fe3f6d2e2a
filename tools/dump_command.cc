#include <sys/mman.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>

#include "base/error.h"
#include "machine/trapped_instruction.h"
#include "pt-replay/recorded_code.h"
#include "recording/meta.h"
#include "recording/position.h"
#include "recording/processes.h"
#include "recording/reader.h"
#include "recording/store.h"
#include "system-calls/system_call_names.h"
#include "tools/command.h"
#include "tools/event_text.h"
#include "tools/output.h"

namespace aftercheck::tools {
namespace {

using recording::Event;
using recording::EventKind;
using recording::SpaceOp;
using recording::SpaceOpKind;

constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

struct Arguments {
  uint32_t process = 0;
  std::filesystem::path directory;
  bool json = false, verbose = false, symbols = false;
  uint64_t from = 0, to = kNoLimit, limit = kNoLimit;
};

std::string register_name(uint8_t number) {
  return number < std::size(kRegisterNames) ? kRegisterNames[number] : fmt::format("register {}", number);
}

std::string hex(uint64_t value) { return fmt::format("{:#x}", value); }

std::string protection(uint32_t prot) {
  std::string text = "---";
  if ((prot & PROT_READ) != 0) text[0] = 'r';
  if ((prot & PROT_WRITE) != 0) text[1] = 'w';
  if ((prot & PROT_EXEC) != 0) text[2] = 'x';
  return text;
}

// The first bytes of a write: as text where they are text, else in hexadecimal.
std::string preview(std::span<const std::byte> bytes) {
  constexpr size_t kText = 40, kHex = 16;
  auto plain = [](std::byte byte) {
    const auto c = static_cast<unsigned char>(byte);
    return (c >= ' ' && c < 0x7f) || c == '\n' || c == '\t' || c == '\r';
  };
  const auto start = bytes.first(std::min(kText, bytes.size()));
  std::string text;
  if (std::all_of(start.begin(), start.end(), plain)) {
    for (const std::byte byte : start) {
      const char c = static_cast<char>(byte);
      if (c == '\n')
        text += "\\n";
      else if (c == '\t')
        text += "\\t";
      else if (c == '\r')
        text += "\\r";
      else if (c == '"' || c == '\\')
        text += std::string("\\") + c;
      else
        text += c;
    }
    return fmt::format("\"{}\"{}", text, bytes.size() > kText ? "..." : "");
  }
  for (const std::byte byte : bytes.first(std::min(kHex, bytes.size())))
    text += fmt::format("{}{:02x}", text.empty() ? "" : " ", static_cast<unsigned>(byte));
  return text + (bytes.size() > kHex ? " ..." : "");
}

std::string describe_space_op(const SpaceOp& op) {
  std::string text = fmt::format("{} {:#x}", name(op.kind), op.address);
  if (op.kind == SpaceOpKind::clear) return name(op.kind);
  if (op.kind == SpaceOpKind::resize_file)
    return fmt::format("{} {} to {} bytes", name(op.kind), op.new_address, op.new_length);
  if (op.kind == SpaceOpKind::fill_file)
    return fmt::format("{} {} from {:#x}+{:#x} {}", name(op.kind), op.new_address, op.new_length, op.length,
                       !op.bytes.empty()                   ? preview(op.bytes)
                       : op.blob == recording::Digest128{} ? "zeros"
                                                           : "blob " + recording::to_hex(op.blob));
  text += fmt::format("+{:#x}", op.length);
  switch (op.kind) {
    case SpaceOpKind::map_anonymous:
    case SpaceOpKind::map_blob:
      text += fmt::format(" {}{}", protection(op.prot), op.shared ? " shared" : "");
      if (op.kind == SpaceOpKind::map_blob)
        text += op.blob == recording::Digest128{}
                    ? fmt::format(" file {} offset {:#x}", op.new_address, op.new_length)
                    : fmt::format(" blob {} offset {:#x}", recording::to_hex(op.blob), op.blob_offset);
      if (!op.name.empty()) text += " " + op.name;
      break;
    case SpaceOpKind::protect:
      text += " " + protection(op.prot);
      break;
    case SpaceOpKind::remap:
      text += fmt::format(" to {:#x}+{:#x}", op.new_address, op.new_length);
      break;
    default:
      break;
  }
  return text;
}

uint64_t length_of(const recording::Output& output) {
  uint64_t length = 0;
  for (const auto& piece : output.pieces) length += piece.length;
  return length;
}

std::string describe_output_step(const recording::OutputStep& step) {
  const char* stream = step.stream == 1 ? "standard output" : "standard error";
  switch (step.kind) {
    case recording::OutputStepKind::bytes:
      return fmt::format("{} bytes copied to {}", step.bytes.size(), stream);
    case recording::OutputStepKind::seek:
      return fmt::format("{} goes on at offset {}", stream, step.offset);
    case recording::OutputStepKind::resize:
      break;
  }
  return fmt::format("{} ends at offset {}", stream, step.offset);
}

const char* instruction_name(uint8_t kind) {
  return kind <= static_cast<uint8_t>(kLastTrappedKind) ? aftercheck::name(static_cast<TrappedKind>(kind))
                                                        : "unknown";
}

void print_details(const Event& event, Output& output) {
  auto detail = [&](const std::string& text) { output.line("                        " + text); };
  detail(fmt::format("at {:#x}, thread {}, digest {:08x}", event.rip, event.thread, event.digest));
  for (const auto& stretch : event.memory)
    detail(fmt::format("memory {:#x}+{:#x} digest {}", stretch.address, stretch.length,
                       recording::to_hex(stretch.digest)));
  for (const auto& change : event.registers)
    detail(fmt::format("{} = {:#x}", register_name(change.number), change.value));
  if (!event.fpu.empty()) detail(fmt::format("x87 and SSE registers set, {} bytes", event.fpu.size()));
  for (const SpaceOp& op : event.space_ops) detail(describe_space_op(op));
  for (const auto& write : event.writes)
    detail(fmt::format("write {:#x}+{:#x} {}", write.address, write.bytes.size(), preview(write.bytes)));
  for (const auto& patch : event.patches)
    detail(
        fmt::format("patch {:#x} {}, {} bytes", patch.address, instruction_name(patch.kind), patch.length));
  for (const auto& out : event.outputs)
    detail(fmt::format("output of {} bytes to descriptor {}{}, digest {:016x}", length_of(out), out.fd,
                       out.stream == 0   ? ""
                       : out.stream == 1 ? " (standard output)"
                                         : " (standard error)",
                       out.digest));
  for (const auto& step : event.output_steps) detail(describe_output_step(step));
}

// What threads do, as far as lines about one event need to know of others.
class Threads {
 public:
  // Every event, in order.
  void saw(const Event& event, uint64_t number) {
    several_ |= event.kind == EventKind::thread_start;
    // A hostile log may have any number of them.
    constexpr size_t kMost = 1 << 16;
    if (event.kind == EventKind::syscall && !event.operands.empty() && calls_.size() < kMost)
      calls_[event.thread] = {number, event.operands[0]};
    if (event.kind == EventKind::thread_end) calls_.erase(event.thread);
  }
  // Looks through the log for answers that come later than their calls.
  void look_ahead(const std::filesystem::path& directory) {
    try {
      Threads all;
      recording::Reader reader(directory);
      while (const Event* event = reader.next()) {
        all.saw(*event, reader.number());
        if (const auto call = all.call_of(*event)) answered_later_.push_back(call->event);
      }
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::bad_input) throw;  // whoever prints comes to it, too
    }
    std::ranges::sort(answered_later_);
  }
  // Is the result of the call at this event not in it?
  bool answered_later(uint64_t number) const { return std::ranges::binary_search(answered_later_, number); }
  // Have there been others than the first?
  bool several() const { return several_; }
  // The call that an answer belongs to, if it is one: its event and its number.
  struct Call {
    uint64_t event = 0, call = 0;
  };
  std::optional<Call> call_of(const Event& answer) const {
    const auto found = calls_.find(answer.thread);
    if (answer.kind != EventKind::answer || found == calls_.end()) return std::nullopt;
    return found->second;
  }

 private:
  bool several_ = false;
  std::map<uint32_t, Call> calls_;  // by thread: the last
  std::vector<uint64_t> answered_later_;
};

// "?" where that comes later.
std::string result_of(const Event& event, uint64_t number, const Threads& threads) {
  return threads.answered_later(number) ? "? (answered later)" : describe_result(event);
}

std::string text_of(const Event& event, uint64_t number, const Threads& threads) {
  if (const auto call = threads.call_of(event)) {
    const std::optional<uint64_t> result = rax_in(event);
    return fmt::format("answer to {} of event {}{}", system_call_name(call->call), call->event,
                       result ? " = " + describe_result(*result) : "");
  }
  return describe(event) +
         (event.kind == EventKind::syscall ? " = " + result_of(event, number, threads) : "");
}

void print_text(const Event& event, uint64_t number, const Threads& threads, bool verbose,
                const std::string& symbol, Output& output) {
  output.line(fmt::format("{:>8} {:>14.6f} {}{}", number, static_cast<double>(event.time_ns) * 1e-9,
                          threads.several() ? fmt::format("[thread {}] ", event.thread) : "",
                          text_of(event, number, threads)) +
              (symbol.empty() ? "" : "  in " + symbol));
  if (verbose) print_details(event, output);
}

Json to_json(const SpaceOp& op) {
  Json json{{"op", name(op.kind)}};
  if (op.kind == SpaceOpKind::clear) return json;
  if (!recording::changes_mappings(op.kind)) {
    json["file"] = op.new_address;
    if (op.kind == SpaceOpKind::resize_file) {
      json["size"] = op.new_length;
      return json;
    }
    json["offset"] = op.new_length;
    json["length"] = op.length;
    if (op.blob != recording::Digest128{}) {
      json["blob"] = recording::to_hex(op.blob);
      json["blob_offset"] = op.blob_offset;
    }
    return json;
  }
  json["address"] = hex(op.address);
  json["length"] = op.length;
  if (op.kind == SpaceOpKind::map_anonymous || op.kind == SpaceOpKind::map_blob) {
    json["prot"] = protection(op.prot);
    json["shared"] = op.shared;
    json["name"] = op.name;
  }
  if (op.kind == SpaceOpKind::protect) json["prot"] = protection(op.prot);
  if (op.kind == SpaceOpKind::map_blob) {
    json["blob"] = recording::to_hex(op.blob);
    json["blob_offset"] = op.blob_offset;
    if (op.new_address != 0) {
      json["file"] = op.new_address;
      json["offset"] = op.new_length;
    }
  }
  if (op.kind == SpaceOpKind::remap) {
    json["new_address"] = hex(op.new_address);
    json["new_length"] = op.new_length;
  }
  return json;
}

// Addresses and register values are strings: they exceed what JSON numbers hold exactly in many readers.
Json to_json(const Event& event, uint64_t number, const Threads& threads, const std::string& symbol) {
  Json json{
      {"event", number}, {"kind", name(event.kind)}, {"thread", event.thread}, {"time_ns", event.time_ns}};
  json["rip"] = hex(event.rip);
  if (!symbol.empty()) json["symbol"] = symbol;
  json["text"] = describe(event);
  if (event.kind == EventKind::syscall) {
    if (!event.operands.empty()) json["call"] = system_call_name(event.operands[0]);
    json["result"] = result_of(event, number, threads);
  }
  if (const auto call = threads.call_of(event)) {
    json["answers"] = call->event;
    json["call"] = system_call_name(call->call);
    if (const std::optional<uint64_t> result = rax_in(event)) json["result"] = describe_result(*result);
  }
  for (const uint64_t operand : event.operands) json["operands"].push_back(hex(operand));
  json["digest"] = fmt::format("{:08x}", event.digest);
  for (const auto& stretch : event.memory)
    json["memory"].push_back({{"address", hex(stretch.address)},
                              {"length", stretch.length},
                              {"digest", recording::to_hex(stretch.digest)}});
  for (const auto& change : event.registers)
    json["registers"][register_name(change.number)] = hex(change.value);
  if (event.branches) json["branches"] = *event.branches;
  if (!event.fpu.empty()) json["fpu_changed"] = true;
  for (const SpaceOp& op : event.space_ops) json["space"].push_back(to_json(op));
  for (const auto& write : event.writes)
    json["writes"].push_back(
        {{"address", hex(write.address)}, {"length", write.bytes.size()}, {"preview", preview(write.bytes)}});
  for (const auto& patch : event.patches)
    json["patches"].push_back({{"address", hex(patch.address)},
                               {"instruction", instruction_name(patch.kind)},
                               {"length", patch.length}});
  for (const auto& out : event.outputs)
    json["outputs"].push_back({{"fd", out.fd},
                               {"stream", out.stream},
                               {"length", length_of(out)},
                               {"digest", fmt::format("{:016x}", out.digest)}});
  for (const auto& step : event.output_steps)
    json["output_steps"].push_back({{"stream", step.stream},
                                    {"text", describe_output_step(step)},
                                    {"before", step.before},
                                    {"offset", step.offset},
                                    {"length", step.bytes.size()}});
  return json;
}

int run(const Arguments& arguments, Console& console) {
  recording::read_meta(arguments.directory);  // says so when this is no recording
  recording::Reader reader(arguments.directory);
  Output output;
  std::optional<RecordedCode> code;
  if (arguments.symbols) code.emplace(arguments.directory);
  // Where an exit happened is told by what was mapped before its answer.
  const auto symbol = [&code](const Event& event, uint64_t number) -> std::string {
    const bool preempted = event.kind == EventKind::preempted;
    if (!code || number == 0 || (!recording::ends_segment(event.kind) && event.kind != EventKind::end))
      return "";
    code->answered(number - 1);
    return code->symbols().text(preempted ? event.operands[0] : event.rip);
  };
  Threads threads;
  uint64_t printed = 0;
  bool stopped = false;
  try {
    while (const Event* event = reader.next()) {
      const uint64_t number = reader.number();
      if (number > arguments.to || printed == arguments.limit) {
        stopped = true;
        break;
      }
      if (event->kind == EventKind::thread_start && !threads.several())
        threads.look_ahead(arguments.directory);
      threads.saw(*event, number);
      if (number < arguments.from) continue;
      if (arguments.json)
        output.json_line(to_json(*event, number, threads, symbol(*event, number)));
      else
        print_text(*event, number, threads, arguments.verbose, symbol(*event, number), output);
      ++printed;
    }
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::bad_input) output.flush();  // what came before the damage is good
    throw;
  }
  output.flush();
  std::string why;
  if (!stopped && reader.truncated(&why)) console.warning("the recording has no end: " + why);
  return 0;
}

}  // namespace

Command add_dump(CLI::App& parent) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* app = parent.add_subcommand("dump", "Print a recording's events, one a line");
  app->add_option("DIR", arguments->directory, "The recording")->required()->type_name("");
  app->add_option("--process", arguments->process, "Of this process (default: 0, the first)")->type_name("N");
  app->add_flag("--json", arguments->json,
                "One JSON object a line, with everything but the bytes of long writes");
  app->add_option("--from", arguments->from, "First event")->type_name("N");
  app->add_option("--to", arguments->to, "Last event")->type_name("N");
  app->add_option("--limit", arguments->limit, "At most so many events")->type_name("N");
  app->add_flag("-v,--verbose", arguments->verbose,
                "Also what was answered: registers, mappings, memory written, code patches, outputs");
  app->add_flag("--symbols", arguments->symbols, "Also the function that the program was in");
  app->footer(
      "Each line has the event's number, the seconds since the start, and what happened: for system calls\n"
      "name, arguments and result. Strings are not shown: a log holds only what the program was answered.\n\n"
      "Examples:\n"
      "  aftercheck dump recording-ls-1 | grep openat\n"
      "  aftercheck dump -v --from 120 --to 130 recording-ls-1\n"
      "  aftercheck dump --json recording-ls-1 | jq 'select(.call == \"read\")'\n\n"
      "Exit status:\n"
      "  0   printed; a recording that was cut short ends with a warning\n"
      "  2   usage, not a recording, or damaged (what comes before the damage is printed)\n"
      "  70  a bug of aftercheck");
  return {app,
          [arguments](Console& console) {
            arguments->directory = recording::directory_of(arguments->directory, arguments->process);
            return run(*arguments, console);
          },
          nullptr};
}

}  // namespace aftercheck::tools
