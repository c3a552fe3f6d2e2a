#include "pt-trace/branch_stream.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "pt-trace/chunk_carry.h"
#include "pt-trace/fast_packets.h"
#include "pt-trace/segment_digest.h"

namespace aftercheck::pt {
namespace {

__extension__ using Wide = unsigned __int128;

}  // namespace

class BranchStream::Impl {
 public:
  Impl(ExitHandler on_exit, DamageHandler on_damage, const Errata& errata)
      : on_exit_(std::move(on_exit)), on_damage_(std::move(on_damage)), errata_(errata) {}

  void feed(std::span<const uint8_t> bytes);
  void mark_lost();
  void settle_exit();
  void finish();
  void restart() { rolling_ = 0; }
  const StreamTotals& totals() const { return totals_; }

 private:
  // The fast loop reads up to 16 bytes behind its position.
  static constexpr size_t fast_margin = 16;

  size_t parse(const uint8_t* begin, size_t size, uint64_t offset);
  const uint8_t* parse_fast(const uint8_t* at, const uint8_t* end);
  const uint8_t* branches(const uint8_t* at, const uint8_t* end);
  void packet(const Packet& packet, const uint8_t* at);
  void damage(uint64_t offset, DecodeStatus status);

  void on_tnt(uint64_t bits, unsigned count) {
    if (waiting_) settle();
    segment_.append_bits(bits, count);
  }
  void on_tip(bool has_ip);
  void on_pge(bool has_ip);
  void on_pgd(bool has_ip, uint64_t offset);
  void on_fup(bool has_ip);
  void on_mode(ExecMode mode);
  void on_transaction(uint8_t flags);
  void on_overflow();
  void settle();
  void begin_psb(uint64_t end) {
    last_ip_.reset();
    in_psb_ = waiting_ = true;
    after_overflow_ = false;  // its own FUP tells where tracing goes on
    psb_end_ = end;
  }
  void missing_resume();
  void enter(uint64_t address);
  void report_exit(bool has_resume);

  uint64_t offset_of(const uint8_t* at) const { return chunk_offset_ + static_cast<uint64_t>(at - chunk_); }

  ExitHandler on_exit_;
  DamageHandler on_damage_;
  const Errata errata_;
  SegmentDigest segment_;
  Wide rolling_ = 0;
  StreamTotals totals_;

  // `waiting_` is set whenever one of the following flags is, so that the fast loop tests one thing.
  bool waiting_ = false;
  bool fup_pending_ = false;  // FUP seen, its TIP or TIP.PGD not yet
  bool fup_bound_ = false;    // the next FUP belongs to PTW, EXSTOP, ...
  bool transaction_pending_ = false;
  bool in_psb_ = false;
  bool after_overflow_ = false;  // the next FUP or TIP.PGE says where tracing resumed
  bool exit_pending_ = false;    // TIP.PGD seen, TIP.PGE not yet
  bool update_waiting() {
    return waiting_ = fup_pending_ || fup_bound_ || transaction_pending_ || in_psb_ || after_overflow_ ||
                      exit_pending_;
  }

  bool synchronised_ = false;
  bool verified_ = true;
  bool segment_open_ = false;  // an entry address is known and branches may follow
  bool exit_has_target_ = false;
  uint8_t transaction_flags_ = 0;
  ExecMode mode_ = ExecMode::unknown;
  ExecMode mode_at_exit_ = ExecMode::unknown;
  BlockItems items_ = BlockItems::none;
  LastIp last_ip_;
  uint64_t fup_ip_ = 0;
  uint64_t exit_target_ = 0;
  StreamExit exit_;

  KnownPsb known_psb_;
  uint64_t psb_end_ = ~uint64_t{0};  // trace offset behind the last PSB that was looked at

