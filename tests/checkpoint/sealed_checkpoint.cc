#include "sealed_checkpoint.h"

#include <xxhash.h>
#include <zstd.h>

#include <cstring>
#include <stdexcept>

#include "recording/chunk_file.h"

namespace aftercheck::test {

using recording::ChunkHeader;

std::vector<Bytes> payloads_of(std::span<const std::byte> file) {
  std::vector<Bytes> payloads;
  while (!file.empty()) {
    ChunkHeader header;
    if (file.size() < sizeof header) throw std::runtime_error("payloads_of");
    std::memcpy(&header, file.data(), sizeof header);
    file = file.subspan(sizeof header);
    Bytes& payload = payloads.emplace_back(header.raw_length);
    if (ZSTD_decompress(payload.data(), payload.size(), file.data(), header.compressed_length) !=
        payload.size())
      throw std::runtime_error("payloads_of");
    file = file.subspan(header.compressed_length);
  }
  return payloads;
}

Bytes file_of(const std::vector<Bytes>& payloads) {
  Bytes file;
  uint64_t sequence = 0;
  for (Bytes payload : payloads) {
    payload.resize((payload.size() + 7) / 8 * 8);
    Bytes frame(ZSTD_compressBound(payload.size()));
    frame.resize(ZSTD_compress(frame.data(), frame.size(), payload.data(), payload.size(), 1));
    ChunkHeader header;
    header.magic = 0x5450434b43544641;  // docs/recording-format.md
    header.version = 1;
    header.sequence = sequence++;
    header.raw_length = payload.size();
    header.compressed_length = frame.size();
    header.payload_checksum = XXH3_64bits(frame.data(), frame.size());
    header.header_checksum = recording::header_checksum(header);
    const auto bytes = std::as_bytes(std::span(&header, 1));
    file.insert(file.end(), bytes.begin(), bytes.end());
    file.insert(file.end(), frame.begin(), frame.end());
  }
  return file;
}

}  // namespace aftercheck::test
