// The flow decoder's state and parts. flow_decoder.cc finds packets, flow_walk.cc follows them through the
// code. Internal to pt-trace.
#pragma once

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "pt-trace/chunk_carry.h"
#include "pt-trace/fast_packets.h"
#include "pt-trace/flow_decoder.h"

namespace aftercheck::pt {

// The processor's own stack of return addresses for return compression has 64 entries (manual: "RET
// Compression").
class CallStack {
 public:
  void push(uint64_t address) {
    entries_[top_++ % size] = address;
    if (depth_ < size) ++depth_;
  }
  bool pop(uint64_t& address) {
    if (depth_ == 0) return false;
    --depth_;
    address = entries_[--top_ % size];
    return true;
  }
  void clear() { depth_ = 0; }

 private:
  static constexpr unsigned size = 64;
  std::array<uint64_t, size> entries_{};
  unsigned top_ = 0;
  unsigned depth_ = 0;
};

// What one short TNT packet does from one block: the memory of a walk through up to 6 blocks. Sized for one
// or two per cache line; a table of these is what makes decoding fast.
struct TntRun {
  uint64_t key = 0;  // block << 8 | TNT byte; 0: empty
  BlockId after = 0;
  uint32_t count = 0;
  BlockId blocks[8] = {};
};

inline constexpr unsigned first_run_bits = 6;
inline constexpr size_t most_runs = 1 << 18;

// Blocks cut at the size limit, or loops of direct jumps, may follow each other; this many in a row is a
// loop.
inline constexpr unsigned most_straight = 4096;

class FlowDecoder::Impl {
 public:
  Impl(const CodeImage& image, FlowSink& sink, const FlowOptions& options)
      : options_(options),
        sink_(sink),
        cache_(image),
        mode_(options.mode),
        runs_(size_t{1} << first_run_bits) {}

  void feed(std::span<const uint8_t> bytes);
  void mark_lost();
  void finish();
  void restart();

  BlockCache& cache() { return cache_; }
  const BlockCache& cache() const { return cache_; }
  const FlowTotals& totals() const { return totals_; }

 private:
  static constexpr size_t out_capacity = 2048;
  static constexpr size_t fast_margin = 16;

  // The second byte of 02 82 is a TNT packet by itself. Behind a packet of several bytes it may be the first
  // that is left of a PSB that cut that packet off; then it must not lead a walk from an address that is
  // none.
  enum class AsTnt { yes, no, not_known_yet };
  AsTnt as_tnt(std::span<const uint8_t> bytes) const;
  // Notes that a packet of several bytes ends here. True where only parse() can tell what follows.
  bool ends_before_82(const uint8_t* at) {
    if (*at != 0x82) [[likely]]
      return false;
    long_end_ = chunk_offset_ + static_cast<uint64_t>(at - chunk_);
    return true;
  }
  void begin_psb(uint64_t end) {
    end_overflow();  // the FUP of PSB+ tells where tracing goes on
    last_ip_.reset();
    calls_missed_ = false;
    in_psb_ = waiting_ = true;
    resume_at_psb_ = current_ == 0;
    psb_end_ = end;
  }
  const uint8_t* damage(const uint8_t* at, const uint8_t* end, uint64_t offset);

  size_t parse(const uint8_t* begin, size_t size, uint64_t offset);
  const uint8_t* parse_fast(const uint8_t* at, const uint8_t* end);
  void packet(const Packet& packet, const uint8_t* at);

  void on_tnt(uint64_t bits, unsigned count);
  void on_tip(bool has_ip);
  void on_pge(bool has_ip);
  void on_pgd(bool has_ip);
  void on_fup(bool has_ip);
  void on_transaction(uint8_t flags);
  void on_overflow();

