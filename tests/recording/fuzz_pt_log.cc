// libFuzzer: the first byte chooses whether the rest is a whole file of DIR/pt or what a chunk holds, with
// right checksums, which a fuzzer could not guess.
#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/error.h"
#include "event_maker.h"
#include "recording/pt_log.h"
#include "recording/pt_log_format.h"

using namespace aftercheck::recording;

namespace {

// `input`: the chunk's AUX bytes, their number in the first byte; then its records. `changes` are made to the
// header before it gets its checksum.
std::vector<std::byte> seal(std::span<const std::byte> input, PtChunkHeader& header,
                            std::span<const std::byte> changes) {
  const size_t aux = input.empty() ? 0 : std::min(input.size() - 1, static_cast<size_t>(input[0]));
  std::vector<std::byte> payload;
  if (!input.empty()) {
    payload.assign(input.begin() + 1 + static_cast<ptrdiff_t>(aux), input.end());
    payload.insert(payload.end(), input.begin() + 1, input.begin() + 1 + static_cast<ptrdiff_t>(aux));
  }
  std::vector<std::byte> frame(ZSTD_compressBound(payload.size()));
  frame.resize(ZSTD_compress(frame.data(), frame.size(), payload.data(), payload.size(), 1));
  header.aux_bytes = aux;
  header.record_bytes = payload.size() - aux;
  header.compressed_length = frame.size();
  header.payload_checksum = XXH3_64bits(frame.data(), frame.size());
  const auto bytes = std::as_writable_bytes(std::span(&header, 1));
  for (size_t i = 0; i < changes.size(); ++i) bytes[i] ^= changes[i];
  header.header_checksum = header_checksum(header);
  std::vector<std::byte> chunk(sizeof header + frame.size());
  std::memcpy(chunk.data(), &header, sizeof header);
  std::ranges::copy(frame, chunk.begin() + sizeof header);
  return chunk;
}

void read_all(PtLogReader& reader, size_t most) {
  uint64_t records = 0, bytes = 0;
  while (const PtRecord* record = reader.next()) {
    bytes += record->bytes.size();
    if (record->kind == PtRecord::Kind::loss) describe_pt_loss(record->flags);
    // Of an entry there are at least two bytes, and data may lie before each.
    if (++records > most || bytes > most) __builtin_trap();
  }
  reader.truncated();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const testing::TemporaryDirectory directory;
  static const bool made = std::filesystem::create_directory(directory.path() / "pt");
  if (size == 0 || !made) return 0;
  std::span<const std::byte> input = std::as_bytes(std::span(data, size)).subspan(1);
  std::vector<std::byte> file(input.begin(), input.end());
  if ((data[0] & 1) != 0) {
    std::span<const std::byte> changes;  // to a whole header
    if ((data[0] & 8) != 0 && input.size() >= sizeof(PtChunkHeader)) {
      changes = input.first(sizeof(PtChunkHeader));
      input = input.subspan(changes.size());
    }
    // Two chunks: half of the input each, or all of it in one that is the last.
    PtChunkHeader first, second;
    const size_t half = (data[0] & 2) != 0 ? input.size() : input.size() / 2;
    first.last = (data[0] & 2) != 0;
    file = seal(input.first(half), first, changes);
    second.sequence = 1;
    second.start_offset = first.aux_bytes;
    second.last = (data[0] & 4) != 0;
    const std::vector<std::byte> more = seal(input.subspan(half), second, {});
    if (first.last == 0) file.insert(file.end(), more.begin(), more.end());
  }
  testing::write_file(directory.path() / "pt" / "0", file);
  const size_t most = 64 + 100 * size + (16 << 20);
  summarize_pt(directory.path(), 0);
  try {
    PtLogReader reader(directory.path(), 0);
    read_all(reader, most);
    reader.seek(size / 3);
    read_all(reader, most);
  } catch (const aftercheck::Error&) {  // refused, as it should be
  }
  return 0;
}
