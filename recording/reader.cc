#include "recording/reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "recording/chunk_decoder.h"
#include "recording/file_io.h"
#include "recording/format.h"
#include "recording/meta.h"

namespace aftercheck::recording {
namespace {

// A file system block that never reached the disk reads as zeros; fewer of them at a file's end prove
// nothing.
constexpr uint64_t kLostBlock = 512;

}  // namespace

class Reader::Impl {
 public:
  explicit Impl(const std::filesystem::path& directory)
      : path_((directory / "events").string()), file_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
    struct stat status {};
    if (!file_ || fstat(file_.get(), &status) != 0) fail(ErrorKind::io, "{}: {}", path_, errno_text(errno));
    if (!S_ISREG(status.st_mode)) fail(ErrorKind::bad_input, "{}: not a regular file", path_);
    size_ = static_cast<uint64_t>(status.st_size);
  }

  const Event* next() {
    if (failure_) std::rethrow_exception(failure_);
    if (ended_) return nullptr;
    try {
      while (!decoder_ || !decoder_->next(event_)) {
        decoder_.reset();
        if (!load_chunk()) {
          ended_ = true;
          return nullptr;
        }
      }
    } catch (...) {
      failure_ = std::current_exception();
      throw;
    }
    number_ = next_number_++;
    last_kind_ = event_.kind;
    return &event_;
  }

  uint64_t number() const { return number_; }
  uint64_t chunk_offset() const { return chunk_offset_; }

  bool truncated(std::string* why) const {
    if (!ended_ || (incomplete_.empty() && last_kind_ == EventKind::end)) return false;
    if (why == nullptr) return true;
    *why = incomplete_;
    if (why->empty())
      *why = fmt::format("{}: it ends at offset {} after {} events without an `end` event", path_, offset_,
                         next_number_);
    *why += "; the recorder was killed or its disk was full";
    return true;
  }