  void walk_bits();
  bool walk_bit(bool taken);
  bool step_to_end();
  bool run_to(uint64_t stop);
  bool run_to_end_of_tracing();
  bool is_traced(uint64_t ip) const { return options_.filter.empty() || in_ranges(options_.filter, ip); }
  BlockId learn_run(uint64_t key, uint8_t byte);
  void grow_runs();
  size_t run_index(uint64_t key) const { return key * 0x9e3779b97f4a7c15 >> run_shift_; }
  void emit(BlockId block) {
    out_[out_size_++] = block;
    if (out_size_ >= out_capacity) flush();
    if (options_.return_compression)
      for (const uint64_t address : cache_.calls(block)) calls_.push(address);
  }
  void flush();
  void event(FlowEvent event);
  // A packet that never stands between an overflow and its FUP: TIP.PGE tells where tracing goes on, or
  // nothing does.
  void end_overflow() {
    if (!after_overflow_) [[likely]]
      return;
    after_overflow_ = false;
    overflow_untold_ = true;
    update_waiting();
  }
  // Nothing did.
  void tell_overflow() {
    end_overflow();
    if (std::exchange(overflow_untold_, false)) event(FlowEvent{FlowEventKind::overflow});
  }
  void error(FlowStatus status, uint64_t from, uint64_t to = 0);
  void go_to(uint64_t ip) { current_ = cache_.find(ip, mode_); }
  void refresh();
  uint64_t current_ip() const {
    return current_ == BlockCache::nowhere ? cache_.links(current_).next : cache_.block(current_).ip;
  }

  FlowOptions options_;
  FlowSink& sink_;
  BlockCache cache_;
  ChunkCarry carry_;
  FlowTotals totals_;
  CallStack calls_;
  // An error may have hidden calls since the last PSB. Behind one, returns are compressed only by calls that
  // come behind it too (manual: "RET Compression").
  bool calls_missed_ = false;

  // Set whenever one of the flags behind it is: the fast loop tests this alone.
  bool waiting_ = false;
  bool fup_pending_ = false;
  bool fup_bound_ = false;
  bool transaction_pending_ = false;
  bool in_psb_ = false;
  bool after_overflow_ = false;
  bool overflow_untold_ = false;  // waits for TIP.PGE; else the sink has to hear of it
  bool resumed_ =
      false;  // by the FUP behind an overflow, and nothing executed yet; only noted where errata have skd010
  void update_waiting() {
    waiting_ = fup_pending_ || fup_bound_ || transaction_pending_ || in_psb_ || after_overflow_ || resumed_ ||
               bit_count_ != 0;
  }

  bool synchronised_ = false;
  bool resume_at_psb_ = false;  // after an error or loss, with no address known
  uint8_t transaction_flags_ = 0;
  ExecMode mode_;
  BlockItems items_ = BlockItems::none;
  LastIp last_ip_;
  BlockId current_ = 0;  // executes next; 0 while tracing is off or the address is not known
  uint64_t fup_ip_ = 0;
  uint64_t bits_ = 0;  // outcomes that wait for a deferred TIP, the oldest in the highest bit
  unsigned bit_count_ = 0;
  unsigned cr3_writes_ = 0;  // PIP packets since the last branch: MOV CR3 that left tracing on
  uint64_t packet_offset_ = 0;
  const uint8_t* chunk_end_ = nullptr;
  const uint8_t* chunk_ = nullptr;
  uint64_t chunk_offset_ = 0;

  KnownPsb known_psb_;
  uint64_t psb_end_ = ~uint64_t{0};  // trace offset behind the last PSB that was looked at
  uint64_t long_end_ =
      ~uint64_t{0};           // and behind the last packet of several bytes, where a TNT 82 may follow
  bool ending_ = false;       // no more trace comes
  std::vector<TntRun> runs_;  // direct-mapped; grows while it fills
  unsigned run_shift_ = 64 - first_run_bits;
  size_t run_count_ = 0;
  // Behind the capacity there is room for the whole array of one run.
  const std::unique_ptr<BlockId[]> out_ = std::make_unique_for_overwrite<BlockId[]>(out_capacity + 64);
  size_t out_size_ = 0;
};

}  // namespace aftercheck::pt
