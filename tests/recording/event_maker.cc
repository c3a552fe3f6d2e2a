#include "event_maker.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <stdlib.h>

#include <algorithm>
#include <fstream>
#include <stdexcept>

#include "recording/digest.h"
#include "recording/format.h"
#include "recording/store.h"

namespace aftercheck::recording::testing {

TemporaryDirectory::TemporaryDirectory() {
  std::string name = (std::filesystem::temp_directory_path() / "aftercheck-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp " + name);
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::vector<std::byte> read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<std::byte> bytes(std::filesystem::file_size(path));
  in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!in) throw std::runtime_error("read " + path.string());
  return bytes;
}

void write_file(const std::filesystem::path& path, const std::vector<std::byte>& bytes) {
  // A new file, because some file systems write a truncated and refilled one to the disk at once.
  std::filesystem::remove(path);
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!out.flush()) throw std::runtime_error("write " + path.string());
}

uint64_t EventMaker::number() {
  switch (below(4)) {
    case 0:
      return below(16);
    case 1:
      return 0x200000000000 + below(1 << 20);
    case 2:
      return 0 - below(200);
    default:
      return random_();
  }
}

Digest128 EventMaker::digest() {
  Digest128 result;
  for (uint8_t& byte : result) byte = static_cast<uint8_t>(random_());
  return result;
}

std::vector<std::byte> EventMaker::bytes(size_t count) {
  std::vector<std::byte> result(count);
  for (std::byte& byte : result) byte = static_cast<std::byte>(random_());
  return result;
}

MemoryWrite EventMaker::write(size_t size) {
  owned_.push_back(bytes(size));
  return {number(), owned_.back()};
}

SpaceOp EventMaker::space_op() {
  SpaceOp op;
  op.kind = static_cast<SpaceOpKind>(below(kLastSpaceOpKind + 1));
  op.address = number();
  op.length = number();
  op.prot = static_cast<uint32_t>(below(8));
  op.shared = below(2) != 0;
  op.new_address = number();
  op.new_length = number();
  if (below(2) != 0) op.blob = digest();
  op.blob_offset = number();
  if (below(2) != 0) op.name = std::string("/lib/\xff\0x", 8) + std::to_string(below(100));
  if (op.kind == SpaceOpKind::fill_file) op.bytes = bytes(below(5000));
  return op;
}

CodePatch EventMaker::patch() {
  CodePatch patch;
  patch.address = number();
  patch.kind = static_cast<uint8_t>(below(6));
  patch.length = static_cast<uint8_t>(below(16));
  patch.operand = static_cast<uint8_t>(random_());
  patch.operand_bits = static_cast<uint8_t>(random_());
  for (uint8_t& byte : patch.original) byte = static_cast<uint8_t>(random_());
  return patch;
}

void EventMaker::add_output_steps(Event& event) {
  for (uint32_t before = 0; before <= event.outputs.size(); before++) {
    OutputStep& step = event.output_steps.emplace_back();
    step.kind = static_cast<OutputStepKind>(below(kLastOutputStepKind + 1));
    step.stream = static_cast<uint8_t>(1 + below(2));
    step.before = before;
    step.offset = static_cast<int64_t>(number());
    if (step.kind == OutputStepKind::bytes) step.bytes = bytes(below(300));
  }
}

Event EventMaker::make() {
  if (below(4) != 0) return small_syscall();
  Event event;
  event.kind = static_cast<EventKind>(below(kLastEventKind + 1));
  if (event.kind == EventKind::end) event.kind = EventKind::start;  // tests append that one themselves
  event.thread = static_cast<uint32_t>(below(2) != 0 ? 0 : random_());
  time_ += number() >> 8;  // may wrap around: the format doesn't mind
  event.time_ns = time_;
  event.rip = number();
  event.operands.resize(below(9));
  for (uint64_t& operand : event.operands) operand = number();
  event.digest = static_cast<uint32_t>(random_());
  for (uint64_t i = below(3); i > 0; i--) event.memory.push_back({number(), number(), digest()});
  if (below(2) != 0) event.fpu_digest = random_();
  if (below(2) != 0) event.branches = below(2) != 0 ? 0 : random_() / 2;
  for (uint64_t i = below(20); i > 0; i--)
    event.registers.push_back({static_cast<uint8_t>(random_()), number()});
  if (below(3) == 0) event.fpu = bytes(512);
  for (uint64_t i = below(4); i > 0; i--) event.space_ops.push_back(space_op());
  for (uint64_t i = below(4); i > 0; i--)
    event.writes.push_back(write(below(3) == 0 ? below(5000) : below(300)));
  for (uint64_t i = below(3); i > 0; i--) event.patches.push_back(patch());
  for (uint64_t i = below(3); i > 0; i--) {
    Output& output = event.outputs.emplace_back();
    output.stream = static_cast<uint8_t>(below(3));
    output.fd = static_cast<int32_t>(below(2) != 0 ? below(8) : random_());
    output.digest = random_();
    for (uint64_t pieces = below(4); pieces > 0; pieces--) output.pieces.push_back({number(), number()});
  }
  if (below(4) == 0) add_output_steps(event);
  fit(event);
  return event;
}

