// Appends events to DIR/events. Chunks are compressed and written by a thread of the writer's own, so
// append() costs the recorded program little. kill -9, a full disk or power loss leaves a recording that
// replays up to its last whole chunk.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "recording/event.h"
#include "recording/log_place.h"

namespace aftercheck::recording {

// An Event's memory writes together may have at most this many bytes; the caller splits larger answers into
// continuation events. Bounds what a reader must hold.
constexpr uint64_t kMaxEventBytes = 4 << 20;

struct WriterOptions {
  int compression_level = 3;                      // zstd
  std::chrono::milliseconds flush_interval{100};  // a partial chunk older than this is written out
  // One in which threads do nothing but compute in turn: whoever is killed loses nothing that anybody has
  // seen, and the few dozen events of a tenth of a second take no more bytes than a chunk itself.
  std::chrono::milliseconds computing_interval{1000};
  // finish() waits until the disk has all of it, and reads it back. False: somebody else sees to that.
  bool synced = true;
};

class Writer {
 public:
  // Creates DIR/events (must not exist). Throws Error(io).
  Writer(const std::filesystem::path& directory, const WriterOptions& options = {});
  ~Writer();  // like finish(), errors swallowed
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  // Copies everything it needs out of `event`. After a write error (disk full) events are dropped and error()
  // tells; the file on disk stays readable up to its last whole chunk. One thread at a time. Blocks only
  // while more than a few chunks wait to be written (bounded memory).
  void append(const Event& event);
  // Hands the current partial chunk to the writer thread.
  void flush();
  // Writes everything out, fsyncs, reads the file back, ends the thread. Idempotent. Throws Error(io) if
  // something could not be written, or if somebody else has changed what was.
  void finish();

  // In a child of fork(2), which has no thread of the writer's: lets go of the file, which is the parent's.
  // After that nothing but the destructor may be called.
  void leave_to_parent();

  // Empty, or what went wrong ("DIR/events: No space left on device (ENOSPC)"). Cheap; any thread.
  bool failed() const;
  std::string error() const;

  // Where the event with this number (as Reader counts) can be read; nothing while its chunk is not written.
  // Any thread. Costs 24 bytes of memory for each chunk of the log.
  std::optional<LogPlace> place_of(uint64_t event) const;

  struct Statistics {
    uint64_t events = 0, raw_bytes = 0, written_bytes = 0, chunks = 0;
  };
  Statistics statistics() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace aftercheck::recording
