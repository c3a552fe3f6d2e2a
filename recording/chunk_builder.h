// Collects events in columns and turns them into one chunk (docs/recording-format.md). Not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "recording/byte_buffer.h"
#include "recording/event.h"
#include "recording/format.h"

namespace aftercheck::recording {

class ChunkBuilder {
 public:
  ChunkBuilder();

  // Copies the event in. Throws Error(internal) when it breaks a limit of the format or when the bytes of a
  // memory write can't be read; the chunk is then as it was.
  void append(const Event& event);

  bool empty() const { return count_ == 0; }
  uint32_t count() const { return count_; }
  // True when the next event belongs into another chunk.
  bool full() const;
  // Approximate size of the payload.
  uint64_t raw_bytes() const;
  void clear();

  // Appends the chunk to the file. Returns the payload's length before compression. Throws Error(io).
  uint64_t write_to(ChunkFileWriter& file, uint64_t first_event) const;

 private:
  struct KnownShape {
    Shape shape;
    uint64_t hash = 0;
    uint32_t first_slot = 0, slot_count = 0;  // in last_
  };
  struct Extra {
    uint32_t event = 0;
    Event parts;  // only the fields of Extra in log.capnp are filled
  };
  class SlotWriter;

  void check_limits(const Event& event) const;
  void copy_writes(const Event& event);
  uint32_t find_shape(const Event& event);
  uint32_t add_shape(const Event& event, uint64_t hash);
  void rehash();
  void append_slots(const KnownShape& known, const Event& event);
  void append_extra(const Event& event);
  void append_varint(ByteBuffer& buffer, uint64_t value);

  uint32_t count_ = 0;
  uint64_t base_time_ = 0, last_time_ = 0;
  uint64_t extra_bytes_ = 0, shape_bytes_ = 0;
  ByteBuffer shape_indexes_, times_, masks_, deltas_, small_, bulk_;
  std::vector<uint32_t> digests_;
  std::vector<uint16_t> short_digests_;
  std::vector<uint64_t> output_digests_;
  std::vector<KnownShape> shapes_;
  std::vector<uint32_t> table_;  // open addressing: index in shapes_ + 1, or 0
  std::vector<uint64_t> last_;   // the shapes' slot values
  std::vector<Extra> extras_;
};

}  // namespace aftercheck::recording
