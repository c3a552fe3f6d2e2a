// What writer and reader of DIR/pt/<thread> share. docs/recording-format.md is the description for others.
#pragma once

#include <cstddef>
#include <cstdint>

#include "recording/chunk_file.h"

namespace aftercheck::recording {

constexpr uint64_t kPtTargetAuxBytes = 1 << 20;  // a chunk is closed at either of these
constexpr uint64_t kPtTargetRecordBytes = 256 << 10;
constexpr uint64_t kPtMaxAuxBytes = 16 << 20;  // no reader accepts more
constexpr uint64_t kPtMaxRecordBytes = 4 << 20;
constexpr uint64_t kPtMaxTextBytes = 64 << 10;  // of PtFormat::capabilities

// Kinds of entries in a chunk's records.
enum class PtEntry : uint8_t { format = 0, mark = 1, loss = 2 };

// Written as it lies in memory: little-endian, as x86-64 is.
struct PtChunkHeader {
  uint64_t magic = 0x4c54504b43544641;  // "AFTCKPTL" in the file
  uint32_t version = 1;
  uint32_t header_length = sizeof(PtChunkHeader);
  uint64_t sequence = 0;
  uint64_t start_offset = 0;       // in the AUX stream, of the chunk's first byte
  uint64_t aux_bytes = 0;          // how many AUX bytes the chunk has
  uint64_t record_bytes = 0;       // the payload is these, then the AUX bytes
  uint64_t compressed_length = 0;  // of the zstd frame that follows the header
  uint32_t marks = 0, losses = 0;  // entries of these kinds
  uint64_t last = 0;               // 1: the trace ends here and is whole
  uint64_t payload_checksum = 0;   // XXH3-64 of the zstd frame
  uint64_t header_checksum = 0;    // XXH3-64 of the header up to here
};
static_assert(sizeof(PtChunkHeader) == 88);

inline constexpr ChunkKind kPtChunks = chunk_kind<PtChunkHeader>(
    PtChunkHeader{}.magic, PtChunkHeader{}.version, kPtMaxAuxBytes + kPtMaxRecordBytes, "PT log version",
    ": chunk 0 at offset 0: wrong magic: not a PT log of Aftercheck");

}  // namespace aftercheck::recording
