#include "recording/writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/guarded_copy.h"
#include "base/thread.h"
#include "recording/chunk_builder.h"
#include "recording/file_io.h"

namespace aftercheck::recording {
namespace {

// Chunks that may wait for the writer thread. With the one being filled and the one being compressed that
// bounds the memory to four chunks.
constexpr size_t kMaxWaiting = 2;

struct FreeContext {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
};

std::unique_ptr<ZSTD_CCtx, FreeContext> make_context(int level) {
  if (level < ZSTD_minCLevel() || level > ZSTD_maxCLevel())  // zstd itself would quietly take the nearest
    fail(ErrorKind::usage, "zstd level {}: levels go from {} to {}", level, ZSTD_minCLevel(),
         ZSTD_maxCLevel());
  std::unique_ptr<ZSTD_CCtx, FreeContext> context(ZSTD_createCCtx());
  if (context == nullptr) fail(ErrorKind::io, "no memory for the log's compression");
  // Chunks start without a history. A window of the whole chunk and larger tables make up for that, so that a
  // stream in chunks takes no more than 2 % above the same stream in one frame (docs/recording-format.md has
  // numbers).
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, level);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_windowLog, 23);
  if (level == WriterOptions{}.compression_level) {
    ZSTD_CCtx_setParameter(context.get(), ZSTD_c_hashLog, 18);
    ZSTD_CCtx_setParameter(context.get(), ZSTD_c_chainLog, 17);
  }
  return context;
}

}  // namespace

class Writer::Impl {
 public:
  Impl(const std::filesystem::path& directory, const WriterOptions& options)
      : path_((directory / "events").string()),
        directory_(directory.string()),
        flush_interval_(options.flush_interval),
        context_(make_context(options.compression_level)),
        file_(create_file(path_)),
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
      fail(ErrorKind::internal, "{}: an event was appended after the log had been finished", path_);
    if (failed_) return;
    if (current_->full()) hand_over(lock);
    if (failed_) return;
    current_->append(event);
    statistics_.events++;
    if (current_->count() == 1) {
      deadline_ = Clock::now() + flush_interval_;
      work_.notify_one();
    }
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
      sync();
    }
    if (failed_) fail(ErrorKind::io, "{}", error());
  }

  bool failed() const { return failed_; }

  std::string error() const {
    std::lock_guard lock(mutex_);
    return error_;
  }

  Statistics statistics() const {
    std::lock_guard lock(mutex_);
    return statistics_;
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
      write_chunk(full);
      full.chunk->clear();
      lock.lock();
      spare_.push_back(std::move(full.chunk));
    }
  }

  void write_chunk(const Full& full) {
    if (failed_) return;
    try {
      const uint64_t raw = full.chunk->serialize(sequence_, full.first_event, context_.get(), buffer_);
      const int error = write_all(file_.get(), buffer_.span(), end_);
      if (error != 0) {
        set_error(path_ + ": " + errno_text(error));
        return;
      }
      sequence_++;
      end_ += buffer_.size();
      std::lock_guard lock(mutex_);
      statistics_.chunks++;
      statistics_.raw_bytes += raw;
      statistics_.written_bytes = end_;
    } catch (const std::exception& e) {
      set_error(path_ + ": " + e.what());
    }
  }

  void set_error(const std::string& text) {
    // Gives the file system back the partial chunk's space; a reader would stop at the same place without it.
    const bool cut = ftruncate(file_.get(), static_cast<off_t>(end_)) == 0;
    std::lock_guard lock(mutex_);
    error_ = cut ? text : text + fmt::format("; an incomplete chunk stays at offset {}", end_);
    failed_ = true;
    space_.notify_all();
  }

  // After the thread has ended. The directory too, or the file's name could be lost with the power.
  void sync() {
    if (failed_) return;
    if (fsync(file_.get()) != 0) set_error(path_ + ": fsync: " + errno_text(errno));
    const UniqueFd directory(::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory || fsync(directory.get()) != 0) set_error(directory_ + ": fsync: " + errno_text(errno));
  }

  const std::string path_, directory_;
  const std::chrono::milliseconds flush_interval_;
  // Writer thread's own, and finish()'s after it has ended.
  std::unique_ptr<ZSTD_CCtx, FreeContext> context_;
  UniqueFd file_;
  ByteBuffer buffer_;
  uint64_t sequence_ = 0, end_ = 0;

  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable work_, space_;
  std::unique_ptr<ChunkBuilder> current_;
  std::vector<std::unique_ptr<ChunkBuilder>> spare_;
  std::deque<Full> waiting_;
  Clock::time_point deadline_{};
  uint64_t next_first_event_ = 0;
  bool finished_ = false;
  std::string error_;
  Statistics statistics_;
  std::atomic<bool> failed_ = false;

  std::thread thread_;
};

Writer::Writer(const std::filesystem::path& directory, const WriterOptions& options)
    : impl_(std::make_unique<Impl>(directory, options)) {}
Writer::~Writer() = default;

void Writer::append(const Event& event) { impl_->append(event); }
void Writer::flush() { impl_->flush(); }
void Writer::finish() { impl_->finish(); }
bool Writer::failed() const { return impl_->failed(); }
std::string Writer::error() const { return impl_->error(); }
Writer::Statistics Writer::statistics() const { return impl_->statistics(); }

}  // namespace aftercheck::recording
