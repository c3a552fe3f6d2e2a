// Reads DIR/events. Treats every byte as hostile: a wrong magic, length, checksum, order or version gives
// Error(bad_input) with file and offset; never a crash, a hang or an unbounded allocation.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "recording/event.h"
#include "recording/log_place.h"

namespace aftercheck::recording {

class Reader {
 public:
  // Throws Error(io) or Error(bad_input).
  explicit Reader(const std::filesystem::path& directory);
  // Starts in the middle without reading what lies before: next() gives event number `next_event`, which is
  // in the chunk at `place` or the first one after it. Also throws Error(bad_input) with file and offset when
  // the place does not fit the file.
  Reader(const std::filesystem::path& directory, const LogPlace& place, uint64_t next_event);
  ~Reader();
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  // The next event, or null at the end. Valid (with all spans in it) until the next call. Throws
  // Error(bad_input).
  const Event* next();
  // Number of the event last returned, counting from 0 and counting continuations.
  uint64_t number() const;
  // The chunk that holds it, good for another reader of the same log. Before the first next(): where this
  // reader starts.
  LogPlace place() const;
  // File offset of that chunk.
  uint64_t chunk_offset() const { return place().chunk_offset; }

  // True after the end was reached without an `end` event: the recorder was killed or the disk filled up.
  // `why` names file and offset ("events: the last 1234 bytes from offset 5678 on are an incomplete chunk").
  bool truncated(std::string* why = nullptr) const;

  // 0..1, share of the file that has been read; for progress.
  double progress() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace aftercheck::recording
