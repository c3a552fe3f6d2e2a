#include <cstring>
#include <system_error>

#include "base/error.h"
#include "recording/byte_buffer.h"
#include "recording/chunk_file.h"
#include "recording/format.h"
#include "recording/pt_log.h"
#include "recording/pt_log_format.h"

namespace aftercheck::recording {
namespace {

// PT compresses well at any level, and the thread that does it shares the processor with the guest.
constexpr ChunkCompression kCompression = {.level = 1};

std::string file_in(const std::filesystem::path& directory, const std::string& folder, uint32_t thread) {
  const std::filesystem::path place = directory / folder;
  std::error_code error;
  std::filesystem::create_directory(place, error);
  if (error) fail(ErrorKind::io, "{}: can't be created: {}", place.string(), error.message());
  return (place / std::to_string(thread)).string();
}

}  // namespace

class PtLogWriter::Impl {
 public:
  Impl(const std::filesystem::path& directory, uint32_t thread, const PtFormat& format,
       const std::string& folder)
      : file_(file_in(directory, folder, thread), kPtChunks, kCompression) {
    begin_entry(PtEntry::format);
    records_.push(static_cast<std::byte>(format.source));
    records_.push(std::byte{format.return_compression});
    for (const uint32_t number : {format.family, format.model, format.stepping}) put(number);
    const size_t length = std::min<size_t>(format.capabilities.size(), kPtMaxTextBytes);
    put(length);
    std::memcpy(records_.reserve_more(length), format.capabilities.data(), length);
    records_.grow(length);
  }

  ~Impl() {
    try {
      finish();
    } catch (const std::exception&) {  // the destructor's caller didn't ask
    }
  }

  void data(std::span<const uint8_t> bytes) {
    if (failed_) return;
    while (!bytes.empty()) {
      const size_t size = std::min<uint64_t>(bytes.size(), kPtTargetAuxBytes - aux_.size());
      std::memcpy(aux_.reserve_more(size), bytes.data(), size);
      aux_.grow(size);
      bytes = bytes.subspan(size);
      close_if_full();
    }
  }

  void mark(uint64_t event) {
    if (failed_) return;
    if (event < last_event_)
      fail(ErrorKind::internal, "{}: a mark of event {} after one of event {}", file_.path(), event,
           last_event_);
    begin_entry(PtEntry::mark);
    put(event - (header_.marks == 0 ? 0 : last_event_));
    last_event_ = event;
    ++header_.marks;
    close_if_full();
  }

  void loss(uint8_t flags, uint64_t lost_bytes) {
    if (failed_) return;
    begin_entry(PtEntry::loss);
    records_.push(std::byte{flags});
    put(lost_bytes);
    ++header_.losses;
    close_if_full();
  }

  void flush_older_than(std::chrono::milliseconds age) {
    if (!failed_ && (aux_.size() != 0 || records_.size() != 0) && Clock::now() - opened_ >= age)
      write_chunk(false);
  }

  void finish() {
    if (finished_ || failed_) return;
    finished_ = true;
    write_chunk(true);
    guarded([&] { file_.sync(); });
  }

  uint64_t aux_bytes() const { return header_.start_offset + aux_.size(); }
  uint64_t written_bytes() const { return file_.size(); }
  void close_file() { file_.close(); }

 private:
  using Clock = std::chrono::steady_clock;

  void put(uint64_t value) { records_.grow(put_varint(records_.reserve_more(kMaxVarintBytes), value)); }

  void begin_entry(PtEntry kind) {
    records_.push(static_cast<std::byte>(kind));
    put(aux_.size() - last_place_);
    last_place_ = aux_.size();
  }

  void close_if_full() {
    if (aux_.size() >= kPtTargetAuxBytes || records_.size() >= kPtTargetRecordBytes) write_chunk(false);
  }

  void write_chunk(bool last) {
    header_.aux_bytes = aux_.size();
    header_.record_bytes = records_.size();
    header_.last = last ? 1 : 0;
    if (header_.aux_bytes != 0) std::memcpy(records_.reserve_more(aux_.size()), aux_.data(), aux_.size());
    records_.grow(aux_.size());
    guarded([&] {
      file_.begin(records_.size());
      file_.add(records_.span());
      file_.end(header_);
    });
    header_.start_offset += header_.aux_bytes;
    header_.marks = header_.losses = 0;
    last_place_ = 0;
    records_.clear();
    aux_.clear();
    opened_ = Clock::now();
  }

  // From the first failure on, what comes is dropped.
  template <typename Step>
  void guarded(const Step& step) {
    failed_ = true;
    step();
    failed_ = false;
  }

  ChunkFileWriter file_;
  PtChunkHeader header_;  // of the chunk that is filled
  ByteBuffer records_, aux_;
  uint64_t last_place_ = 0, last_event_ = 0;
  Clock::time_point opened_ = Clock::now();
  bool finished_ = false, failed_ = false;
};

const char* name(PtSource source) {
  constexpr const char* kNames[] = {"soft", "perf", "synth"};
  return kNames[static_cast<size_t>(source)];
}

std::string describe_pt_loss(uint8_t flags) {
  constexpr std::pair<uint8_t, const char*> kNames[] = {{pt_loss::kTruncated, "truncated"},
                                                        {pt_loss::kOverwrite, "overwritten"},
                                                        {pt_loss::kPartial, "partial"},
                                                        {pt_loss::kCollision, "collision"},
                                                        {pt_loss::kLost, "lost"}};
  std::string text;
  for (const auto& [flag, word] : kNames)
    if ((flags & flag) != 0) text += (text.empty() ? "" : ", ") + std::string(word);
  return text.empty() ? "unknown" : text;
}

PtLogWriter::PtLogWriter(const std::filesystem::path& directory, uint32_t thread, const PtFormat& format,
                         const std::string& folder)
    : impl_(std::make_unique<Impl>(directory, thread, format, folder)) {}
PtLogWriter::~PtLogWriter() = default;
void PtLogWriter::data(std::span<const uint8_t> bytes) { impl_->data(bytes); }
void PtLogWriter::mark(uint64_t event) { impl_->mark(event); }
void PtLogWriter::loss(uint8_t flags, uint64_t lost_bytes) { impl_->loss(flags, lost_bytes); }
void PtLogWriter::flush_older_than(std::chrono::milliseconds age) { impl_->flush_older_than(age); }
void PtLogWriter::finish() { impl_->finish(); }
// As Writer's: what is not written yet is the parent's to write.
void PtLogWriter::leave_to_parent() {
  if (Impl* copy = impl_.release()) copy->close_file();
}
uint64_t PtLogWriter::aux_bytes() const { return impl_->aux_bytes(); }
uint64_t PtLogWriter::written_bytes() const { return impl_->written_bytes(); }

}  // namespace aftercheck::recording
