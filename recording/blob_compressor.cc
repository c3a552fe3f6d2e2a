#include "recording/blob_compressor.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <exception>

#include "base/error.h"
#include "base/fd.h"
#include "base/fork_gate.h"
#include "base/thread.h"
#include "recording/compressed_blob.h"
#include "recording/store.h"

namespace aftercheck::recording {
namespace {

// What a log may need meanwhile, bytes.
constexpr uint64_t kRoomForLog = 256 << 20;

// Blob and copy lie beside each other until the recording ends.
bool room_for_copy(int blob) {
  struct stat status {};
  struct statvfs disk {};
  if (fstat(blob, &status) != 0 || fstatvfs(blob, &disk) != 0) return false;
  return disk.f_bavail * disk.f_frsize > static_cast<uint64_t>(status.st_size) + kRoomForLog;
}

}  // namespace

BlobCompressor::BlobCompressor(std::filesystem::path store, std::chrono::milliseconds patience)
    : store_(std::move(store)),
      begin_(Clock::now() + patience),
      thread_(start_without_signals([this] { run(); })) {
  started_.get_future().wait();
}

BlobCompressor::~BlobCompressor() {
  end_thread(false);
  for (const auto& [temporary, blob] : done_) unlink(temporary.c_str());
}

void BlobCompressor::end_thread(bool finishing) {
  {
    const std::lock_guard lock(mutex_);
    (finishing ? finishing_ : stopping_) = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool BlobCompressor::add(const Digest128& name, bool compressed) {
  bool apart = false;
  {
    const std::lock_guard lock(mutex_);
    apart = apart_;
    if (apart) unsynced_.push_back((store_ / to_hex(name)).string());
    if (compressed) waiting_.push_back(name);
  }
  changed_.notify_all();
  return apart;
}

bool BlobCompressor::add_file(const std::filesystem::path& path) {
  {
    const std::lock_guard lock(mutex_);
    if (!apart_) return false;
    unsynced_.push_back(path.string());
  }
  changed_.notify_all();
  return true;
}

void BlobCompressor::sync() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return (unsynced_.empty() && !syncing_) || stopping_; });
  if (!sync_error_.empty()) fail(ErrorKind::io, "{}", sync_error_);
}

void BlobCompressor::finish() {
  end_thread(true);
  for (const auto& [temporary, blob] : done_) {
    if (rename(temporary.c_str(), blob.c_str()) == 0) continue;
    error_ = fmt::format("{}: {}", blob, errno_text(errno));
    unlink(temporary.c_str());
  }
  done_.clear();
  if (const std::string error = std::exchange(error_, {}); !error.empty()) fail(ErrorKind::io, "{}", error);
}

void BlobCompressor::run() {
  // The guest may change its root directory, and its descriptors are this process's. Where a sandbox forbids
  // this, blobs stay as they are: the guest must not meet our descriptors.
  unshare(CLONE_FS);
  const bool apart = apart_ = use_own_descriptor_table();
  started_.set_value();
  std::unique_lock lock(mutex_);
  for (;;) {
    const auto asked = [this] { return !unsynced_.empty() || finishing_ || stopping_; };
    const bool early = Clock::now() < begin_;
    if (early && !waiting_.empty())
      changed_.wait_until(lock, begin_, asked);
    else
      changed_.wait(lock, [&] { return !waiting_.empty() || asked(); });
    if (stopping_) return;
    if (!unsynced_.empty()) {
      sync_one(lock);
      continue;
    }
    if (waiting_.empty() && finishing_) return;
    if (Clock::now() < begin_) {
      if (finishing_) return;
      continue;
    }
    if (waiting_.empty()) continue;
    const Digest128 name = waiting_.front();
    waiting_.pop_front();
    lock.unlock();
    const NoForkMeanwhile works;
    std::string error;
    try {
      if (apart) compress((store_ / to_hex(name)).string(), (store_ / temporary_name()).string());
    } catch (const std::exception& problem) {
      error = problem.what();
    }
    lock.lock();
    if (error_.empty()) error_ = error;
  }
}

void BlobCompressor::sync_one(std::unique_lock<std::mutex>& lock) {
  const std::string path = std::move(unsynced_.front());
  unsynced_.pop_front();
  syncing_ = true;
  lock.unlock();
  const NoForkMeanwhile works;
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  const int error = file && fdatasync(file.get()) == 0 ? 0 : errno;
  lock.lock();
  syncing_ = false;
  if (error != 0 && sync_error_.empty()) sync_error_ = fmt::format("{}: {}", path, errno_text(error));
  changed_.notify_all();
}

void BlobCompressor::compress(const std::string& blob, const std::string& temporary) {
  const UniqueFd from(open(blob.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!from) fail(ErrorKind::io, "{}: {}", blob, errno_text(errno));
  if (is_compressed_blob(from.get()) || !room_for_copy(from.get())) return;
  const UniqueFd to(open(temporary.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0444));
  if (!to) return;
  bool smaller = false;
  try {
    smaller = compress_blob(from.get(), to.get(), temporary, [this] {
      const std::lock_guard lock(mutex_);
      return stopping_;
    });
    smaller = smaller && fdatasync(to.get()) == 0;
  } catch (const Error&) {  // no room for a copy is no reason to lose the blob
  }
  if (smaller) {
    done_.emplace_back(temporary, blob);
    return;
  }
  unlink(temporary.c_str());
}

}  // namespace aftercheck::recording
