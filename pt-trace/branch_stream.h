// The canonical branch stream of a PT trace and its digest: what the guest did, without what the host and the
// PT hardware's own choices add (PSB positions, TNT grouping, IP compression, timing, PAD, CBR, VMCS, PIP,
// and pairs of TIP.PGD and TIP.PGE where the host merely interrupted the guest). Two runs that executed the
// same instructions give the same digest at every exit. Needs no code image; the trace must be made with
// return compression off.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "pt-trace/packet.h"

namespace aftercheck::pt {

// An XXH128 value. Finds accidents, not forgeries.
struct StreamDigest {
  uint64_t high = 0;
  uint64_t low = 0;

  bool operator==(const StreamDigest&) const = default;
  // The canonical (big-endian) bytes, the same on every machine.
  std::array<uint8_t, 16> bytes() const;
};

// One exit: tracing went off, and did not come back as if nothing had happened. The stretch of branches
// between two exits is a segment.
//
// What counts as "merely interrupted" and so is no exit:
//   FUP a, TIP.PGD, TIP.PGE a   asynchronous interruption, resumed where it was
//   TIP.PGD a, TIP.PGE a        an indirect branch to a during which tracing went off; counts as TIP a
struct StreamExit {
  uint64_t index = 0;        // counts exits of this stream from 0
  uint64_t offset = 0;       // of the TIP.PGD in the trace
  uint64_t from = 0;         // asynchronous: address of the first instruction not executed
  uint64_t resume = 0;       // address at which the guest went on, where has_resume
  uint64_t branch_bits = 0;  // conditional outcomes in the segment
  uint64_t targets = 0;      // indirect targets in the segment
  StreamDigest segment{};    // of this segment alone: from its entry address up to this exit
  StreamDigest rolling{};  // of all segments up to here since the start, the last unverified one or restart()
  bool asynchronous = false;  // fault or interrupt, not an instruction such as SYSCALL
  bool has_resume = false;    // false from finish() and settle_exit(), and where the TIP.PGE is missing
  // False when an overflow, lost AUX data or damaged bytes fell into the segment, or a TIP.PGE or TIP.PGD is
  // missing in it (two of one kind in a row, or branches while tracing is off): its digests say nothing, and
  // exits may be missing before it, so find the counterpart in another stream by address, not by index.
  bool verified = true;
};

// A place where the bytes were no PT packets.
struct StreamDamage {
  uint64_t offset = 0;
  DecodeStatus status = DecodeStatus::ok;
};

struct StreamTotals {
  uint64_t bytes = 0;        // fed so far
  uint64_t branch_bits = 0;  // conditional outcomes
  uint64_t targets = 0;      // indirect targets
  uint64_t exits = 0;
  uint64_t interruptions = 0;  // host interruptions removed
  uint64_t overflows = 0;      // OVF packets and mark_lost() calls
  uint64_t damaged = 0;        // places with bytes that are no packets
};

// Takes AUX bytes in pieces of any size, cut anywhere. Memory is constant. Not thread-safe.
class BranchStream {
 public:
  using ExitHandler = std::function<void(const StreamExit&)>;
  using DamageHandler = std::function<void(const StreamDamage&)>;

  // `on_exit` is called from feed() and finish() for every exit in order, as soon as tracing resumes behind
  // it. `on_damage` may be empty.
  explicit BranchStream(ExitHandler on_exit, DamageHandler on_damage = {}, const Errata& errata = {});
  ~BranchStream();
  BranchStream(BranchStream&&) noexcept;
  BranchStream& operator=(BranchStream&&) noexcept;

  // The next bytes of the trace. Bytes before the first PSB are skipped.
  void feed(std::span<const uint8_t> bytes);

  // The kernel lost or truncated AUX data here (PERF_AUX_FLAG_TRUNCATED, PERF_RECORD_LOST): the current
  // segment becomes unverified and decoding goes on at the next PSB.
  void mark_lost();

  // The caller knows that the guest has exited here: reports the exit that waits for TIP.PGE to tell whether
  // it is one, without an address to resume at. Nothing where none waits.
  void settle_exit();

  // No more bytes come: reports an exit that is still open, or a last segment that the trace just breaks off.
  void finish();

  // Restarts the rolling digest from its seed, as an unverified segment does; for the counterpart of a stream
  // whose segment was unverified. Call from the exit handler.
  void restart();

  const StreamTotals& totals() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace aftercheck::pt