  const uint8_t* chunk_end_ = nullptr;
  const uint8_t* chunk_ = nullptr;  // what parse() works on, and its place in the trace
  uint64_t chunk_offset_ = 0;
  ChunkCarry carry_;
};

void BranchStream::Impl::enter(uint64_t address) {
  segment_.reset();
  segment_.append_entry(address, static_cast<uint8_t>(mode_));
  segment_open_ = true;
  verified_ = true;
}

void BranchStream::Impl::report_exit(bool has_resume) {
  if (exit_.asynchronous)
    segment_.append_event(StreamEvent::exit_async, exit_.from);
  else
    segment_.append_event(StreamEvent::exit_sync);
  exit_.index = totals_.exits++;
  exit_.branch_bits = segment_.bit_count();
  exit_.targets = segment_.target_count();
  exit_.has_resume = has_resume;
  if (!has_resume) exit_.resume = 0;
  exit_.verified = verified_;
  totals_.branch_bits += exit_.branch_bits;
  totals_.targets += exit_.targets;
  exit_.segment = segment_.finish();
  if (verified_) {
    // Polynomial in an odd constant: segments are hashes already, so only their order has to enter.
    constexpr Wide factor = (static_cast<Wide>(0x9fb21c651e98df25) << 64) | 0xd6e8feb86659fd93;
    rolling_ = rolling_ * factor + (static_cast<Wide>(exit_.segment.high) << 64 | exit_.segment.low);
  } else {
    rolling_ = 0;
  }
  exit_.rolling = {static_cast<uint64_t>(rolling_ >> 64), static_cast<uint64_t>(rolling_)};
  if (on_exit_) on_exit_(exit_);
}

// Something other than its continuation follows a pending FUP, or PSBEND is missing: put things in order
// first.
void BranchStream::Impl::settle() {
  if (exit_pending_) missing_resume();
  if (fup_pending_) segment_.append_event(StreamEvent::lone_fup, fup_ip_);
  fup_pending_ = fup_bound_ = transaction_pending_ = in_psb_ = after_overflow_ = false;
  update_waiting();
}

void BranchStream::Impl::on_tip(bool has_ip) {
  if (exit_pending_) missing_resume();
  if (!waiting_ && has_ip) {
    segment_.append_target(last_ip_.value());
    return;
  }
  if (fup_pending_) {
    fup_pending_ = false;
    segment_.append_event(StreamEvent::async_branch, fup_ip_, last_ip_.value());
    update_waiting();
    return;
  }
  settle();
  if (has_ip)
    segment_.append_target(last_ip_.value());
  else
    segment_.append_event(StreamEvent::hidden_target);
}

// Branches or another exit come while tracing should be off: a TIP.PGE is missing. What was before it is
// whole; where the guest went on is not known, nor how many exits there were.
void BranchStream::Impl::missing_resume() {
  exit_pending_ = false;
  report_exit(false);
  segment_.reset();
  segment_open_ = true;
  verified_ = false;
}

void BranchStream::Impl::on_pgd(bool has_ip, uint64_t offset) {
  if (exit_pending_) missing_resume();
  exit_.asynchronous = fup_pending_;
  exit_.from = fup_pending_ ? fup_ip_ : 0;
  exit_.offset = offset;
  exit_has_target_ = has_ip && !fup_pending_;
  exit_target_ = last_ip_.value();
  mode_at_exit_ = mode_;
  fup_pending_ = fup_bound_ = transaction_pending_ = in_psb_ = after_overflow_ = false;
  exit_pending_ = waiting_ = true;
}

void BranchStream::Impl::on_pge(bool has_ip) {
  const uint64_t address = has_ip ? last_ip_.value() : 0;
  fup_pending_ = fup_bound_ = transaction_pending_ = in_psb_ = after_overflow_ = false;
  const bool was_off = std::exchange(exit_pending_, false);
  waiting_ = false;
  exit_.resume = address;
  if (!was_off) {
    // The trace's first TIP.PGE, or the one behind an overflow: where the guest is, but not how it came
    // there. Or one before which a TIP.PGD is missing, and with it an exit.
    if (segment_open_)
      verified_ = false;
    else
      enter(address);
    return;
  }
  const bool interrupted = exit_.asynchronous && address == exit_.from;
  const bool at_target = exit_has_target_ && address == exit_target_;
  if ((interrupted || at_target) && has_ip) {
    if (at_target) segment_.append_target(address);
    if (mode_ != mode_at_exit_ && mode_at_exit_ != ExecMode::unknown)
      segment_.append_event(StreamEvent::mode, static_cast<uint64_t>(mode_));
    ++totals_.interruptions;
    return;
  }
  report_exit(true);
  enter(address);
}

void BranchStream::Impl::on_fup(bool has_ip) {
  if (in_psb_) return;  // only says where the processor is
  if (after_overflow_) {
    after_overflow_ = false;
  } else if (transaction_pending_) {
    transaction_pending_ = fup_bound_ = false;
    if (exit_pending_) missing_resume();
    segment_.append_event(StreamEvent::transaction, transaction_flags_, last_ip_.value());
  } else if (fup_bound_) {
    fup_bound_ = false;
  } else if (has_ip) {
    // One for the CFE and one for the transfer are of the same address.
    if (fup_pending_ && fup_ip_ != last_ip_.value()) segment_.append_event(StreamEvent::lone_fup, fup_ip_);
    fup_pending_ = true;
    fup_ip_ = last_ip_.value();
  }
  update_waiting();
}

void BranchStream::Impl::on_mode(ExecMode mode) {
  // Sent again at every entry, so only a change while tracing is on is an event; enter events carry the mode.
  if (mode_ != mode && mode_ != ExecMode::unknown && !in_psb_ && !exit_pending_)
    segment_.append_event(StreamEvent::mode, static_cast<uint64_t>(mode));
  mode_ = mode;
  if (in_psb_)
    known_psb_.mode_seen(mode);
  else
    fup_bound_ = waiting_ = true;  // see binds_next_fup()
}

void BranchStream::Impl::on_transaction(uint8_t flags) {
  if (in_psb_) return;
  transaction_flags_ = flags;
  transaction_pending_ = waiting_ = true;
}

void BranchStream::Impl::on_overflow() {
  ++totals_.overflows;
  if (exit_pending_) {
    // Nothing was lost before the exit itself.
    exit_pending_ = false;
    report_exit(false);
    segment_.reset();
    segment_open_ = true;
  }
  verified_ = false;
  fup_pending_ = fup_bound_ = transaction_pending_ = in_psb_ = false;
  after_overflow_ = waiting_ = true;
}

void BranchStream::Impl::damage(uint64_t offset, DecodeStatus status) {
  ++totals_.damaged;
  if (on_damage_) on_damage_({offset, status});
  on_overflow();
  --totals_.overflows;
  synchronised_ = false;
  items_ = BlockItems::none;
}

void BranchStream::Impl::mark_lost() {
  carry_.drop();
  on_overflow();
  synchronised_ = false;
  items_ = BlockItems::none;
}

void BranchStream::Impl::packet(const Packet& packet, const uint8_t* at) {
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
      return on_pgd(update_ip(), offset_of(at));
    case PacketType::fup:
      return on_fup(update_ip());
    case PacketType::mode_exec:
      return on_mode(static_cast<ExecMode>(packet.aux));
    case PacketType::mode_tsx:
      return on_transaction(packet.aux);
    case PacketType::psb:
      begin_psb(offset_of(at) + packet.size);
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
    case PacketType::ptw:
      if (exit_pending_) missing_resume();
      segment_.append_event(StreamEvent::ptwrite, packet.value);
      break;
    default:
      break;
  }
  if (binds_next_fup(packet)) fup_bound_ = waiting_ = true;
}

