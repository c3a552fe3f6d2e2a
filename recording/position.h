// A place in a recorded run, with a text form that commands accept and print.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "recording/event.h"
#include "recording/meta.h"

namespace aftercheck::recording {

// Eight hexadecimal digits that tell one recording from another: the low half of an XXH3-64 over its writer,
// command and start; all of its processes have the same. Its directory's name may change, this does not.
uint32_t recording_id(const Meta& meta);

// Does a segment lead to this event? Others are more answer, or say what threads do, and the segment that
// follows starts where the last of them was applied.
constexpr bool ends_segment(EventKind kind) {
  using enum EventKind;
  return kind != start && kind != continuation && kind != end && kind != answer && kind != thread_start &&
         kind != thread_end && kind != turn;
}

// The nth time, counted from 1, that the guest is about to execute the instruction at `address` since the
// segment began.
struct Arrival {
  uint64_t address = 0, nth = 1;
  friend bool operator==(const Arrival&, const Arrival&) = default;
};

// The first instant in the segment at which RIP, all registers and all memory are these. Any other instant
// with the same state is the same for everything that follows.
struct FullState {
  uint64_t rip = 0;
  uint64_t registers =
      0;  // XXH3-64 over the canonical registers and the canonical FPU state (machine/registers.h)
  Digest128 memory{};  // see replay-engine/guest.h, memory_digest()
  friend bool operator==(const FullState&, const FullState&) = default;
};

// Text: [ID:][pN.][tN.]eEVENT[+INSTANT]
//   3fa29c01:p0.t0.e1234                   after event 1234 was answered; p0 and t0 are left out, the prefix
//   "e" may be; thread 0 runs then e1234+0x401136#3                       Arrival
//   e1234+0x401136=0123456789abcdef/0123456789abcdef0123456789abcdef   FullState
struct Position {
  std::optional<uint32_t> recording;  // its recording_id(); nothing: whichever is at hand
  uint32_t process = 0;
  // The one that runs then; nothing: whichever that is, since the event says it.
  std::optional<uint32_t> thread = {};
  // The last entry of the log that was applied, as Reader counts: the start of the segment that follows it,
  // or within that segment an instant.
  uint64_t event = 0;
  std::variant<std::monostate, Arrival, FullState> instant;

  friend bool operator==(const Position&, const Position&) = default;
};

std::string to_text(const Position& position);
// Throws Error(usage) that says what is wrong with the text and how it should be.
Position parse_position(std::string_view text);
// Throws Error(usage) where the position is one of another recording, or of another process than this one.
void check_belongs(const Position& position, const Meta& meta);
// Throws Error(usage) where the position is said to be another thread's than this one, which runs there.
void check_thread(const Position& position, uint32_t runs);

}  // namespace aftercheck::recording
