#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "recording/chunk_file.h"
#include "recording/file_io.h"

namespace aftercheck::recording {
namespace {

// A file system block that never reached the disk reads as zeros; fewer of them at a file's end prove
// nothing.
constexpr uint64_t kLostBlock = 512;

template <typename T>
T get(std::span<const std::byte> header, size_t at) {
  T value;
  std::memcpy(&value, header.data() + at, sizeof value);
  return value;
}

}  // namespace

ChunkFileReader::ChunkFileReader(std::string path, const ChunkKind& kind)
    : path_(std::move(path)), kind_(kind), file_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
  struct stat status {};
  if (!file_ || fstat(file_.get(), &status) != 0) fail(ErrorKind::io, "{}: {}", path_, errno_text(errno));
  if (!S_ISREG(status.st_mode)) fail(ErrorKind::bad_input, "{}: not a regular file", path_);
  size_ = static_cast<uint64_t>(status.st_size);
}

void ChunkFileReader::go_to(const ChunkPlace& place) {
  at_ = next_ = place;
  incomplete_.clear();
}

std::string ChunkFileReader::where() const {
  return fmt::format("{}: chunk {} at offset {}", path_, at_.sequence, at_.offset);
}

bool ChunkFileReader::set_incomplete() {
  incomplete_ = fmt::format("{}: the last {} bytes from offset {} on are an incomplete chunk", path_,
                            size_ - at_.offset, at_.offset);
  return false;
}

// Magic and version come first in every version's header, and its own checksum last, so that damage is not
// taken for a newer version.
void ChunkFileReader::check_version(std::span<const std::byte> header) const {
  const auto version = get<uint32_t>(header, 8), length = get<uint32_t>(header, 12);
  if (length < kind_.header_length || length > kMaxHeaderLength)
    damaged("its header claims {} bytes", length);
  std::vector<std::byte> bytes(length);
  if (read_at(file_.get(), path_, at_.offset, bytes) != length)
    damaged("its header claims {} bytes, more than are left", length);
  if (get<uint64_t>(bytes, length - sizeof(uint64_t)) != header_checksum(std::span<const std::byte>(bytes)))
    damaged("the checksum of its header is wrong: the file is damaged");
  if (version != kind_.version)
    fail(version > kind_.version ? ErrorKind::unsupported : ErrorKind::bad_input,
         "{}: {} {}, this program reads version {}: use a newer aftercheck", path_, kind_.version_name,
         version, kind_.version);
  if (length != kind_.header_length)
    damaged("its header has {} bytes instead of {}", length, kind_.header_length);
}

bool ChunkFileReader::read_header(std::span<std::byte> header) {
  at_ = next_;
  if (at_.offset >= size_) return false;
  const auto wanted = std::min<uint64_t>(size_ - at_.offset, header.size());
  const size_t n = read_at(file_.get(), path_, at_.offset, header.first(wanted));
  if (std::memcmp(header.data(), &kind_.magic, std::min(n, sizeof kind_.magic)) != 0) {
    if (zeros_until_end(file_.get(), path_, at_.offset)) return set_incomplete();
    if (at_.offset == 0) fail(ErrorKind::bad_input, "{}{}", path_, kind_.not_ours);
    damaged("wrong magic: the file is damaged");
  }
  if (n < header.size()) return set_incomplete();
  if (get<uint64_t>(header, header.size() - 8) != header_checksum(std::span<const std::byte>(header)) ||
      get<uint32_t>(header, 8) != kind_.version || get<uint32_t>(header, 12) != kind_.header_length)
    check_version(header);
  if (const auto sequence = get<uint64_t>(header, 16); sequence != at_.sequence)
    damaged("its number is {}: chunks are missing or out of order", sequence);
  compressed_length_ = get<uint64_t>(header, kind_.compressed_length_at);
  payload_checksum_ = get<uint64_t>(header, header.size() - 16);
  if (compressed_length_ > ZSTD_compressBound(kind_.max_payload))
    damaged("its compressed payload claims {} bytes", compressed_length_);
  return true;
}

void ChunkFileReader::pass() {
  next_ = {at_.offset + kind_.header_length + compressed_length_, at_.sequence + 1};
}

bool ChunkFileReader::skip() {
  if (compressed_length_ > size_ - at_.offset - kind_.header_length) return set_incomplete();
  pass();
  return true;
}

bool ChunkFileReader::load_payload(uint64_t raw_length) {
  if (raw_length > kind_.max_payload)
    damaged("its payload claims {} bytes; at most {} are allowed", raw_length, kind_.max_payload);
  const uint64_t start = at_.offset + kind_.header_length, left = size_ - start;
  if (compressed_length_ > left) return set_incomplete();
  compressed_.resize(compressed_length_);
  if (read_at(file_.get(), path_, start, compressed_) != compressed_.size())
    return set_incomplete();  // it shrank
  if (XXH3_64bits(compressed_.data(), compressed_.size()) != payload_checksum_) {
    if (compressed_length_ == left && left >= kLostBlock &&
        zeros_until_end(file_.get(), path_, size_ - kLostBlock))
      return set_incomplete();
    damaged("the checksum of its payload is wrong: the file is damaged");
  }
  decompress(raw_length);
  pass();
  return true;
}

void ChunkFileReader::decompress(uint64_t raw_length) {
  if (ZSTD_getFrameContentSize(compressed_.data(), compressed_.size()) != raw_length)
    damaged("its zstd frame does not hold the {} bytes of the header", raw_length);
  payload_.resize((raw_length + sizeof(uint64_t) - 1) / sizeof(uint64_t));
  raw_length_ = raw_length;
  const size_t n = ZSTD_decompress(payload_.data(), raw_length, compressed_.data(), compressed_.size());
  if (ZSTD_isError(n)) damaged("zstd: {}", ZSTD_getErrorName(n));
  if (n != raw_length) damaged("{} bytes decompressed instead of {}", n, raw_length);
}

}  // namespace aftercheck::recording
