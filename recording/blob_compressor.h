// Compresses the blobs of a recording beside the guest that is recorded.
#pragma once

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
// place of the blobs: what dies before leaves a recording with plain blobs.
class BlobCompressor {
 public:
  // `store` is the folder. Throws std::system_error when no thread can be started.
  explicit BlobCompressor(std::filesystem::path store);
  ~BlobCompressor();  // without finish(): blobs stay as they are
  BlobCompressor(const BlobCompressor&) = delete;
  BlobCompressor& operator=(const BlobCompressor&) = delete;

  // This blob has been kept, and is not compressed. Any thread.
  void add(const Digest128& name);
  // Waits for all, and puts them in place. Idempotent. What can't be compressed stays as it is; throws
  // Error(io) in the end where that is not as it should be.
  void finish();

 private:
  const std::filesystem::path store_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Digest128> waiting_;
  bool finishing_ = false, stopping_ = false;
  std::string error_;
  // The thread's own, then finish()'s: temporary file, and the blob's.
  std::vector<std::pair<std::string, std::string>> done_;
  std::promise<void> started_;
  std::thread thread_;

  void run();
  void compress(const std::string& blob, const std::string& temporary);
  void end_thread(bool finishing);
};

}  // namespace aftercheck::recording
