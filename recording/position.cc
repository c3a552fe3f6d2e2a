#include "recording/position.h"

#include <xxhash.h>

#include <charconv>

#include "base/error.h"
#include "recording/digest.h"
#include "recording/store.h"

namespace aftercheck::recording {
namespace {

constexpr size_t kIdDigits = 8;

// Takes positions apart from the left.
class Parser {
 public:
  explicit Parser(std::string_view text) : all_(text), rest_(text) {}

  bool at_end() const { return rest_.empty(); }

  bool take(std::string_view token) {
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }

  uint64_t number(const char* what, int base = 10) {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value, base);
    if (error != std::errc()) wrong(what);
    rest_.remove_prefix(static_cast<size_t>(end - rest_.data()));
    return value;
  }

  // Exactly so many hexadecimal digits.
  uint64_t digits(size_t count, const char* what) {
    const std::string_view word = rest_.substr(0, count);
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value, 16);
    if (word.size() != count || error != std::errc() || end != word.data() + count) wrong(what);
    rest_.remove_prefix(count);
    return value;
  }

  std::optional<uint32_t> recording() {
    const size_t colon = rest_.find(':');
    if (colon == std::string_view::npos) return std::nullopt;
    if (colon != kIdDigits) wrong("the recording's eight hexadecimal digits");
    const auto id = static_cast<uint32_t>(digits(kIdDigits, "the recording's eight hexadecimal digits"));
    rest_.remove_prefix(1);
    return id;
  }

  std::optional<uint32_t> small(char prefix, const char* what) {
    if (rest_.empty() || rest_.front() != prefix) return std::nullopt;
    rest_.remove_prefix(1);
    const uint64_t value = number(what);
    if (value > UINT32_MAX || !take(".")) wrong(what);
    return static_cast<uint32_t>(value);
  }

  [[noreturn]] void wrong(const char* what) const {
    fail(ErrorKind::usage,
         "position \"{}\": {} expected at \"{}\"; say an event's number, or [RECORDING:][pN.][tN.]eEVENT, "
         "then if wanted "
         "+0xADDRESS#NTH",
         all_, what, rest_);
  }

 private:
  const std::string_view all_;
  std::string_view rest_;
};

void parse_instant(Parser& parser, Position& position) {
  if (!parser.take("0x")) parser.wrong("an address that starts with 0x");
  const uint64_t address = parser.number("an address", 16);
  if (parser.take("=")) {
    FullState state;
    state.rip = address;
    state.registers = parser.digits(16, "sixteen hexadecimal digits");
    if (!parser.take("/")) parser.wrong("\"/\"");
    for (uint8_t& byte : state.memory)
      byte = static_cast<uint8_t>(parser.digits(2, "thirty-two hexadecimal digits"));
    position.instant = state;
    return;
  }
  Arrival arrival{address, 1};
  if (parser.take("#")) arrival.nth = parser.number("a count");
  if (arrival.nth == 0) parser.wrong("a count from 1 on");
  position.instant = arrival;
}

}  // namespace

uint32_t recording_id(const Meta& meta) {
  if (meta.parent) return meta.recording;
  std::string bytes = meta.writer;
  for (const std::string& word : meta.command) bytes += '\0' + word;
  bytes += fmt::format("{}{}", '\0', meta.start_time_ns);
  return static_cast<uint32_t>(digest64(std::as_bytes(std::span(bytes))));
}

std::string to_text(const Position& position) {
  std::string text;
  if (position.recording) text += fmt::format("{:08x}:", *position.recording);
  if (position.process != 0) text += fmt::format("p{}.", position.process);
  if (position.thread.value_or(0) != 0) text += fmt::format("t{}.", *position.thread);
  text += fmt::format("e{}", position.event);
  if (const auto* arrival = std::get_if<Arrival>(&position.instant))
    text += fmt::format("+{:#x}#{}", arrival->address, arrival->nth);
  if (const auto* state = std::get_if<FullState>(&position.instant))
    text += fmt::format("+{:#x}={:016x}/{}", state->rip, state->registers, to_hex(state->memory));
  return text;
}

Position parse_position(std::string_view text) {
  Parser parser(text);
  Position position;
  position.recording = parser.recording();
  position.process = parser.small('p', "a process's number and \".\"").value_or(0);
  position.thread = parser.small('t', "a thread's number and \".\"");
  parser.take("e");
  position.event = parser.number("an event's number");
  if (parser.take("+")) parse_instant(parser, position);
  if (!parser.at_end()) parser.wrong("the end");
  return position;
}

void check_belongs(const Position& position, const Meta& meta) {
  const uint32_t id = recording_id(meta);
  if (position.recording && *position.recording != id)
    fail(ErrorKind::usage, "position {}: it is one of another recording; this one is {:08x}",
         to_text(position), id);
  if (position.process != meta.process)
    fail(ErrorKind::usage, "position {}: it is one of process {}, and this is process {}", to_text(position),
         position.process, meta.process);
}

void check_thread(const Position& position, uint32_t runs) {
  if (position.thread && *position.thread != runs)
    fail(ErrorKind::usage, "position {}: it is thread {} that runs after event {}, not thread {}",
         to_text(position), runs, position.event, *position.thread);
}

}  // namespace aftercheck::recording