// What kinds must not have goes.
void EventMaker::fit(Event& event) {
  using enum EventKind;
  if (event.kind != answer && event.kind != thread_start && event.kind != thread_end &&
      event.kind != preempted && event.kind != turn)
    return;
  event.operands.resize(event.kind == answer ? 0 : event.kind == thread_end || event.kind == turn ? 1 : 2);
  event.outputs.clear();
  for (OutputStep& step : event.output_steps) step.before = 0;
  if (event.kind == thread_end || event.kind == preempted || event.kind == turn) {
    event.registers.clear();
    event.writes.clear();
  }
  if (event.kind != preempted) return;
  event.operands[1] /= 2;
  event.digest &= kShortDigest;
}

Event EventMaker::small_syscall() {
  Event event;
  event.kind = EventKind::syscall;
  time_ += 1500 + below(600);
  event.time_ns = time_;
  event.rip = 0x200000123456 + 16 * below(3);
  event.operands = {below(3), 3, 0x200000400000, 4096, 8 * below(2), 0x200000500000, 0};
  event.digest = static_cast<uint32_t>(random_());
  event.registers = {{0, below(2) != 0 ? 0 : below(4096)}};
  if (below(2) != 0) event.writes.push_back(write(16));
  return event;
}

std::vector<Event> EventMaker::make(size_t count) {
  std::vector<Event> events(count);
  std::generate(events.begin(), events.end(), [this] { return make(); });
  return events;
}

std::string to_text(const Event& event) {
  std::string text = fmt::format("kind {} thread {} time {} rip {:#x} operands {:x} digest {:#x}",
                                 static_cast<int>(event.kind), event.thread, event.time_ns, event.rip,
                                 fmt::join(event.operands, " "), event.digest);
  for (const auto& d : event.memory)
    text += fmt::format("\nmemory {:#x} {:#x} {}", d.address, d.length, to_hex(d.digest));
  if (event.fpu_digest) text += fmt::format("\nfpu digest {:#x}", *event.fpu_digest);
  if (event.branches) text += fmt::format("\nbranches {}", *event.branches);
  for (const auto& r : event.registers) text += fmt::format("\nregister {} {:#x}", r.number, r.value);
  if (!event.fpu.empty()) text += fmt::format("\nfpu {} {:#x}", event.fpu.size(), digest64(event.fpu));
  for (const auto& op : event.space_ops)
    text += fmt::format("\nspace op {} {:#x} {:#x} {} {} {:#x} {:#x} {} {:#x} {}", static_cast<int>(op.kind),
                        op.address, op.length, op.prot, op.shared, op.new_address, op.new_length,
                        to_hex(op.blob), op.blob_offset, op.name);
  for (const auto& w : event.writes)
    text += fmt::format("\nwrite {:#x} {} {:#x}", w.address, w.bytes.size(), digest64(w.bytes));
  for (const auto& p : event.patches)
    text += fmt::format("\npatch {:#x} {} {} {} {} {:x}", p.address, p.kind, p.length, p.operand,
                        p.operand_bits, fmt::join(p.original, " "));
  for (const auto& o : event.outputs) {
    text += fmt::format("\noutput {} {} {:#x}", o.stream, o.fd, o.digest);
    for (const auto& piece : o.pieces) text += fmt::format(" {:#x}+{:#x}", piece.address, piece.length);
  }
  for (const auto& s : event.output_steps)
    text += fmt::format("\noutput step {} {} {} {} {} {:#x}", static_cast<int>(s.kind), s.stream, s.before,
                        s.offset, s.bytes.size(), digest64(s.bytes));
  return text;
}

}  // namespace aftercheck::recording::testing
