// What writer and reader of DIR/events share: chunk header, limits, the shape of an event, varints.
// docs/recording-format.md is the description for others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recording/event.h"

namespace aftercheck::recording {

constexpr uint64_t kChunkMagic = 0x474f4c4b43544641;  // "AFTCKLOG" in the file
constexpr uint32_t kChunkHeaderLength = 56;
// A header longer than this is damage, not a newer version.
constexpr uint32_t kMaxHeaderLength = 4096;

constexpr uint64_t kChunkTargetBytes = 8 << 20;  // a chunk is closed when its payload reaches this
constexpr uint64_t kMaxPayloadBytes = 64 << 20;  // no reader accepts more
constexpr uint64_t kSmallWriteBytes = 256;       // writes from this size on go to the bulk column
constexpr uint64_t kFpuBytes = 512;              // FXSAVE area, Intel SDM vol. 1, 10.5.1
constexpr uint32_t kMaxShapes = 1 << 18;         // per chunk
constexpr uint64_t kMaxSlots = 1 << 22;          // of all shapes of a chunk together
constexpr uint32_t kMaxEventSlots = 1 << 20;     // of one shape
constexpr uint32_t kMaxListEntries = 1 << 18;    // of each list of an Extra, and of a shape's outputs
// All of an event but its memory writes: the writer refuses more.
constexpr uint64_t kMaxExtraBytes = 16 << 20;

constexpr uint8_t kLastEventKind = static_cast<uint8_t>(EventKind::asynchronous);
constexpr uint8_t kLastSpaceOpKind = static_cast<uint8_t>(SpaceOpKind::clear);

// Written as it lies in memory: little-endian, as x86-64 is.
struct ChunkHeader {
  uint64_t magic = kChunkMagic;
  uint32_t version = 0;
  uint32_t header_length = kChunkHeaderLength;
  uint64_t sequence = 0;
  uint64_t raw_length = 0;         // of the payload, decompressed
  uint64_t compressed_length = 0;  // of the zstd frame that follows the header
  uint64_t payload_checksum = 0;   // XXH3-64 of the zstd frame
  uint64_t header_checksum = 0;    // XXH3-64 of the header up to here; always its last 8 bytes
};
static_assert(sizeof(ChunkHeader) == kChunkHeaderLength);

uint64_t header_checksum(const ChunkHeader& header);

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
