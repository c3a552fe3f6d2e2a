#include "pt-trace/aux_ring.h"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace aftercheck::pt {
namespace {

// The heads and tails are shared with the producer: "After reading this value, a full memory barrier" and
// "the reader should issue one before writing the tail" (linux/perf_event.h, struct perf_event_mmap_page).
uint64_t load(__u64& place) { return std::atomic_ref<__u64>(place).load(std::memory_order_acquire); }
void store(__u64& place, uint64_t value) {
  std::atomic_ref<__u64>(place).store(value, std::memory_order_release);
}

// linux/perf_event.h, enum perf_event_type, PERF_RECORD_AUX and PERF_RECORD_LOST, without sample_id.
struct AuxRecord {
  perf_event_header header{PERF_RECORD_AUX, 0, sizeof(AuxRecord)};
  uint64_t offset = 0, size = 0, flags = 0;
};
struct LostRecord {
  perf_event_header header{PERF_RECORD_LOST, 0, sizeof(LostRecord)};
  uint64_t id = 0, lost = 0;
};

template <typename Record>
std::span<const uint8_t> bytes_of(const Record& record) {
  return {reinterpret_cast<const uint8_t*>(&record), sizeof record};
}

// Copies out of a ring whose size is a power of two.
void copy_from(std::span<const uint8_t> ring, uint64_t offset, void* to, size_t size) {
  const size_t start = offset & (ring.size() - 1), first = std::min(size, ring.size() - start);
  std::memcpy(to, ring.data() + start, first);
  std::memcpy(static_cast<uint8_t*>(to) + first, ring.data(), size - first);
}

void copy_to(std::span<uint8_t> ring, uint64_t offset, std::span<const uint8_t> bytes) {
  const size_t start = offset & (ring.size() - 1), first = std::min(bytes.size(), ring.size() - start);
  std::copy_n(bytes.begin(), first, ring.begin() + static_cast<ptrdiff_t>(start));
  std::copy(bytes.begin() + static_cast<ptrdiff_t>(first), bytes.end(), ring.begin());
}

constexpr uint8_t kLossy =
    aux_loss::kTruncated | aux_loss::kOverwrite | aux_loss::kPartial | aux_loss::kCollision;

}  // namespace

AuxReader::Drained AuxReader::drain(AuxSink& sink) {
  Drained drained;
  // The head first: the kernel writes a record before it moves aux_head over the bytes that it tells of, so a
  // loss before this head is told of in the records that are there now.
  perf_event_mmap_page& control = *rings_.control;
  const uint64_t head = load(control.aux_head);
  read_records();
  if (head - control.aux_tail > rings_.aux.size()) {  // overtaken, or a head that goes back
    sink.loss(aux_loss::kLost, 0);
    pieces_.clear();
    store(control.aux_tail, head);
    return drained;
  }
  while (!pieces_.empty() && static_cast<int64_t>(pieces_.front().end - head) <= 0) {
    const Piece piece = pieces_.front();
    if (static_cast<int64_t>(piece.end - control.aux_tail) > 0) hand_over(sink, piece.end, drained);
    pieces_.pop_front();
    if ((piece.flags & kLossy) != 0) sink.loss(piece.flags & kLossy, 0);
    drained.stopped |= (piece.flags & aux_loss::kTruncated) != 0;
  }
  // A record can't be ahead of its bytes by more than the area holds.
  if (!pieces_.empty() && pieces_.front().end - head > rings_.aux.size()) {
    pieces_.clear();
    records_lost_ = true;
  }
  if (records_lost_) sink.loss(aux_loss::kLost, 0);
  records_lost_ = false;
  if (control.aux_tail != head) hand_over(sink, head, drained);
  return drained;
}

void AuxReader::hand_over(AuxSink& sink, uint64_t end, Drained& drained) {
  __u64& tail = rings_.control->aux_tail;
  while (tail != end) {
    const size_t start = tail & (rings_.aux.size() - 1),
                 size = std::min<uint64_t>(end - tail, rings_.aux.size() - start);
    sink.data(rings_.aux.subspan(start, size));
    drained.bytes += size;
    store(tail, tail + size);
  }
}

void AuxReader::read_records() {
  perf_event_mmap_page& control = *rings_.control;
  const uint64_t head = load(control.data_head);
  uint64_t tail = control.data_tail;
  if (head - tail > rings_.data.size()) {
    records_lost_ = true;
    tail = head;
  }
  while (head - tail >= sizeof(perf_event_header)) {
    perf_event_header header{};
    copy_from(rings_.data, tail, &header, sizeof header);
    if (header.size < sizeof header ||
        header.size > head - tail) {  // no record starts here: give up on these
      records_lost_ = true;
      tail = head;
      break;
    }
    record_.resize(header.size);
    copy_from(rings_.data, tail, record_.data(), record_.size());
    take_record(header);
    tail += header.size;
  }
  store(control.data_tail, tail);
}

void AuxReader::take_record(const perf_event_header& header) {
  if (header.type == PERF_RECORD_LOST) records_lost_ = true;
  if (header.type != PERF_RECORD_AUX || header.size < sizeof(AuxRecord)) return;
  AuxRecord record;
  std::memcpy(&record, record_.data(), sizeof record);
  pieces_.push_back({record.offset + record.size, static_cast<uint8_t>(record.flags & kLossy)});
}

size_t AuxProducer::room() const {
  return rings_.aux.size() - static_cast<size_t>(aux_head_ - load(rings_.control->aux_tail));
}

size_t AuxProducer::put(std::span<const uint8_t> bytes, uint64_t flags) {
  AuxRecord aux;
  aux.offset = aux_head_;
  aux.size = std::min(room(), bytes.size());
  aux.flags = flags;
  if ((aux.size == 0 && flags == 0) || !record(bytes_of(aux))) return 0;
  copy_to(rings_.aux, aux_head_, bytes.first(aux.size));
  aux_head_ += aux.size;
  store(rings_.control->aux_head, aux_head_);
  return aux.size;
}

bool AuxProducer::lose_records(uint64_t count) {
  LostRecord lost;
  lost.lost = count;
  return record(bytes_of(lost));
}

bool AuxProducer::record(std::span<const uint8_t> bytes) {
  if (data_head_ + bytes.size() - load(rings_.control->data_tail) > rings_.data.size()) return false;
  copy_to(rings_.data, data_head_, bytes);
  data_head_ += bytes.size();
  store(rings_.control->data_head, data_head_);
  return true;
}

AuxMemory::AuxMemory(size_t data_bytes, size_t aux_bytes)
    : control_(std::make_unique<perf_event_mmap_page>()), data_(data_bytes), aux_(aux_bytes) {
  rings_ = {control_.get(), data_, aux_};
}

}  // namespace aftercheck::pt