// The bulk of any trace: conditional outcomes, indirect targets, padding. Outcomes are gathered in registers
// across the targets between them, which the canonical form keeps apart anyway. Stops at the first packet
// that is none of these.
inline const uint8_t* BranchStream::Impl::branches(const uint8_t* at, const uint8_t* end) {
  uint64_t bits = 0;
  unsigned count = 0;
  while (at < end) {
    const ShortTnt tnt = short_tnt[*at];
    if (tnt.count == 6 && are_full_tnts(at)) {
      segment_.append_bits(bits, count);
      bits = 0;
      count = 0;
      do {
        segment_.append_bits(full_tnt_bits(at), 48);
        at += 8;
      } while (at < end && are_full_tnts(at));
    } else if (tnt.count != 0) {
      bits = bits << tnt.count | tnt.bits;
      count += tnt.count;
      ++at;
      if (count <= 42) continue;
      segment_.append_bits(bits, count);
      bits = 0;
      count = 0;
    } else if (*at == 0) {
      at = skip_padding(at, end);
    } else if (first_byte_class[*at] == ByteClass::tip) {
      if (apply_ip_payload(at, last_ip_)) [[likely]] {
        segment_.append_target(last_ip_.value());
      } else {
        // Other events say how many outcomes came before them.
        segment_.append_bits(bits, count);
        bits = 0;
        count = 0;
        segment_.append_event(StreamEvent::hidden_target);
      }
    } else if ((*at & 7) == 3) {
      ++at;  // CYC of one byte
    } else if (*at == 0x59) {
      at += 2;  // MTC
    } else {
      break;
    }
  }
  segment_.append_bits(bits, count);
  return at;
}

