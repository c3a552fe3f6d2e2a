// Brings the blobs of a recording to the disk, and compresses them, beside the guest that is recorded.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "recording/event.h"

namespace aftercheck::recording {

// A recorder needs a blob's bytes as they are, to map them; a recording that lies on a disk does not. So a
// thread compresses each blob as soon as it is kept, into a temporary file, and finish() puts those in the
// place of the blobs: what dies before leaves a recording with plain blobs, and so does one that is finished
// before there was time. What has to reach the disk goes first, so that a guest which maps file after file
// need not wait for it.
class BlobCompressor {
 public:
  // `store` is the folder. Nothing is compressed before `patience` is over, and nothing at all where finish()
  // comes earlier. Throws std::system_error when no thread can be started.
  BlobCompressor(std::filesystem::path store, std::chrono::milliseconds patience);
  ~BlobCompressor();  // without finish(): blobs stay as they are
  BlobCompressor(const BlobCompressor&) = delete;
  BlobCompressor& operator=(const BlobCompressor&) = delete;

  // This blob has been kept, and is not compressed. True where it will be on the disk by itself, and not yet
  // is. Any thread.
  bool add(const Digest128& name, bool compressed);
  // The same of another file of the recording, or of its folder, by absolute path.
  bool add_file(const std::filesystem::path& path);
  // Waits until all that were added are on the disk. Throws Error(io) where one can't be.
  void sync();
  // Waits for all, and puts them in place. Idempotent. What can't be compressed stays as it is; throws
  // Error(io) in the end where that is not as it should be.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  const std::filesystem::path store_;
  const Clock::time_point begin_;  // of compressing
  std::mutex mutex_;               // guards what follows
  std::condition_variable changed_;
  std::deque<std::string> unsynced_;  // paths
  std::deque<Digest128> waiting_;
  bool apart_ = false;  // the thread can open files: its descriptors are not the guest's
  bool syncing_ = false;
  std::string sync_error_;
  bool finishing_ = false, stopping_ = false;
  std::string error_;
  // The thread's own, then finish()'s: temporary file, and the blob's.
  std::vector<std::pair<std::string, std::string>> done_;
  std::promise<void> started_;
  std::thread thread_;

  void run();
  void sync_one(std::unique_lock<std::mutex>& lock);
  void compress(const std::string& blob, const std::string& temporary);
  void end_thread(bool finishing);
};

}  // namespace aftercheck::recording
