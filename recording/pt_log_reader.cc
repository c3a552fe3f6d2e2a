#include <algorithm>
#include <charconv>
#include <system_error>

#include "base/error.h"
#include "recording/chunk_file.h"
#include "recording/format.h"
#include "recording/pt_log.h"
#include "recording/pt_log_format.h"

namespace aftercheck::recording {

class PtLogReader::Impl {
 public:
  Impl(const std::filesystem::path& directory, uint32_t thread)
      : file_((directory / "pt" / std::to_string(thread)).string(), kPtChunks) {
    if (!load_chunk())
      fail(ErrorKind::bad_input, "{}: it ends at offset {}, before its first chunk does: nothing can be read",
           file_.path(), file_.size());
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
    file_.go_to({});
    aux_end_ = 0;
    ended_ = cut_ = false;
    PtChunkHeader header;
    while (load_header(header)) {
      const bool inside = offset < header.start_offset + header.aux_bytes;
      if (inside || header.last != 0 || !skip(header)) break;
    }
    file_.go_to(file_.place());
    if (!load_chunk()) ended_ = true;
    if (!ended_ && file_.place().sequence == 0) load_format();
  }

  bool truncated(std::string* why) const {
    if (!ended_ || (file_.incomplete().empty() && header_.last != 0)) return false;
    if (why == nullptr) return true;
    *why = file_.incomplete();
    if (why->empty())
      *why = fmt::format("{}: it ends at offset {} without the sign of an end", file_.path(),
                         file_.place().offset);
    *why += "; the recorder was killed or its disk was full";
    return true;
  }

  double progress() const {
    const uint64_t size = file_.size();
    return size == 0 ? 1
                     : static_cast<double>(std::min(file_.next_offset(), size)) / static_cast<double>(size);
  }

  // Everything that headers tell.
  void summarize(PtSummary& summary) {
    summary.format = format_;
    summary.file_bytes = file_.size();
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
      if (!load_header(header) || !skip(header)) break;
    }
    ended_ = true;
    header_.last = 0;
    truncated(&summary.problem);
  }

 private:
  template <typename... Args>
  [[noreturn]] void damaged(fmt::format_string<Args...> format, Args&&... args) const {
    file_.damaged(format, std::forward<Args>(args)...);
  }

  // False at the end of the file.
  bool load_header(PtChunkHeader& header) {
    if (!file_.load_header(header)) return false;
    if (header.start_offset != aux_end_)
      damaged("it starts at AUX offset {} instead of {}", header.start_offset, aux_end_);
    if (header.aux_bytes > kPtMaxAuxBytes || header.record_bytes > kPtMaxRecordBytes)
      damaged("it claims {} AUX bytes and {} bytes of records", header.aux_bytes, header.record_bytes);
    return true;
  }

  bool skip(const PtChunkHeader& header) {
    if (!file_.skip()) return false;
    aux_end_ = header.start_offset + header.aux_bytes;
    return true;
  }

  bool load_chunk() {
    if (!load_header(header_) || !file_.load_payload(header_.record_bytes + header_.aux_bytes)) return false;
    aux_end_ = header_.start_offset + header_.aux_bytes;
    records_ = file_.payload().first(header_.record_bytes);
    chunk_event_ = 0;
    place_ = given_ = 0;
    entry_ready_ = false;
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
      const auto* aux = reinterpret_cast<const uint8_t*>(file_.payload().data()) + header_.record_bytes;
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

  ChunkFileReader file_;
  uint64_t aux_end_ = 0;                // where the next chunk must start
  PtChunkHeader header_;                // of the chunk that is loaded
  std::span<const std::byte> records_;  // what is left of them
  uint64_t place_ = 0, given_ = 0;      // in the chunk: of the last entry; AUX bytes handed out
  uint64_t chunk_event_ = 0;
  uint8_t entry_ = 0;
  bool entry_ready_ = false, ended_ = false, cut_ = false;
  PtFormat format_;
  PtRecord record_;
  std::string damage_;
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