// Goes as far as it can without the general decoder; `end` leaves fast_margin readable bytes behind it.
const uint8_t* BranchStream::Impl::parse_fast(const uint8_t* at, const uint8_t* end) {
  while (at < end) {
    if (*at == 0) at = skip_padding(at, end);
    if (at >= end) break;
    switch (first_byte_class[*at]) {
      case ByteClass::pad:
        break;
      case ByteClass::tnt:
      case ByteClass::tip:
        if (waiting_ || items_ != BlockItems::none) return at;
        at = branches(at, end);
        break;
      case ByteClass::pge:
        on_pge(apply_ip_payload(at, last_ip_));
        break;
      case ByteClass::pgd: {
        const uint64_t offset = offset_of(at);
        on_pgd(apply_ip_payload(at, last_ip_), offset);
        break;
      }
      case ByteClass::fup:
        on_fup(apply_ip_payload(at, last_ip_));
        break;
      case ByteClass::mode:
        if (at[1] >> 5 != 0) return at;
        on_mode(exec_modes[at[1] & 3]);
        at += 2;
        break;
      case ByteClass::escape: {
        if (at[1] == 0x82) {
          const KnownPsb::Entry* known = known_psb_.find(at, end);
          if (known == nullptr) return at;
          at += known->size;
          if (known->mode != ExecMode::unknown) mode_ = known->mode;
          last_ip_.reset();
          items_ = BlockItems::none;
          if (in_psb_ || after_overflow_) {  // a PSB without its PSBEND came before, or see begin_psb()
            in_psb_ = after_overflow_ = false;
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
      case ByteClass::other:
        return at;
    }
  }
  return at;
}

// Consumes whole packets; returns how many bytes. What is left is the start of a packet.
size_t BranchStream::Impl::parse(const uint8_t* begin, size_t size, uint64_t offset) {
  chunk_ = begin;
  chunk_end_ = begin + size;
  chunk_offset_ = offset;
  known_psb_.forget_begin();
  const uint8_t* at = begin;
  const uint8_t* const end = begin + size;
  while (at < end) {
    if (!synchronised_) {
      const size_t found = find_psb({begin, size}, static_cast<size_t>(at - begin));
      if (found == npos) {
        // A PSB may be cut by the end of the chunk.
        const size_t keep = std::min<size_t>(psb_size - 1, static_cast<size_t>(end - at));
        return size - keep;
      }
      at = begin + found;
      synchronised_ = true;
    }
    if (static_cast<size_t>(end - at) > fast_margin) at = parse_fast(at, end - fast_margin);
    Packet next;
    const DecodeStatus status = decode_packet({at, static_cast<size_t>(end - at)}, items_, next, errata_);
    if (status == DecodeStatus::truncated) break;
    if (status != DecodeStatus::ok) {
      const size_t left = rest_of_psb({at, end}, offset_of(at) == psb_end_);
      damage(offset_of(at), status);
      if (left != 0) {
        at += left;
        synchronised_ = true;
        begin_psb(offset_of(at));
        known_psb_.forget_begin();
        continue;
      }
      ++at;
      continue;
    }
    packet(next, at);
    at += next.size;
  }
  return static_cast<size_t>(at - begin);
}

void BranchStream::Impl::feed(std::span<const uint8_t> bytes) {
  totals_.bytes += bytes.size();
  carry_.feed(bytes, [this](const uint8_t* begin, size_t size, uint64_t offset) {
    return parse(begin, size, offset);
  });
}

void BranchStream::Impl::settle_exit() {
  if (!exit_pending_) return;
  exit_pending_ = false;
  update_waiting();
  report_exit(false);
  segment_.reset();
  segment_open_ = false;
}

void BranchStream::Impl::finish() {
  Packet last;  // may be whole after all, and is a CYC then: see decode_packet() on SKD007
  if (carry_.waiting() > 0 && synchronised_ &&
      decode_packet(carry_.carried(), items_, last) != DecodeStatus::ok)
    damage(totals_.bytes - carry_.waiting(), DecodeStatus::truncated);
  carry_.drop();
  if (exit_pending_) {
    exit_pending_ = false;
    report_exit(false);
  } else if (segment_open_ || segment_.bit_count() + segment_.target_count() > 0) {
    exit_.asynchronous = false;
    exit_.from = 0;
    exit_.offset = totals_.bytes;
    report_exit(false);
  }
  segment_open_ = false;
  segment_.reset();
  settle();
}

std::array<uint8_t, 16> StreamDigest::bytes() const {
  std::array<uint8_t, 16> result;
  for (unsigned i = 0; i < 8; ++i) {
    result[i] = static_cast<uint8_t>(high >> (56 - 8 * i));
    result[8 + i] = static_cast<uint8_t>(low >> (56 - 8 * i));
  }
  return result;
}

BranchStream::BranchStream(ExitHandler on_exit, DamageHandler on_damage, const Errata& errata)
    : impl_(std::make_unique<Impl>(std::move(on_exit), std::move(on_damage), errata)) {}
BranchStream::~BranchStream() = default;
BranchStream::BranchStream(BranchStream&&) noexcept = default;
BranchStream& BranchStream::operator=(BranchStream&&) noexcept = default;
void BranchStream::feed(std::span<const uint8_t> bytes) { impl_->feed(bytes); }
void BranchStream::mark_lost() { impl_->mark_lost(); }
void BranchStream::settle_exit() { impl_->settle_exit(); }
void BranchStream::finish() { impl_->finish(); }
void BranchStream::restart() { impl_->restart(); }
const StreamTotals& BranchStream::totals() const { return impl_->totals(); }

}  // namespace aftercheck::pt
