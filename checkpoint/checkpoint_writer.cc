#include "checkpoint/checkpoint_writer.h"

#include <sched.h>
#include <zstd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <ctime>
#include <deque>
#include <future>
#include <mutex>
#include <thread>
#include <variant>

#include "base/error.h"
#include "base/fd.h"
#include "base/fork_gate.h"
#include "base/log.h"
#include "base/thread.h"
#include "recording/digest.h"

namespace aftercheck {
namespace {

using Clock = std::chrono::steady_clock;
using Page = PageCollector::Page;

constexpr int kCompressionLevel = 1;
// Frames that may wait, 64 KiB each.
constexpr size_t kMostWaiting = 1024;
// How often the writer's thread asks whether the log's chunk is on disk.
constexpr std::chrono::milliseconds kAskAgain{20};

// All of one checkpoint but its pages; they came before.
struct Last {
  Checkpoint checkpoint;  // frames of its runs are numbers over all checkpoints
  CheckpointWriter::PlaceOf place;
};
using Work = std::variant<std::vector<Page>, Last>;

struct FreeContext {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
};

// What the writer's thread does: frames into packs, checkpoints into files. Only that thread uses it.
class PackWriter {
 public:
  PackWriter(std::filesystem::path directory, recording::Store& store)
      : directory_(std::move(directory)), store_(store), context_(ZSTD_createCCtx()) {
    if (context_ == nullptr) throw std::bad_alloc();
  }

  void add(const std::vector<Page>& pages) {
    if (!pack_) {
      pack_ = std::make_unique<recording::Store::NewBlob>(store_);
      packs_.emplace_back();
    }
    const auto bytes = std::as_bytes(std::span(pages));
    compressed_.resize(ZSTD_compressBound(bytes.size()));
    const size_t size = ZSTD_compressCCtx(context_.get(), compressed_.data(), compressed_.size(),
                                          bytes.data(), bytes.size(), kCompressionLevel);
    if (ZSTD_isError(size)) fail(ErrorKind::io, "pages of a checkpoint: zstd: {}", ZSTD_getErrorName(size));
    const auto frame = std::span<const std::byte>(compressed_).first(size);
    frames_.push_back({static_cast<uint32_t>(packs_.size() - 1), pack_->size(), static_cast<uint32_t>(size),
                       static_cast<uint32_t>(pages.size()), recording::digest128(frame)});
    pack_->append(frame);
  }

  void finish(Checkpoint& checkpoint) {
    if (pack_) {
      written_ += pack_->size();
      packs_.back() = pack_->keep();
      pack_.reset();
    }
    name_frames(checkpoint);
    write_checkpoint(directory_, checkpoint);
  }

  uint64_t written() const { return written_; }

 private:
  const std::filesystem::path directory_;
  recording::Store& store_;
  std::unique_ptr<ZSTD_CCtx, FreeContext> context_;
  std::vector<std::byte> compressed_;
  std::unique_ptr<recording::Store::NewBlob> pack_;  // of the checkpoint under way
  std::vector<recording::Digest128> packs_;          // of all checkpoints
  std::vector<PageFrame> frames_;                    // likewise
  uint64_t written_ = 0;

  // The checkpoint gets those frames and packs that it uses, and its own numbers for them.
  void name_frames(Checkpoint& checkpoint) const {
    std::stable_sort(checkpoint.runs.begin(), checkpoint.runs.end(),
                     [](const PageRun& a, const PageRun& b) { return a.frame < b.frame; });
    std::vector<std::optional<uint32_t>> packs(packs_.size());
    std::optional<uint32_t> last;
    for (PageRun& run : checkpoint.runs) {
      if (last != run.frame) {
        last = run.frame;
        PageFrame frame = frames_[run.frame];
        std::optional<uint32_t>& pack = packs[frame.pack];
        if (!pack) {
          pack = static_cast<uint32_t>(checkpoint.packs.size());
          checkpoint.packs.push_back(packs_[frame.pack]);
        }
        frame.pack = *pack;
        checkpoint.frames.push_back(frame);
      }
      run.frame = static_cast<uint32_t>(checkpoint.frames.size() - 1);
    }
  }
};

}  // namespace

class CheckpointWriter::Impl {
 public:
  explicit Impl(const CheckpointWriterOptions& options)
      : options_(options),
        store_(options.directory, options.beside_guest),
        collector_(store_),
        packs_(options.directory, store_),
        next_time_ns_(options.every_ns) {
    thread_ = start_without_signals([this] { run(); });
    started_.get_future().wait();
  }

  ~Impl() {
    try {
      finish();
    } catch (const std::exception&) {  // the destructor's caller didn't ask
    }
  }

  bool due(uint64_t time_ns) const {
    return !failed_ && time_ns >= next_time_ns_ && Clock::now() >= not_before_;
  }

