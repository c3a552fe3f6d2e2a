#include "recording/blob_compressor.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <exception>

#include "base/error.h"
#include "base/fd.h"
#include "base/thread.h"
#include "recording/compressed_blob.h"
#include "recording/store.h"

namespace aftercheck::recording {

BlobCompressor::BlobCompressor(std::filesystem::path store)
    : store_(std::move(store)), thread_(start_without_signals([this] { run(); })) {}

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

void BlobCompressor::add(const Digest128& name) {
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(name);
  }
  changed_.notify_all();
}

void BlobCompressor::finish() {
  end_thread(true);
  if (!error_.empty()) fail(ErrorKind::io, "{}", error_);
  while (!done_.empty()) {
    const auto& [temporary, blob] = done_.back();
    if (rename(temporary.c_str(), blob.c_str()) != 0) fail(ErrorKind::io, "{}: {}", blob, errno_text(errno));
    done_.pop_back();
  }
}

void BlobCompressor::run() {
  // The guest may change its root directory, and its descriptors are this process's. Where a sandbox forbids
  // this, blobs stay as they are: the guest must not meet our descriptors.
  unshare(CLONE_FS);
  const bool apart = use_own_descriptor_table();
  uint64_t number = 0;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return !waiting_.empty() || finishing_ || stopping_; });
    if (stopping_ || waiting_.empty()) return;
    const Digest128 name = waiting_.front();
    waiting_.pop_front();
    lock.unlock();
    std::string error;
    try {
      if (apart)
        compress((store_ / to_hex(name)).string(),
                 (store_ / fmt::format("new-{}-packed-{}", getpid(), number++)).string());
    } catch (const std::exception& problem) {
      error = problem.what();
    }
    lock.lock();
    if (error_.empty()) error_ = error;
  }
}

void BlobCompressor::compress(const std::string& blob, const std::string& temporary) {
  const UniqueFd from(open(blob.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!from) fail(ErrorKind::io, "{}: {}", blob, errno_text(errno));
  bool smaller = false;
  // No room for a copy is no reason to lose the blob.
  if (const UniqueFd to(open(temporary.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0444)); to) try {
      smaller = !is_compressed_blob(from.get()) && compress_blob(from.get(), to.get(), temporary, [this] {
        const std::lock_guard lock(mutex_);
        return stopping_;
      });
      smaller = smaller && fdatasync(to.get()) == 0;
    } catch (const Error&) {
      smaller = false;
    }
  if (smaller) {
    done_.emplace_back(temporary, blob);
    return;
  }
  unlink(temporary.c_str());
}

}  // namespace aftercheck::recording
