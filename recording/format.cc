#include "recording/format.h"

namespace aftercheck::recording {

constexpr uint64_t kMagic = 0x474f4c4b43544641;  // "AFTCKLOG" in the file
constexpr uint32_t kLogVersion = 1;

constinit const ChunkKind kEventChunks =
    chunk_kind<ChunkHeader>(kMagic, kLogVersion, kMaxPayloadBytes, "format version",
                            ": not a log of Aftercheck (wrong magic at offset 0)");

uint64_t Shape::slot_count() const {
  uint64_t pieces = 0;
  for (const OutputShape& output : outputs) pieces += output.pieces;
  return uint64_t{operands} - (has_number() ? 1 : 0) + registers.size() + 2 * (uint64_t{writes} + pieces);
}

bool take_varint(std::span<const std::byte>& in, uint64_t& value) {
  value = 0;
  for (size_t i = 0; i < in.size() && i < kMaxVarintBytes; i++) {
    const auto bits = static_cast<uint64_t>(in[i] & std::byte{0x7f});
    if (i == kMaxVarintBytes - 1 && bits > 1) return false;
    value |= bits << (7 * i);
    if ((in[i] & std::byte{0x80}) == std::byte{0}) {
      in = in.subspan(i + 1);
      return true;
    }
  }
  return false;
}

}  // namespace aftercheck::recording
