#include "sealed_chunk.h"

#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace aftercheck::recording::testing {

std::vector<std::byte> with_header(ChunkHeader header, std::span<const std::byte> frame) {
  header.header_checksum = header_checksum(header);
  std::vector<std::byte> file(sizeof header + frame.size());
  std::memcpy(file.data(), &header, sizeof header);
  std::copy(frame.begin(), frame.end(), file.begin() + sizeof header);
  return file;
}

std::vector<std::byte> seal(std::span<const std::byte> payload, uint64_t sequence) {
  std::vector<std::byte> frame(ZSTD_compressBound(payload.size()));
  frame.resize(ZSTD_compress(frame.data(), frame.size(), payload.data(), payload.size(), 1));
  ChunkHeader header;
  header.magic = kEventChunks.magic;
  header.version = kEventChunks.version;
  header.sequence = sequence;
  header.raw_length = payload.size();
  header.compressed_length = frame.size();
  header.payload_checksum = XXH3_64bits(frame.data(), frame.size());
  return with_header(header, frame);
}

std::vector<std::byte> unseal(std::span<const std::byte> file) {
  ChunkHeader header;
  std::memcpy(&header, file.data(), sizeof header);
  std::vector<std::byte> payload(header.raw_length);
  const size_t n =
      ZSTD_decompress(payload.data(), payload.size(), file.data() + sizeof header, header.compressed_length);
  if (n != payload.size()) throw std::runtime_error("unseal");
  return payload;
}

}  // namespace aftercheck::recording::testing
