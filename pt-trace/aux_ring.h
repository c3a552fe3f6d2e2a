// The two rings of a tracing perf event, as perf_event_open(2) and linux/perf_event.h describe them: the data
// ring with records, and the AUX area with the trace itself. Read here whoever fills them: the kernel, or the
// software encoder through AuxProducer.
#pragma once

#include <linux/perf_event.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

namespace aftercheck::pt {

// Why trace is missing or doubtful: PERF_AUX_FLAG_* (linux/perf_event.h), and kLost for PERF_RECORD_LOST and
// for a reader that was overtaken.
namespace aux_loss {
constexpr uint8_t kTruncated = PERF_AUX_FLAG_TRUNCATED, kOverwrite = PERF_AUX_FLAG_OVERWRITE,
                  kPartial = PERF_AUX_FLAG_PARTIAL, kCollision = PERF_AUX_FLAG_COLLISION, kLost = 0x80;
}  // namespace aux_loss

class AuxSink {
 public:
  virtual ~AuxSink() = default;
  // The next bytes of the trace, in order; valid during the call.
  virtual void data(std::span<const uint8_t> bytes) = 0;
  // Trace is missing here; `lost_bytes` where they are known, else 0.
  virtual void loss(uint8_t flags, uint64_t lost_bytes) = 0;
};

// The rings: one page of control, the data ring, the AUX area. Sizes are powers of two.
struct AuxRings {
  perf_event_mmap_page* control = nullptr;
  std::span<uint8_t> data, aux;
};

// Reads both rings. One thread at a time; the producer may be another.
class AuxReader {
 public:
  explicit AuxReader(const AuxRings& rings) : rings_(rings) {}

  struct Drained {
    uint64_t bytes = 0;
    bool stopped = false;  // the AUX area was full: the kernel has switched the event off
  };
  // Hands over all there is and gives the room back. Never blocks. What the sink throws passes through; the
  // bytes that it had not taken come again.
  Drained drain(AuxSink& sink);

 private:
  struct Piece {  // what PERF_RECORD_AUX tells of
    uint64_t end = 0;
    uint8_t flags = 0;
  };
  AuxRings rings_;
  std::deque<Piece> pieces_;  // told of, but not all of it seen yet
  bool records_lost_ = false;
  std::vector<uint8_t> record_;

  void read_records();
  void take_record(const perf_event_header& header);
  void hand_over(AuxSink& sink, uint64_t end, Drained& drained);
};

// Fills the rings as the kernel does. One thread; the reader may be another.
class AuxProducer {
 public:
  explicit AuxProducer(const AuxRings& rings) : rings_(rings) {}

  // How many bytes the AUX area has room for.
  size_t room() const;
  // Appends what there is room for in both rings and returns how many bytes that was. `flags`:
  // PERF_AUX_FLAG_*.
  size_t put(std::span<const uint8_t> bytes, uint64_t flags = 0);
  // PERF_RECORD_LOST. False when there is no room for it.
  bool lose_records(uint64_t count);
  // Bytes appended so far: the trace offset of the next.
  uint64_t written() const { return aux_head_; }

 private:
  AuxRings rings_;
  uint64_t data_head_ = 0, aux_head_ = 0;

  bool record(std::span<const uint8_t> bytes);
};

// Rings in this process's own memory. Throws std::bad_alloc.
class AuxMemory {
 public:
  // Powers of two, at least a page.
  AuxMemory(size_t data_bytes, size_t aux_bytes);
  const AuxRings& rings() const { return rings_; }

 private:
  std::unique_ptr<perf_event_mmap_page> control_;
  std::vector<uint8_t> data_, aux_;
  AuxRings rings_;
};

}  // namespace aftercheck::pt
