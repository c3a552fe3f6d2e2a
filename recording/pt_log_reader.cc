#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <system_error>

#include "base/error.h"
#include "recording/file_io.h"
#include "recording/format.h"
#include "recording/pt_log.h"
#include "recording/pt_log_format.h"

namespace aftercheck::recording {

class PtLogReader::Impl {
 public:
  Impl(const std::filesystem::path& directory, uint32_t thread)
      : path_((directory / "pt" / std::to_string(thread)).string()),
        file_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
    struct stat status {};
    if (!file_ || fstat(file_.get(), &status) != 0) fail(ErrorKind::io, "{}: {}", path_, errno_text(errno));
    if (!S_ISREG(status.st_mode)) fail(ErrorKind::bad_input, "{}: not a regular file", path_);
    size_ = static_cast<uint64_t>(status.st_size);
    if (!load_chunk())
      fail(ErrorKind::bad_input, "{}: it ends before its first chunk does: nothing can be read", path_);
    load_format();
  }

  const PtFormat& format() const { return format_; }

  const PtRecord* next() {
    if (cut_) fail(ErrorKind::bad_input, "{}", damage_);  // damage was met: every later call meets it too
    try {
      for (;;) {
        if (ended_) return nullptr;
        if (take_record()) return &record_;
        if (header_.last != 0 || !load_chunk()) ended_ = true;
      }
    } catch (const Error& error) {
      cut_ = error.kind() == ErrorKind::bad_input;
      damage_ = error.what();
      throw;
    }
  }

  void seek(uint64_t offset) {
    next_offset_ = 0;
    sequence_ = 0;
    aux_end_ = 0;
    ended_ = cut_ = false;
    incomplete_.clear();
    PtChunkHeader header;
    while (load_header(header)) {
      const bool inside = offset < header.start_offset + header.aux_bytes;
      if (inside || header.last != 0) break;
      skip(header);
    }
    if (!load_chunk()) ended_ = true;
    if (!ended_ && sequence_ == 1) load_format();
  }

  bool truncated(std::string* why) const {
    if (!ended_ || (incomplete_.empty() && header_.last != 0)) return false;
    if (why == nullptr) return true;
    *why = incomplete_;
    if (why->empty())
      *why = fmt::format("{}: it ends at offset {} without the sign of an end", path_, offset_);
    *why += "; the recorder was killed or its disk was full";
    return true;
  }

  double progress() const {
    return size_ == 0 ? 1 : static_cast<double>(std::min(next_offset_, size_)) / static_cast<double>(size_);
  }

  // Everything that headers tell.
  void summarize(PtSummary& summary) {
    summary.format = format_;
    summary.file_bytes = size_;
    PtChunkHeader header = header_;
    for (;;) {
      ++summary.chunks;
      summary.aux_bytes += header.aux_bytes;
      summary.losses += header.losses;
      summary.marks += header.marks;
      if (header.last != 0) {
        summary.complete = true;
        return;
      }
      if (!load_header(header)) break;
      if (header.compressed_length > size_ - offset_ - sizeof header) {
        set_incomplete();
        break;
      }
      skip(header);
    }
    ended_ = true;
    header_.last = 0;
    truncated(&summary.problem);
  }

