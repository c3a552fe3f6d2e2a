// What writer and reader of DIR/events share: the kind of their chunks, limits, the shape of an event,
// varints. docs/recording-format.md is the description for others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recording/chunk_file.h"
#include "recording/event.h"

namespace aftercheck::recording {

constexpr uint64_t kChunkTargetBytes = 8 << 20;  // a chunk is closed when its payload reaches this
constexpr uint64_t kMaxPayloadBytes = 64 << 20;  // no reader accepts more
constexpr uint64_t kSmallWriteBytes = 256;       // writes from this size on go to the bulk column
constexpr uint64_t kShortDigestBytes = 2;        // of a preempted event, little-endian
// FXSAVE area (Intel SDM vol. 1, 10.5.1), and with the upper halves of YMM0-15 behind it.
constexpr uint64_t kFpuBytes = 512, kWideFpuBytes = 768;
constexpr uint32_t kMaxShapes = 1 << 18;       // per chunk
constexpr uint64_t kMaxSlots = 1 << 22;        // of all shapes of a chunk together
constexpr uint32_t kMaxEventSlots = 1 << 20;   // of one shape
constexpr uint32_t kMaxListEntries = 1 << 18;  // of each list of an Extra, and of a shape's outputs
// All of an event but its memory writes: the writer refuses more.
constexpr uint64_t kMaxExtraBytes = 16 << 20;

constexpr uint8_t kLastEventKind = static_cast<uint8_t>(EventKind::turn);
constexpr uint8_t kLastSpaceOpKind = static_cast<uint8_t>(SpaceOpKind::fill_file);
constexpr uint8_t kLastOutputStepKind = static_cast<uint8_t>(OutputStepKind::resize);

// The chunks of DIR/events.
extern const ChunkKind kEventChunks;

struct OutputShape {
  uint8_t stream = 0;
  int32_t fd = -1;
  uint32_t pieces = 0;
  bool operator==(const OutputShape&) const = default;
};

// See Shape in log.capnp.
struct Shape {
  EventKind kind = EventKind::start;
  uint32_t thread = 0;
  uint64_t rip = 0;
  uint64_t number = 0;
  uint32_t operands = 0;
  uint32_t writes = 0;
  std::vector<uint8_t> registers;
  std::vector<OutputShape> outputs;

  // True when operand 0 is `number` and no slot.
  bool has_number() const { return kind == EventKind::syscall && operands > 0; }
  uint64_t slot_count() const;
};

// LEB128: seven bits per byte, low first, high bit set on all but the last. Signed values are zigzag-coded
// first.
constexpr size_t kMaxVarintBytes = 10;

constexpr uint64_t zigzag(uint64_t delta) { return (delta << 1) ^ (0 - (delta >> 63)); }
constexpr uint64_t unzigzag(uint64_t code) { return (code >> 1) ^ (0 - (code & 1)); }

// Writes at most kMaxVarintBytes at `out`; returns how many.
inline size_t put_varint(std::byte* out, uint64_t value) {
  size_t n = 0;
  for (; value >= 0x80; value >>= 7) out[n++] = static_cast<std::byte>(value | 0x80);
  out[n++] = static_cast<std::byte>(value);
  return n;
}

// Takes a varint off the front of `in`; false when it is cut short or longer than 64 bits.
bool take_varint(std::span<const std::byte>& in, uint64_t& value);

}  // namespace aftercheck::recording
