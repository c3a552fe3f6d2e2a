#include "pt-trace/flow_decoder.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "pt-trace/chunk_carry.h"
#include "pt-trace/fast_packets.h"

namespace aftercheck::pt {
namespace {

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

constexpr unsigned first_run_bits = 6;
constexpr size_t most_runs = 1 << 18;

// Blocks cut at the size limit, or loops of direct jumps, may follow each other; this many in a row is a
// loop.
constexpr unsigned most_straight = 4096;

}  // namespace

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

  // Set whenever one of the flags behind it is: the fast loop tests this alone.
  bool waiting_ = false;
  bool fup_pending_ = false;
  bool fup_bound_ = false;
  bool transaction_pending_ = false;
  bool in_psb_ = false;
  bool after_overflow_ = false;
  void update_waiting() {
    waiting_ =
        fup_pending_ || fup_bound_ || transaction_pending_ || in_psb_ || after_overflow_ || bit_count_ != 0;
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
  uint64_t packet_offset_ = 0;
  const uint8_t* chunk_end_ = nullptr;
  const uint8_t* chunk_ = nullptr;
  uint64_t chunk_offset_ = 0;

  KnownPsb known_psb_;
  std::vector<TntRun> runs_;  // direct-mapped; grows while it fills
  unsigned run_shift_ = 64 - first_run_bits;
  size_t run_count_ = 0;
  // Behind the capacity there is room for the whole array of one run.
  const std::unique_ptr<BlockId[]> out_ = std::make_unique_for_overwrite<BlockId[]>(out_capacity + 64);
  size_t out_size_ = 0;
};

void FlowDecoder::Impl::flush() {
  if (out_size_ == 0) return;
  const size_t size = std::exchange(out_size_, 0);
  totals_.blocks += size;
  sink_.on_blocks({out_.get(), size});
}

void FlowDecoder::Impl::refresh() {
  const uint64_t ip = current_ != 0 ? current_ip() : 0;
  if (!cache_.refresh()) return;
  std::fill(runs_.begin(), runs_.end(), TntRun{});
  run_count_ = 0;
  if (current_ != 0) current_ = cache_.find(ip, mode_);
}

void FlowDecoder::Impl::event(FlowEvent event) {
  flush();
  event.offset = packet_offset_;
  sink_.on_event(event);
  refresh();
}

void FlowDecoder::Impl::error(FlowStatus status, uint64_t from, uint64_t to) {
  ++totals_.errors;
  current_ = 0;
  bit_count_ = 0;
  calls_.clear();
  update_waiting();
  FlowEvent e{FlowEventKind::error, status};
  e.from = from;
  e.to = to;
  e.has_to = to != 0;
  event(e);
}

// Emits pieces of straight code until `current_` is a block that ends at a branch. False after an error.
bool FlowDecoder::Impl::step_to_end() {
  for (unsigned i = 0; i < most_straight; ++i) {
    const BlockLinks& links = cache_.links(current_);
    if (links.end == BlockEnd::unmapped) {
      const uint64_t missing = links.next;
      if (current_ != BlockCache::nowhere) emit(current_);
      error(FlowStatus::no_code, missing);
      return false;
    }
    if (links.end != BlockEnd::straight) return true;
    emit(current_);
    current_ = cache_.next(current_);
  }
  error(FlowStatus::endless_loop, current_ip());
  return false;
}

// One conditional outcome or compressed return. False when it can't be taken now: an error, or a deferred TIP
// has to come first (then current_ is still set).
bool FlowDecoder::Impl::walk_bit(bool taken) {
  if (!step_to_end()) return false;
  switch (cache_.links(current_).end) {
    case BlockEnd::conditional: {
      const BlockId from = current_;
      emit(from);
      current_ = taken ? cache_.taken(from) : cache_.next(from);
      return true;
    }
    case BlockEnd::near_return:
      if (options_.return_compression) {
        // A return that isn't compressed has a TIP, and the processor flushes TNT before it, except for
        // deferred ones; an outcome here that is not "taken" can only belong to code behind such a TIP.
        if (!taken) return false;
        const uint64_t at = current_ip();
        emit(current_);
        uint64_t address = 0;
        if (!calls_.pop(address)) {
          error(FlowStatus::empty_call_stack, at);
          return false;
        }
        go_to(address);
        return true;
      }
      return false;
    default:
      return false;
  }
}

void FlowDecoder::Impl::walk_bits() {
  while (bit_count_ > 0) {
    if (!walk_bit((bits_ >> (bit_count_ - 1) & 1) != 0)) {
      if (current_ == 0) bit_count_ = 0;
      break;
    }
    --bit_count_;
  }
  update_waiting();
}

void FlowDecoder::Impl::on_tnt(uint64_t bits, unsigned count) {
  fup_pending_ = fup_bound_ = transaction_pending_ = in_psb_ = false;
  if (current_ == 0) return update_waiting();
  if (bit_count_ + count > 64) return error(FlowStatus::wrong_packet, current_ip());
  bits_ = bit_count_ == 0 ? bits : bits_ << count | bits;
  bit_count_ += count;
  walk_bits();
}

void FlowDecoder::Impl::on_tip(bool has_ip) {
  const uint64_t target = last_ip_.value();
  if (std::exchange(fup_pending_, false)) {
    fup_bound_ = false;
    update_waiting();
    if (current_ != 0 && !run_to(fup_ip_)) return;
    go_to(target);
    FlowEvent e{FlowEventKind::async_branch};
    e.from = fup_ip_;
    e.to = target;
    e.has_to = has_ip;
    event(e);
    return;
  }
  fup_bound_ = transaction_pending_ = in_psb_ = after_overflow_ = false;
  if (current_ != 0) {
    if (!step_to_end()) return update_waiting();
    const BlockEnd end = cache_.links(current_).end;
    if (end != BlockEnd::indirect && end != BlockEnd::near_return) {
      error(FlowStatus::wrong_packet, current_ip(), target);
    } else {
      emit(current_);
    }
  }
  // The address is right whatever went wrong before.
  current_ = 0;
  if (has_ip) go_to(target);
  if (bit_count_ > 0 && current_ != 0)
    walk_bits();
  else
    bit_count_ = 0;
  update_waiting();
}

// Executes up to, not including, the instruction at `stop`. False after an error.
bool FlowDecoder::Impl::run_to(uint64_t stop) {
  const uint64_t start = current_ip();
  for (unsigned i = 0; i < most_straight; ++i) {
    const BlockId part = cache_.up_to(current_, stop);
    if (part != BlockCache::no_block) {
      if (part != 0) emit(part);
      go_to(stop);
      return true;
    }
    if (cache_.links(current_).end != BlockEnd::straight) break;
    emit(current_);
    current_ = cache_.next(current_);
  }
  error(FlowStatus::event_not_reached, start, stop);
  return false;
}

void FlowDecoder::Impl::on_pge(bool has_ip) {
  fup_pending_ = fup_bound_ = transaction_pending_ = in_psb_ = after_overflow_ = false;
  bit_count_ = 0;
  update_waiting();
  current_ = 0;
  if (has_ip) go_to(last_ip_.value());
  FlowEvent e{FlowEventKind::enabled};
  e.to = last_ip_.value();
  e.has_to = has_ip;
  event(e);
}

void FlowDecoder::Impl::on_pgd(bool has_ip) {
  const bool asynchronous = std::exchange(fup_pending_, false);
  fup_bound_ = transaction_pending_ = in_psb_ = after_overflow_ = false;
  FlowEvent e{asynchronous ? FlowEventKind::async_disabled : FlowEventKind::disabled};
  e.to = last_ip_.value();
  e.has_to = has_ip;
  if (current_ != 0 && asynchronous) {
    e.from = fup_ip_;
    if (!run_to(fup_ip_)) return;
    if (options_.errata.skd022 && cache_.instruction(fup_ip_, mode_).vm_entry) {
      emit(current_);
      e.kind = FlowEventKind::disabled;
    }
  } else if (current_ != 0) {
    e.from = current_ip();
    if (has_ip) {
      // The branch that leaves the filter may be a direct one in the middle of a block.
      for (unsigned i = 0; i < most_straight && cache_.links(current_).end == BlockEnd::straight; ++i) {
        const BlockId part = cache_.up_to_branch(current_, e.to);
        emit(part);
        if (part != current_) {
          current_ = 0;
          break;
        }
        current_ = cache_.next(current_);
      }
      if (current_ != 0) {
        const BlockId part = cache_.up_to_branch(current_, e.to);
        if (part != current_)
          emit(part);
        else if (step_to_end())
          emit(current_);
        else
          return;
      }
    } else {
      if (!step_to_end()) return;
      emit(cache_.links(current_).far ? current_ : cache_.up_to_cr3_write(current_));
    }
  }
  current_ = 0;
  bit_count_ = 0;
  update_waiting();
  event(e);
}

void FlowDecoder::Impl::on_fup(bool has_ip) {
  const uint64_t ip = last_ip_.value();
  if (in_psb_) {
    // Says where the processor is; needed only when that is not known.
    if (has_ip && resume_at_psb_ && current_ == 0) go_to(ip);
    return;
  }
  if (after_overflow_) {
    after_overflow_ = false;
    if (has_ip) go_to(ip);
    FlowEvent e{FlowEventKind::overflow};
    e.to = ip;
    e.has_to = has_ip;
    update_waiting();
    return event(e);
  }
  if (transaction_pending_) {
    transaction_pending_ = false;
    update_waiting();
    const bool aborted = (transaction_flags_ & 2) != 0;
    if (current_ != 0) {
      if (options_.errata.bdm64 && aborted && cache_.up_to(current_, ip) == BlockCache::no_block) go_to(ip);
      if (!run_to(ip)) return;
    }
    FlowEvent e{FlowEventKind::transaction};
    e.from = ip;
    e.detail = transaction_flags_;
    event(e);
    // An abort goes on with the TIP to its handler, from here.
    if (aborted) {
      fup_pending_ = true;
      fup_ip_ = ip;
    }
  } else if (fup_bound_) {
    fup_bound_ = false;
  } else if (has_ip) {
    fup_pending_ = true;
    fup_ip_ = ip;
  }
  update_waiting();
}

void FlowDecoder::Impl::on_overflow() {
  ++totals_.overflows;
  fup_pending_ = fup_bound_ = transaction_pending_ = in_psb_ = false;
  current_ = 0;
  bit_count_ = 0;
  calls_.clear();
  after_overflow_ = true;
  update_waiting();
}

void FlowDecoder::Impl::packet(const Packet& packet, const uint8_t* at) {
  packet_offset_ = chunk_offset_ + static_cast<uint64_t>(at - chunk_);
  const auto update_ip = [&] {
    return last_ip_.update(static_cast<IpCompression>(packet.aux), packet.value);
  };
  switch (packet.type) {
    case PacketType::tnt_short:
    case PacketType::tnt_long:
      return on_tnt(packet.value, packet.aux);
    case PacketType::tip:
      return on_tip(update_ip());
    case PacketType::tip_pge:
      return on_pge(update_ip());
    case PacketType::tip_pgd:
      return on_pgd(update_ip());
    case PacketType::fup:
      return on_fup(update_ip());
    case PacketType::mode_exec: {
      const auto mode = static_cast<ExecMode>(packet.aux);
      if (in_psb_) known_psb_.mode_seen(mode);
      if (mode == mode_ || mode == ExecMode::unknown) return;
      mode_ = mode;
      if (in_psb_ || current_ == 0) return;
      FlowEvent e{FlowEventKind::mode};
      e.detail = packet.aux;
      return event(e);
    }
    case PacketType::mode_tsx:
      if (in_psb_) return;
      transaction_flags_ = packet.aux;
      transaction_pending_ = waiting_ = true;
      return;
    case PacketType::psb:
      last_ip_.reset();
      in_psb_ = waiting_ = true;
      resume_at_psb_ = current_ == 0;
      known_psb_.begin(at);
      return;
    case PacketType::psbend:
      in_psb_ = false;
      update_waiting();
      known_psb_.end(at + packet.size, chunk_end_);
      return;
    case PacketType::ovf:
      known_psb_.forget_begin();
      return on_overflow();
    case PacketType::ptw: {
      FlowEvent e{FlowEventKind::ptwrite};
      e.detail = packet.value;
      event(e);
      break;
    }
    default:
      break;
  }
  if (binds_next_fup(packet)) fup_bound_ = waiting_ = true;
}

void FlowDecoder::Impl::grow_runs() {
  const auto old = std::exchange(runs_, std::vector<TntRun>(runs_.size() * 4));
  run_shift_ -= 2;
  run_count_ = 0;
  for (const TntRun& run : old) {
    if (run.key == 0) continue;
    runs_[run_index(run.key)] = run;
    ++run_count_;
  }
}

// Walks one short TNT packet from current_ block by block and remembers the walk if the whole packet fits.
BlockId FlowDecoder::Impl::learn_run(uint64_t key, uint8_t byte) {
  const ShortTnt tnt = short_tnt[byte];
  TntRun run;
  run.key = key;
  BlockId at = current_;
  for (unsigned i = tnt.count; i-- > 0;) {
    if (cache_.links(at).end != BlockEnd::conditional) return 0;
    run.blocks[run.count++] = at;
    at = (tnt.bits >> i & 1) != 0 ? cache_.taken(at) : cache_.next(at);
    // Where no code is mapped the block has no address of its own, so such a walk must not be remembered.
    if (at == BlockCache::nowhere) return 0;
  }
  run.after = at;
  if (++run_count_ > runs_.size() / 2 && runs_.size() < most_runs) grow_runs();
  runs_[run_index(key)] = run;
  return at;
}

// Goes as far as it can without the general decoder; `end` leaves fast_margin readable bytes behind it.
const uint8_t* FlowDecoder::Impl::parse_fast(const uint8_t* at, const uint8_t* end) {
  const bool plain_returns = !options_.return_compression;
  while (at < end) {
    if (*at == 0) at = skip_padding(at, end);
    if (at >= end) break;
    switch (first_byte_class[*at]) {
      case ByteClass::pad:
        break;
      case ByteClass::tnt: {
        if (waiting_ || current_ == 0 || items_ != BlockItems::none || !plain_returns) return at;
        BlockId current = current_;
        size_t out = out_size_;
        do {
          const uint64_t key = uint64_t{current} << 8 | *at;
          const TntRun* run = &runs_[run_index(key)];
          if (run->key != key) [[unlikely]] {
            current_ = current;
            if (learn_run(key, *at) == 0) {
              out_size_ = out;
              return at;
            }
            run = &runs_[run_index(key)];
          }
          std::memcpy(out_.get() + out, run->blocks, sizeof run->blocks);
          out += run->count;
          current = run->after;
          ++at;
          if (out >= out_capacity) [[unlikely]] {
            out_size_ = out;
            flush();
            out = 0;
          }
        } while (at < end && first_byte_class[*at] == ByteClass::tnt);
        current_ = current;
        out_size_ = out;
        break;
      }
      case ByteClass::tip: {
        if (waiting_ || current_ == 0 || items_ != BlockItems::none || !plain_returns) return at;
        const BlockEnd kind = cache_.links(current_).end;
        if (kind != BlockEnd::indirect && kind != BlockEnd::near_return) return at;
        if (!apply_ip_payload(at, last_ip_)) {
          packet_offset_ = chunk_offset_ + static_cast<uint64_t>(at - chunk_) - 1;
          on_tip(false);
          break;
        }
        out_[out_size_++] = current_;
        if (out_size_ >= out_capacity) flush();
        go_to(last_ip_.value());
        break;
      }
      case ByteClass::pge:
        packet_offset_ = chunk_offset_ + static_cast<uint64_t>(at - chunk_);
        on_pge(apply_ip_payload(at, last_ip_));
        break;
      case ByteClass::pgd:
        packet_offset_ = chunk_offset_ + static_cast<uint64_t>(at - chunk_);
        on_pgd(apply_ip_payload(at, last_ip_));
        break;
      case ByteClass::fup:
        packet_offset_ = chunk_offset_ + static_cast<uint64_t>(at - chunk_);
        on_fup(apply_ip_payload(at, last_ip_));
        break;
      case ByteClass::escape: {
        if (at[1] == 0x82) {
          const KnownPsb::Entry* known = known_psb_.find(at, end);
          if (known == nullptr) return at;
          at += known->size;
          if (known->mode != ExecMode::unknown) mode_ = known->mode;
          last_ip_.reset();
          items_ = BlockItems::none;
          if (in_psb_) {  // a PSB without its PSBEND came before
            in_psb_ = false;
            update_waiting();
          }
          break;
        }
        const uint8_t size = ignored_extended[at[1]];
        if (size == 0) return at;
        at += size;
        break;
      }
      case ByteClass::cyc:
        ++at;
        break;
      case ByteClass::mtc:
        at += 2;
        break;
      case ByteClass::tsc:
        at += 8;
        break;
      case ByteClass::mode:
      case ByteClass::other:
        return at;
    }
  }
  return at;
}

size_t FlowDecoder::Impl::parse(const uint8_t* begin, size_t size, uint64_t offset) {
  chunk_ = begin;
  chunk_end_ = begin + size;
  chunk_offset_ = offset;
  known_psb_.forget_begin();
  const uint8_t* at = begin;
  const uint8_t* const end = begin + size;
  while (at < end) {
    if (!synchronised_) {
      const size_t found = find_psb({begin, size}, static_cast<size_t>(at - begin));
      if (found == npos) return size - std::min<size_t>(psb_size - 1, static_cast<size_t>(end - at));
      at = begin + found;
      synchronised_ = true;
    }
    if (static_cast<size_t>(end - at) > fast_margin) at = parse_fast(at, end - fast_margin);
    Packet next;
    const DecodeStatus status = decode_packet({at, static_cast<size_t>(end - at)}, items_, next);
    if (status == DecodeStatus::truncated) break;
    if (status == DecodeStatus::ok) {
      if (options_.errata.skd007 && next.type == PacketType::cyc && next.size == 2 && at[1] == 0x02) {
        // The second byte of the CYC may really be the first of an OVF (02 f3).
        if (end - at < 3) break;
        if (at[2] == 0xf3) next.size = 1;
      }
      packet(next, at);
      at += next.size;
      continue;
    }
    packet_offset_ = chunk_offset_ + static_cast<uint64_t>(at - chunk_);
    synchronised_ = false;
    items_ = BlockItems::none;
    fup_pending_ = fup_bound_ = transaction_pending_ = in_psb_ = after_overflow_ = false;
    error(FlowStatus::bad_packet, current_ != 0 ? current_ip() : 0);
    ++at;
  }
  return static_cast<size_t>(at - begin);
}

void FlowDecoder::Impl::feed(std::span<const uint8_t> bytes) {
  totals_.bytes += bytes.size();
  refresh();
  carry_.feed(bytes, [this](const uint8_t* begin, size_t size, uint64_t offset) {
    return parse(begin, size, offset);
  });
}

void FlowDecoder::Impl::mark_lost() {
  carry_.drop();
  packet_offset_ = totals_.bytes;
  on_overflow();
  after_overflow_ = false;
  update_waiting();
  synchronised_ = false;
  items_ = BlockItems::none;
  event(FlowEvent{FlowEventKind::overflow});
}

void FlowDecoder::Impl::finish() {
  packet_offset_ = totals_.bytes - carry_.waiting();
  if (carry_.waiting() > 0 && synchronised_) error(FlowStatus::bad_packet, current_ != 0 ? current_ip() : 0);
  if (current_ != 0 && fup_pending_) run_to(fup_ip_);
  if (current_ != 0 && !fup_pending_ && step_to_end()) emit(current_);
  current_ = 0;
  flush();
}

void FlowDecoder::Impl::restart() {
  flush();
  carry_ = ChunkCarry{};
  totals_ = FlowTotals{};
  calls_.clear();
  waiting_ = fup_pending_ = fup_bound_ = transaction_pending_ = in_psb_ = after_overflow_ = false;
  synchronised_ = resume_at_psb_ = false;
  mode_ = options_.mode;
  items_ = BlockItems::none;
  last_ip_.reset();
  current_ = 0;
  bit_count_ = 0;
}

FlowDecoder::FlowDecoder(const CodeImage& image, FlowSink& sink, const FlowOptions& options)
    : impl_(std::make_unique<Impl>(image, sink, options)) {}
FlowDecoder::~FlowDecoder() = default;
FlowDecoder::FlowDecoder(FlowDecoder&&) noexcept = default;
FlowDecoder& FlowDecoder::operator=(FlowDecoder&&) noexcept = default;
void FlowDecoder::feed(std::span<const uint8_t> bytes) { impl_->feed(bytes); }
void FlowDecoder::mark_lost() { impl_->mark_lost(); }
void FlowDecoder::finish() { impl_->finish(); }
void FlowDecoder::restart() { impl_->restart(); }
const FlowBlock& FlowDecoder::block(BlockId id) const { return impl_->cache().block(id); }
size_t FlowDecoder::block_count() const { return impl_->cache().size(); }
const FlowTotals& FlowDecoder::totals() const { return impl_->totals(); }

uint64_t FlowDecoder::step(uint64_t ip, ExecMode mode, uint8_t& size) const {
  const Instruction instruction = impl_->cache().instruction(ip, mode);
  size = instruction.size;
  const bool direct =
      instruction.kind == InstructionKind::direct_jump || instruction.kind == InstructionKind::direct_call;
  if (direct) return instruction.target;
  return (ip + size) & (mode == ExecMode::bits64 ? ~uint64_t{0} : 0xffffffff);
}

std::string_view flow_status_text(FlowStatus status) {
  switch (status) {
    case FlowStatus::ok:
      return "ok";
    case FlowStatus::bad_packet:
      return "the bytes are no Intel PT packet";
    case FlowStatus::no_code:
      return "the code image has no instruction there";
    case FlowStatus::wrong_packet:
      return "the packet does not fit the code";
    case FlowStatus::event_not_reached:
      return "the code does not come by the event's address before its next branch";
    case FlowStatus::empty_call_stack:
      return "compressed return without a call before it";
    case FlowStatus::endless_loop:
      return "the code loops without a branch that the trace would show";
  }
  return "unknown status";
}

// Models as in libipt's pt_cpu_errata, after Intel's specification updates.
Errata errata_of(unsigned family, unsigned model) {
  Errata errata;
  if (family != 6) return errata;
  switch (model) {
    case 0x3d:
    case 0x47:
    case 0x4f:
    case 0x56:  // Broadwell
      errata.bdm64 = true;
      break;
    case 0x4e:
    case 0x5e:
    case 0x8e:
    case 0x9e:
    case 0xa5:
    case 0xa6:  // Skylake to Comet Lake
      errata.skd007 = errata.skd022 = true;
      break;
    default:
      break;
  }
  return errata;
}

}  // namespace aftercheck::pt