 private:
  template <typename... Args>
  [[noreturn]] void damaged(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorKind::bad_input, "{}: chunk {} at offset {}: {}", path_, sequence_, offset_,
         fmt::format(format, std::forward<Args>(args)...));
  }

  bool set_incomplete() {
    incomplete_ = fmt::format("{}: the last {} bytes from offset {} on are an incomplete chunk", path_,
                              size_ - offset_, offset_);
    return false;
  }

  // False at the end of the file.
  bool load_header(PtChunkHeader& header) {
    offset_ = next_offset_;
    if (offset_ >= size_) return false;
    const size_t wanted = std::min<uint64_t>(size_ - offset_, sizeof header);
    const size_t n =
        read_at(file_.get(), path_, offset_, std::as_writable_bytes(std::span(&header, 1)).first(wanted));
    const uint64_t magic = kPtMagic;
    if (std::memcmp(&header, &magic, std::min(n, sizeof magic)) != 0) {
      if (offset_ != 0 && zeros_until_end(file_.get(), path_, offset_)) return set_incomplete();
      damaged("wrong magic: {}", offset_ == 0 ? "not a PT log of Aftercheck" : "the file is damaged");
    }
    if (n < sizeof header) return set_incomplete();
    check_header(header);
    return true;
  }

  // Magic, version and header length stay where they are in all versions, and the checksum is the header's
  // end, so that damage is not taken for a newer version.
  void check_header(const PtChunkHeader& header) const {
    if (header.header_length < kPtHeaderLength || header.header_length > kMaxHeaderLength ||
        header.header_length > size_ - offset_)
      damaged("its header claims {} bytes", header.header_length);
    std::vector<std::byte> bytes(header.header_length);
    read_at(file_.get(), path_, offset_, bytes);
    uint64_t checksum = 0;
    std::memcpy(&checksum, bytes.data() + bytes.size() - sizeof checksum, sizeof checksum);
    if (checksum != XXH3_64bits(bytes.data(), bytes.size() - sizeof checksum))
      damaged("the checksum of its header is wrong: the file is damaged");
    if (header.version > kPtVersion)
      fail(ErrorKind::unsupported,
           "{}: PT log version {}, this program reads version {}: use a newer aftercheck", path_,
           header.version, kPtVersion);
    if (header.version != kPtVersion || header.header_length != kPtHeaderLength)
      damaged("version {} with a header of {} bytes", header.version, header.header_length);
    if (header.sequence != sequence_)
      damaged("its number is {}: chunks are missing or out of order", header.sequence);
    if (header.start_offset != aux_end_)
      damaged("it starts at AUX offset {} instead of {}", header.start_offset, aux_end_);
    if (header.aux_bytes > kPtMaxAuxBytes || header.record_bytes > kPtMaxRecordBytes)
      damaged("it claims {} AUX bytes and {} bytes of records", header.aux_bytes, header.record_bytes);
    if (header.compressed_length > ZSTD_compressBound(header.aux_bytes + header.record_bytes) + 64)
      damaged("its frame claims {} bytes", header.compressed_length);
  }

  void skip(const PtChunkHeader& header) {
    next_offset_ = offset_ + sizeof header + header.compressed_length;
    aux_end_ = header.start_offset + header.aux_bytes;
    ++sequence_;
  }

  bool load_chunk() {
    if (!load_header(header_)) return false;
    if (header_.compressed_length > size_ - offset_ - sizeof header_) return set_incomplete();
    compressed_.resize(header_.compressed_length);
    read_at(file_.get(), path_, offset_ + sizeof header_, compressed_);
    if (XXH3_64bits(compressed_.data(), compressed_.size()) != header_.payload_checksum) {
      // What some file systems leave of the last blocks after a power loss.
      constexpr size_t kLostBlock = 512;
      const bool at_end = offset_ + sizeof header_ + compressed_.size() == size_;
      if (at_end && compressed_.size() >= kLostBlock &&
          std::all_of(compressed_.end() - kLostBlock, compressed_.end(),
                      [](std::byte b) { return b == std::byte{0}; }))
        return set_incomplete();
      damaged("the checksum of its payload is wrong: the file is damaged");
    }
    const uint64_t raw = header_.record_bytes + header_.aux_bytes;
    payload_.resize(raw);
    if (ZSTD_getFrameContentSize(compressed_.data(), compressed_.size()) != raw)
      damaged("its zstd frame does not hold the {} bytes of the header", raw);
    const size_t n = ZSTD_decompress(payload_.data(), raw, compressed_.data(), compressed_.size());
    if (ZSTD_isError(n)) damaged("zstd: {}", ZSTD_getErrorName(n));
    if (n != raw) damaged("{} bytes decompressed instead of {}", n, raw);
    records_ = std::span(payload_).first(header_.record_bytes);
    chunk_event_ = 0;
    place_ = given_ = 0;
    entry_ready_ = false;
    skip(header_);
    return true;
  }

  uint64_t number(const char* what) {
    uint64_t value = 0;
    if (!take_varint(records_, value)) damaged("{} is cut off", what);
    return value;
  }

  uint8_t byte(const char* what) {
    if (records_.empty()) damaged("{} is cut off", what);
    const auto value = static_cast<uint8_t>(records_[0]);
    records_ = records_.subspan(1);
    return value;
  }

  // Kind and place of the next entry.
  void take_entry() {
    entry_ = byte("the kind of an entry");
    const uint64_t distance = number("the place of an entry");
    if (distance > header_.aux_bytes - place_) damaged("an entry lies {} bytes behind its end", distance);
    place_ += distance;
    entry_ready_ = true;
  }

  void load_format() {
    take_entry();
    if (entry_ != static_cast<uint8_t>(PtEntry::format) || place_ != 0)
      damaged("the first entry is not the description of the trace");
    const uint8_t source = byte("the source");
    if (source > static_cast<uint8_t>(PtSource::synth)) damaged("unknown source {} of the trace", source);
    format_.source = static_cast<PtSource>(source);
    format_.return_compression = byte("return compression") != 0;
    for (uint32_t* field : {&format_.family, &format_.model, &format_.stepping}) {
      const uint64_t value = number("the processor");
      if (value > UINT32_MAX) damaged("processor number {:#x}", value);
      *field = static_cast<uint32_t>(value);
    }
    const uint64_t length = number("the capabilities");
    if (length > kPtMaxTextBytes || length > records_.size()) damaged("capabilities claim {} bytes", length);
    format_.capabilities.assign(reinterpret_cast<const char*>(records_.data()), length);
    records_ = records_.subspan(length);
    entry_ready_ = false;
  }

  // The next record of this chunk; false when it has no more.
  bool take_record() {
    if (!entry_ready_ && !records_.empty()) take_entry();
    const uint64_t until = entry_ready_ ? place_ : header_.aux_bytes;
    record_ = {};
    if (given_ < until) {
      const auto* aux = reinterpret_cast<const uint8_t*>(payload_.data()) + header_.record_bytes;
      record_.kind = PtRecord::Kind::data;
      record_.offset = header_.start_offset + given_;
      record_.bytes = {aux + given_, until - given_};
      given_ = until;
      return true;
    }
    if (!entry_ready_) return false;
    entry_ready_ = false;
    record_.offset = header_.start_offset + place_;
    switch (static_cast<PtEntry>(entry_)) {
      case PtEntry::mark: {
        record_.kind = PtRecord::Kind::mark;
        const uint64_t step = number("a mark");
        if (step > UINT64_MAX - chunk_event_) damaged("a mark goes {} events on", step);
        chunk_event_ += step;
        record_.event = chunk_event_;
        return true;
      }
      case PtEntry::loss:
        record_.kind = PtRecord::Kind::loss;
        record_.flags = byte("a loss") & pt_loss::kAll;
        record_.lost_bytes = number("a loss");
        return true;
      case PtEntry::format:
        break;
    }
    damaged("unexpected entry of kind {}", entry_);
  }

  const std::string path_;
  UniqueFd file_;
  uint64_t size_ = 0;
  uint64_t offset_ = 0, next_offset_ = 0;  // of the chunk last looked at, of the one after it
  uint64_t sequence_ = 0, aux_end_ = 0;    // what the next chunk must say
  PtChunkHeader header_;                   // of the chunk in payload_
  std::vector<std::byte> compressed_, payload_;
  std::span<const std::byte> records_;  // what is left of them
  uint64_t place_ = 0, given_ = 0;      // in the chunk: of the last entry; AUX bytes handed out
  uint64_t chunk_event_ = 0;
  uint8_t entry_ = 0;
  bool entry_ready_ = false, ended_ = false, cut_ = false;
  PtFormat format_;
  PtRecord record_;
  std::string incomplete_, damage_;
};