  double progress() const {
    return size_ == 0 ? 1 : static_cast<double>(std::min(offset_, size_)) / static_cast<double>(size_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void damaged(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorKind::bad_input, "{}: chunk {} at offset {}: {}", path_, sequence_, offset_,
         fmt::format(format, std::forward<Args>(args)...));
  }

  size_t read_at(uint64_t offset, std::span<std::byte> bytes) const {
    return recording::read_at(file_.get(), path_, offset, bytes);
  }

  bool set_incomplete() {
    incomplete_ = fmt::format("{}: the last {} bytes from offset {} on are an incomplete chunk", path_,
                              size_ - offset_, offset_);
    return false;
  }

  // Magic and version come first in every version's header, and its own checksum last, so that damage is not
  // taken for a newer version.
  void check_version(const ChunkHeader& header) const {
    const uint32_t length = header.header_length;
    if (length < kChunkHeaderLength || length > kMaxHeaderLength)
      damaged("its header claims {} bytes", length);
    std::vector<std::byte> bytes(length);
    if (read_at(offset_, bytes) != length) damaged("its header claims {} bytes, more than are left", length);
    uint64_t checksum = 0;
    std::memcpy(&checksum, bytes.data() + length - sizeof checksum, sizeof checksum);
    if (checksum != XXH3_64bits(bytes.data(), length - sizeof checksum))
      damaged("the checksum of its header is wrong: the file is damaged");
    if (header.version != kFormatVersion)
      fail(header.version > kFormatVersion ? ErrorKind::unsupported : ErrorKind::bad_input,
           "{}: format version {}, this program reads version {}: use a newer aftercheck", path_,
           header.version, kFormatVersion);
    if (length != kChunkHeaderLength)
      damaged("its header has {} bytes instead of {}", length, kChunkHeaderLength);
  }

  // False at the end of the file.
  bool load_header(ChunkHeader& header) {
    if (offset_ >= size_) return false;
    const uint64_t left = size_ - offset_;
    const size_t n =
        read_at(offset_,
                std::as_writable_bytes(std::span(&header, 1)).first(std::min<uint64_t>(left, sizeof header)));
    const uint64_t magic = kChunkMagic;
    if (std::memcmp(&header, &magic, std::min(n, sizeof magic)) != 0) {
      if (zeros_until_end(file_.get(), path_, offset_)) return set_incomplete();
      if (offset_ == 0)
        fail(ErrorKind::bad_input, "{}: not a log of Aftercheck (wrong magic at offset 0)", path_);
      damaged("wrong magic: the file is damaged");
    }
    if (n < sizeof header) return set_incomplete();
    if (header.header_checksum != header_checksum(header) || header.version != kFormatVersion ||
        header.header_length != kChunkHeaderLength)
      check_version(header);
    if (header.sequence != sequence_)
      damaged("its number is {}: chunks are missing or out of order", header.sequence);
    if (header.raw_length == 0 || header.raw_length > kMaxPayloadBytes ||
        header.raw_length % sizeof(uint64_t) != 0)
      damaged("its payload claims {} bytes; at most {} are allowed", header.raw_length, kMaxPayloadBytes);
    if (header.compressed_length > ZSTD_compressBound(kMaxPayloadBytes))
      damaged("its compressed payload claims {} bytes", header.compressed_length);
    return true;
  }

  bool load_chunk() {
    ChunkHeader header;
    offset_ = next_offset_;
    if (!load_header(header)) return false;
    const uint64_t left = size_ - offset_ - sizeof header;
    if (header.compressed_length > left) return set_incomplete();
    compressed_.resize(header.compressed_length);
    if (read_at(offset_ + sizeof header, compressed_) != compressed_.size())
      return set_incomplete();  // it shrank
    if (XXH3_64bits(compressed_.data(), compressed_.size()) != header.payload_checksum) {
      if (header.compressed_length == left && left >= kLostBlock &&
          zeros_until_end(file_.get(), path_, size_ - kLostBlock))
        return set_incomplete();
      damaged("the checksum of its payload is wrong: the file is damaged");
    }
    decompress(header.raw_length);
    decoder_.emplace(payload_, next_number_,
                     fmt::format("{}: chunk {} at offset {}", path_, sequence_, offset_));
    chunk_offset_ = offset_;
    next_offset_ = offset_ + sizeof header + header.compressed_length;
    sequence_++;
    return true;
  }

  void decompress(uint64_t raw_length) {
    const auto claimed = ZSTD_getFrameContentSize(compressed_.data(), compressed_.size());
    if (claimed != raw_length) damaged("its zstd frame does not hold the {} bytes of the header", raw_length);
    payload_.resize(raw_length / sizeof(uint64_t));
    const size_t n = ZSTD_decompress(payload_.data(), raw_length, compressed_.data(), compressed_.size());
    if (ZSTD_isError(n)) damaged("zstd: {}", ZSTD_getErrorName(n));
    if (n != raw_length) damaged("{} bytes decompressed instead of {}", n, raw_length);
  }

  const std::string path_;
  UniqueFd file_;
  uint64_t size_ = 0;
  uint64_t offset_ = 0, next_offset_ = 0;  // of the chunk last looked at, of the one after it
  uint64_t chunk_offset_ = 0, sequence_ = 0;
  uint64_t number_ = 0, next_number_ = 0;
  std::vector<std::byte> compressed_;
  std::vector<uint64_t> payload_;
  std::optional<ChunkDecoder> decoder_;
  Event event_;
  EventKind last_kind_ = EventKind::start;
  bool ended_ = false;
  std::exception_ptr failure_;  // damage was met: every later call meets it too
  std::string incomplete_;
};

Reader::Reader(const std::filesystem::path& directory) : impl_(std::make_unique<Impl>(directory)) {}
Reader::~Reader() = default;

const Event* Reader::next() { return impl_->next(); }
uint64_t Reader::number() const { return impl_->number(); }
uint64_t Reader::chunk_offset() const { return impl_->chunk_offset(); }
bool Reader::truncated(std::string* why) const { return impl_->truncated(why); }
double Reader::progress() const { return impl_->progress(); }

}  // namespace aftercheck::recording