  void take(const CheckpointSummary& summary, std::vector<CheckpointThread> threads,
            const GuestMemory& memory, PlaceOf place) {
    if (failed_) return;
    const Clock::time_point begin = Clock::now();
    Last last;
    static_cast<CheckpointSummary&>(last.checkpoint) = summary;
    last.place = std::move(place);
    last.checkpoint.threads = std::move(threads);
    last.checkpoint.mappings = describe_mappings(memory.space);
    last.checkpoint.patches = describe_patches(memory.space);
    last.checkpoint.files = memory.files;
    PageCollector::Found found =
        collector_.collect(memory, [&](std::vector<Page>&& pages) { hand_over(std::move(pages)); });
    last.checkpoint.runs = std::move(found.runs);
    last.checkpoint.pages = found.pages;
    last.checkpoint.new_pages = found.new_pages;
    hand_over(std::move(last));
    const Clock::time_point end = Clock::now();
    next_time_ns_ = summary.time_ns + options_.every_ns;
    if (options_.share != 0) not_before_ = end + (end - begin) * (options_.share - 1);
    AFTERCHECK_LOG_TO(LogTopic::checkpoint, "taken at e{}: {} pages, {} of them new, in {} us", summary.event,
                      found.pages, found.new_pages,
                      std::chrono::duration_cast<std::chrono::microseconds>(end - begin).count());
    std::lock_guard lock(mutex_);
    ++statistics_.checkpoints;
    statistics_.pages += found.pages;
    statistics_.new_pages += found.new_pages;
    statistics_.seconds += std::chrono::duration<double>(end - begin).count();
  }

  void finish() {
    {
      std::lock_guard lock(mutex_);
      finished_ = true;
      changed_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
    if (failed_) fail(ErrorKind::io, "{}", error());
  }

  void leave_to_parent() { collector_.leave_to_parent(); }

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
  const CheckpointWriterOptions options_;
  recording::Store store_;
  PageCollector collector_;
  PackWriter packs_;       // the thread's
  uint64_t next_time_ns_;  // a run's start needs none
  Clock::time_point not_before_{};

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Work> waiting_;
  bool finished_ = false;
  std::string error_;
  Statistics statistics_;
  std::atomic<bool> failed_ = false;
  std::promise<void> started_;
  std::thread thread_;

  void hand_over(Work&& work) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_.size() < kMostWaiting || failed_; });
    waiting_.push_back(std::move(work));
    changed_.notify_all();
  }

  void run() {
    // A guest that is recorded may change its root directory. Where a sandbox forbids this, it is the
    // recorder's too.
    unshare(CLONE_FS);
    // It opens files while the guest runs, whose descriptors are this process's.
    if (!use_own_descriptor_table())
      set_error(fmt::format("checkpoints need a thread with descriptors of its own: unshare: {}",
                            errno_text(errno)));
    started_.set_value();
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return !waiting_.empty() || finished_; });
      if (waiting_.empty()) return;
      Work work = std::move(waiting_.front());
      waiting_.pop_front();
      changed_.notify_all();
      lock.unlock();
      if (failed_) continue;
      const NoForkMeanwhile works;
      try {
        process(work);
      } catch (const std::exception& error) {
        set_error(error.what());
      }
    }
  }

  void process(Work& work) {
    if (const auto* pages = std::get_if<std::vector<Page>>(&work)) return packs_.add(*pages);
    auto& [checkpoint, place_of] = std::get<Last>(work);
    std::optional<recording::LogPlace> place;
    while (!(place = place_of())) {
      std::unique_lock lock(mutex_);
      // The log's own writer ends first; what it has not written by then it never will.
      if (changed_.wait_for(lock, kAskAgain, [&] { return finished_; })) {
        lock.unlock();
        place = place_of();
        if (!place) return;  // useless: its event is not in the log
        break;
      }
    }
    checkpoint.next = *place;
    packs_.finish(checkpoint);
    std::lock_guard lock(mutex_);
    statistics_.written_bytes = packs_.written();
  }

  void set_error(const std::string& text) {
    std::lock_guard lock(mutex_);
    error_ = text;
    failed_ = true;
    changed_.notify_all();
  }
};

CheckpointWriter::CheckpointWriter(const CheckpointWriterOptions& options)
    : impl_(std::make_unique<Impl>(options)) {}
CheckpointWriter::~CheckpointWriter() = default;
bool CheckpointWriter::due(uint64_t time_ns) const { return impl_->due(time_ns); }
void CheckpointWriter::take(const CheckpointSummary& summary, std::vector<CheckpointThread> threads,
                            const GuestMemory& memory, PlaceOf place) {
  impl_->take(summary, std::move(threads), memory, std::move(place));
}
void CheckpointWriter::finish() { impl_->finish(); }
// As recording::Writer's.
void CheckpointWriter::leave_to_parent() {
  if (Impl* copy = impl_.release()) copy->leave_to_parent();
}
bool CheckpointWriter::failed() const { return impl_->failed(); }
std::string CheckpointWriter::error() const { return impl_->error(); }
CheckpointWriter::Statistics CheckpointWriter::statistics() const { return impl_->statistics(); }

uint64_t process_work_ns() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

}  // namespace aftercheck