PtLogReader::PtLogReader(const std::filesystem::path& directory, uint32_t thread)
    : impl_(std::make_unique<Impl>(directory, thread)) {}
PtLogReader::~PtLogReader() = default;
const PtFormat& PtLogReader::format() const { return impl_->format(); }
const PtRecord* PtLogReader::next() { return impl_->next(); }
void PtLogReader::seek(uint64_t offset) { impl_->seek(offset); }
bool PtLogReader::truncated(std::string* why) const { return impl_->truncated(why); }
double PtLogReader::progress() const { return impl_->progress(); }

std::vector<uint32_t> pt_threads(const std::filesystem::path& directory) {
  std::vector<uint32_t> threads;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory / "pt", error)) {
    const std::string text = entry.path().filename().string();
    uint32_t number = 0;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (problem == std::errc() && end == text.data() + text.size() && std::to_string(number) == text)
      threads.push_back(number);
  }
  std::sort(threads.begin(), threads.end());
  return threads;
}

PtSummary summarize_pt(const std::filesystem::path& directory, uint32_t thread) {
  PtSummary summary;
  try {
    PtLogReader(directory, thread).impl_->summarize(summary);
  } catch (const Error& error) {
    summary.problem = error.what();
  }
  return summary;
}

}  // namespace aftercheck::recording
