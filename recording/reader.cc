#include "recording/reader.h"

#include <algorithm>
#include <exception>
#include <optional>

#include "base/error.h"
#include "recording/chunk_decoder.h"
#include "recording/chunk_file.h"
#include "recording/format.h"

namespace aftercheck::recording {

class Reader::Impl {
 public:
  explicit Impl(const std::filesystem::path& directory)
      : file_((directory / "events").string(), kEventChunks) {}

  void start_at(const LogPlace& place, uint64_t next_event) {
    file_.go_to({place.chunk_offset, place.chunk_sequence});
    number_ = next_event - 1;
    next_number_ = place.chunk_first_event;
    try {
      if (!load_chunk()) file_.damaged("there is no whole chunk");
      if (next_event < next_number_ || next_event - next_number_ > decoder_->count())
        file_.damaged("it has {} events from {} on, and event {} is neither of them nor the next",
                      decoder_->count(), next_number_, next_event);
      while (next_number_ != next_event && take()) {
      }
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::bad_input) throw;
      fail(ErrorKind::bad_input, "{}; event {} was looked for there", error.what(), next_event);
    }
  }

  const Event* next() {
    if (failure_) std::rethrow_exception(failure_);
    if (ended_) return nullptr;
    try {
      while (!decoder_ || !take()) {
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
    number_ = next_number_ - 1;
    return &event_;
  }

  uint64_t number() const { return number_; }
  const LogPlace& place() const { return place_; }

  bool truncated(std::string* why) const {
    if (!ended_ || (file_.incomplete().empty() && last_kind_ == EventKind::end)) return false;
    if (why == nullptr) return true;
    *why = file_.incomplete();
    if (why->empty())
      *why = fmt::format("{}: it ends at offset {} after {} events without an `end` event", file_.path(),
                         file_.place().offset, next_number_);
    *why += "; the recorder was killed or its disk was full";
    return true;
  }

  double progress() const {
    const uint64_t size = file_.size();
    return size == 0 ? 1
                     : static_cast<double>(std::min(file_.place().offset, size)) / static_cast<double>(size);
  }

 private:
  // The chunk's next event, if there is one.
  bool take() {
    if (!decoder_->next(event_)) return false;
    next_number_++;
    last_kind_ = event_.kind;
    return true;
  }

  // False at the end of the file.
  bool load_chunk() {
    ChunkHeader header;
    if (!file_.load_header(header)) return false;
    if (header.raw_length == 0 || header.raw_length > kMaxPayloadBytes ||
        header.raw_length % sizeof(uint64_t) != 0)
      file_.damaged("its payload claims {} bytes; at most {} are allowed", header.raw_length,
                    kMaxPayloadBytes);
    if (!file_.load_payload(header.raw_length)) return false;
    decoder_.emplace(file_.words(), next_number_, file_.where());
    place_ = {file_.place().offset, file_.place().sequence, next_number_};
    return true;
  }

  ChunkFileReader file_;
  LogPlace place_;
  uint64_t number_ = 0, next_number_ = 0;
  std::optional<ChunkDecoder> decoder_;
  Event event_;
  EventKind last_kind_ = EventKind::start;
  bool ended_ = false;
  std::exception_ptr failure_;  // damage was met: every later call meets it too
};

Reader::Reader(const std::filesystem::path& directory) : impl_(std::make_unique<Impl>(directory)) {}
Reader::Reader(const std::filesystem::path& directory, const LogPlace& place, uint64_t next_event)
    : Reader(directory) {
  impl_->start_at(place, next_event);
}
Reader::~Reader() = default;

const Event* Reader::next() { return impl_->next(); }
uint64_t Reader::number() const { return impl_->number(); }
LogPlace Reader::place() const { return impl_->place(); }
bool Reader::truncated(std::string* why) const { return impl_->truncated(why); }
double Reader::progress() const { return impl_->progress(); }

}  // namespace aftercheck::recording
