#include "recording/writer.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <iterator>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fork_gate.h"
#include "base/guarded_copy.h"
#include "base/thread.h"
#include "recording/chunk_builder.h"
#include "recording/chunk_file.h"
#include "recording/format.h"

namespace aftercheck::recording {
namespace {

// Chunks that may wait for the writer thread. With the one being filled and the one being compressed that
// bounds the memory to four chunks.
constexpr size_t kMaxWaiting = 2;

ChunkCompression compression(int level) {
  // Chunks start without a history. A window of the whole chunk and larger tables make up for that, so that a
  // stream in chunks takes no more than 2 % above the same stream in one frame (docs/recording-format.md has
  // numbers).
  ChunkCompression compression{.level = level, .window_log = 23};
  if (level == WriterOptions{}.compression_level) {
    compression.hash_log = 18;
    compression.chain_log = 17;
  }
  return compression;
}

}  // namespace

class Writer::Impl {
 public:
  Impl(const std::filesystem::path& directory, const WriterOptions& options)
      : flush_interval_(options.flush_interval),
        computing_interval_(options.computing_interval),
        synced_(options.synced),
        file_((directory / "events").string(), kEventChunks, compression(options.compression_level)),
        current_(std::make_unique<ChunkBuilder>()) {
    install_fault_guard();
    start_thread();
  }

  ~Impl() {
    try {
      finish();
    } catch (const std::exception&) {  // the destructor's caller didn't ask
    }
  }

  void append(const Event& event) {
    std::unique_lock lock(mutex_);
    if (finished_)
      fail(ErrorKind::internal, "{}: an event was appended after the log had been finished", file_.path());
    if (failed_) return;
    if (current_->full()) hand_over(lock);
    if (failed_) return;
    current_->append(event);
    statistics_.events++;
    set_deadline(event);
    if (current_->full()) hand_over(lock);
  }

  void flush() {
    std::unique_lock lock(mutex_);
    if (!failed_ && !current_->empty()) hand_over(lock);
  }

  void finish() {
    {
      std::unique_lock lock(mutex_);
      if (!finished_ && !failed_ && !current_->empty()) hand_over(lock);
      finished_ = true;
      work_.notify_one();
    }
    if (thread_.joinable()) {
      thread_.join();
      if (synced_) sync();
    }
    if (failed_) fail(ErrorKind::io, "{}", error());
  }

  // Of a copy that fork(2) has made.
  void close_file() { file_.close(); }

  bool failed() const { return failed_; }

  std::string error() const {
    std::lock_guard lock(mutex_);
    return error_;
  }

  Statistics statistics() const {
    std::lock_guard lock(mutex_);
    return statistics_;
  }

  std::optional<LogPlace> place_of(uint64_t event) const {
    std::lock_guard lock(mutex_);
    if (event >= written_events_) return std::nullopt;
    const auto after = std::upper_bound(
        places_.begin(), places_.end(), event,
        [](uint64_t number, const LogPlace& place) { return number < place.chunk_first_event; });
    return *std::prev(after);
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Full {
    std::unique_ptr<ChunkBuilder> chunk;
    uint64_t first_event = 0;
  };

  void start_thread() {
    thread_ = start_without_signals([this] { run(); });
  }

  // After `event`, which is the last of the current chunk.
  void set_deadline(const Event& event) {
    const bool computes = event.kind == EventKind::preempted;
    const bool first = current_->count() == 1;
    if (!first && (computes || !waits_longer_)) return;
    const Clock::time_point deadline = Clock::now() + (computes ? computing_interval_ : flush_interval_);
    deadline_ = first ? deadline : std::min(deadline_, deadline);
    waits_longer_ = computes;
    work_.notify_one();
  }

  // Gives the current chunk to the writer thread. Waits while too many are on their way.
  void hand_over(std::unique_lock<std::mutex>& lock) {
    space_.wait(lock, [this] { return waiting_.size() < kMaxWaiting || failed_; });
    if (failed_ || current_->empty()) return;  // the thread took it when its time was over
    take_current();
    work_.notify_one();
  }

  void take_current() {
    const uint64_t first = next_first_event_;
    next_first_event_ += current_->count();
    waiting_.push_back({std::move(current_), first});
    if (spare_.empty()) {
      current_ = std::make_unique<ChunkBuilder>();
    } else {
      current_ = std::move(spare_.back());
      spare_.pop_back();
    }
  }

  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      if (waiting_.empty() && !finished_) {
        if (current_->empty() || failed_)
          work_.wait(lock);
        else
          work_.wait_until(lock, deadline_);
      }
      if (waiting_.empty() && !failed_ && !current_->empty() && Clock::now() >= deadline_) take_current();
      if (waiting_.empty()) {
        if (finished_) return;
        continue;
      }
      Full full = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      space_.notify_one();
      const NoForkMeanwhile works;
      write_chunk(full);
      full.chunk->clear();
      lock.lock();
      spare_.push_back(std::move(full.chunk));
    }
  }

  void write_chunk(const Full& full) {
    if (failed_) return;
    const LogPlace place{file_.size(), file_.sequence(), full.first_event};
    try {
      const uint64_t raw = full.chunk->write_to(file_, full.first_event);
      std::lock_guard lock(mutex_);
      statistics_.chunks++;
      statistics_.raw_bytes += raw;
      statistics_.written_bytes = file_.size();
      places_.push_back(place);
      written_events_ = full.first_event + full.chunk->count();
    } catch (const Error& e) {
      set_error(e.what());
    } catch (const std::exception& e) {
      set_error(file_.path() + ": " + e.what());
    }
  }

  void set_error(const std::string& text) {
    std::lock_guard lock(mutex_);
    error_ = text;
    failed_ = true;
    space_.notify_all();
  }

  // After the thread has ended.
  void sync() {
    if (failed_) return;
    try {
      file_.sync();
      file_.verify();
    } catch (const Error& e) {
      set_error(e.what());
    }
  }

  const std::chrono::milliseconds flush_interval_, computing_interval_;
  const bool synced_;
  // Writer thread's own, and finish()'s after it has ended.
  ChunkFileWriter file_;

  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable work_, space_;
  std::unique_ptr<ChunkBuilder> current_;
  std::vector<std::unique_ptr<ChunkBuilder>> spare_;
  std::deque<Full> waiting_;
  Clock::time_point deadline_{};
  bool waits_longer_ = false;  // deadline_ is that of a chunk in which threads do nothing but compute
  uint64_t next_first_event_ = 0;
  bool finished_ = false;
  std::string error_;
  Statistics statistics_;
  std::vector<LogPlace> places_;  // of all chunks that were written, and how many events they have
  uint64_t written_events_ = 0;
  std::atomic<bool> failed_ = false;

  std::thread thread_;
};

Writer::Writer(const std::filesystem::path& directory, const WriterOptions& options)
    : impl_(std::make_unique<Impl>(directory, options)) {}
Writer::~Writer() = default;

// The copy's locks may be held, and its thread never ends: it is left as it is.
void Writer::leave_to_parent() {
  if (Impl* copy = impl_.release()) copy->close_file();
}

void Writer::append(const Event& event) { impl_->append(event); }
void Writer::flush() { impl_->flush(); }
void Writer::finish() { impl_->finish(); }
bool Writer::failed() const { return impl_->failed(); }
std::string Writer::error() const { return impl_->error(); }
std::optional<LogPlace> Writer::place_of(uint64_t event) const { return impl_->place_of(event); }
Writer::Statistics Writer::statistics() const { return impl_->statistics(); }

}  // namespace aftercheck::recording
