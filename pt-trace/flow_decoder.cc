#include "pt-trace/flow_decoder.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "pt-trace/flow_decoder_impl.h"

namespace aftercheck::pt {

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
        cr3_writes_ = 0;
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
        cr3_writes_ = 0;
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
        if (ends_before_82(at)) return at;
        break;
      }
      case ByteClass::pge:
      case ByteClass::pgd:
      case ByteClass::fup: {
        const ByteClass kind = first_byte_class[*at];
        packet_offset_ = chunk_offset_ + static_cast<uint64_t>(at - chunk_);
        const bool has_ip = apply_ip_payload(at, last_ip_);
        if (kind == ByteClass::pge)
          on_pge(has_ip);
        else if (kind == ByteClass::pgd)
          on_pgd(has_ip);
        else
          on_fup(has_ip);
        if (has_ip && ends_before_82(at)) return at;
        break;
      }
      case ByteClass::escape: {
        if (at[1] == 0x82) {
          const KnownPsb::Entry* known = known_psb_.find(at, end);
          if (known == nullptr) return at;
          at += known->size;
          if (known->mode != ExecMode::unknown) mode_ = known->mode;
          calls_missed_ = false;
          last_ip_.reset();
          items_ = BlockItems::none;
          end_overflow();
          if (in_psb_) {  // a PSB without its PSBEND came before
            in_psb_ = false;
            update_waiting();
          }
          if (ends_before_82(at)) return at;
          break;
        }
        const uint8_t size = ignored_extended[at[1]];
        if (size == 0 || after_overflow_) return at;
        if (at[1] == 0x43 && !in_psb_ && !fup_pending_) ++cr3_writes_;  // PIP
        at += size;
        if (ends_before_82(at)) return at;
        break;
      }
      case ByteClass::cyc:
        ++at;
        break;
      case ByteClass::mtc:
        at += 2;
        if (ends_before_82(at)) return at;
        break;
      case ByteClass::tsc:
        at += 8;
        if (ends_before_82(at)) return at;
        break;
      case ByteClass::mode:
      case ByteClass::other:
        return at;
    }
  }
  return at;
}

FlowDecoder::Impl::AsTnt FlowDecoder::Impl::as_tnt(std::span<const uint8_t> bytes) const {
  const bool known = bytes.size() >= psb_size || ending_;
  if (bytes.empty()) return known ? AsTnt::yes : AsTnt::not_known_yet;
  if (bytes[0] != 0x02 || (bytes.size() > 1 && bytes[1] != 0x82)) return AsTnt::yes;
  BlockItems items = BlockItems::none;
  Packet next;
  switch (decode_packet(bytes, items, next)) {
    case DecodeStatus::ok:  // a whole PSB
      return AsTnt::yes;
    case DecodeStatus::truncated:
      return known ? AsTnt::yes : AsTnt::not_known_yet;
    default:
      return rest_of_psb(bytes, false) != 0 ? AsTnt::no : AsTnt::yes;
  }
}

// The bytes at `at`, in the trace at `offset`, are no packet. Returns where to go on.
const uint8_t* FlowDecoder::Impl::damage(const uint8_t* at, const uint8_t* end, uint64_t offset) {
  const bool odd = *at == 0x82;
  const size_t left = rest_of_psb({at + (odd ? 1 : 0), end}, offset == psb_end_);
  packet_offset_ = offset;
  tell_overflow();
  synchronised_ = false;
  items_ = BlockItems::none;
  fup_pending_ = fup_bound_ = transaction_pending_ = in_psb_ = resumed_ = false;
  error(FlowStatus::bad_packet, current_ != 0 ? current_ip() : 0);
  if (left == 0) return at + 1;
  at += left + (odd ? 1 : 0);
  synchronised_ = true;
  known_psb_.forget_begin();
  begin_psb(chunk_offset_ + static_cast<uint64_t>(at - chunk_));
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
    const auto is_doubtful = [&] {
      return *at == 0x82 && chunk_offset_ + static_cast<uint64_t>(at - chunk_) == long_end_;
    };
    if (!is_doubtful() && static_cast<size_t>(end - at) > fast_margin) at = parse_fast(at, end - fast_margin);
    const uint64_t here = chunk_offset_ + static_cast<uint64_t>(at - chunk_);
    if (is_doubtful()) {
      const AsTnt answer = as_tnt({at + 1, end});
      if (answer == AsTnt::not_known_yet) break;
      if (answer == AsTnt::no) {
        at = damage(at, end, here);
        continue;
      }
    }
    Packet next;
    const std::span rest(at, end);
    DecodeStatus status = decode_packet(rest, items_, next, options_.errata);
    if (status == DecodeStatus::truncated && ending_) status = decode_packet(rest, items_, next);
    if (status == DecodeStatus::truncated) break;
    if (status == DecodeStatus::ok) {
      packet(next, at);
      at += next.size;
      if (next.size > 1) long_end_ = here + next.size;
      continue;
    }
    at = damage(at, end, here);
  }
  return static_cast<size_t>(at - begin);
}

void FlowDecoder::Impl::feed(std::span<const uint8_t> bytes) {
  totals_.bytes += bytes.size();
  refresh();
  carry_.feed(bytes, [this](const uint8_t* begin, size_t size, uint64_t offset) {
    return parse(begin, size, offset);
  });
  // The caller may change the image before it goes on, and a sink looks blocks up in it.
  flush();
}

void FlowDecoder::Impl::mark_lost() {
  carry_.drop();
  packet_offset_ = totals_.bytes;
  on_overflow();
  after_overflow_ = overflow_untold_ = false;
  update_waiting();
  synchronised_ = false;
  items_ = BlockItems::none;
  event(FlowEvent{FlowEventKind::overflow});
}

void FlowDecoder::Impl::finish() {
  size_t waiting = carry_.waiting();
  if (waiting > 0) {
    ending_ = true;
    waiting -= parse(carry_.carried().data(), waiting, totals_.bytes - waiting);
    ending_ = false;
    carry_.drop();
  }
  packet_offset_ = totals_.bytes - waiting;
  if (waiting > 0 && synchronised_) error(FlowStatus::bad_packet, current_ != 0 ? current_ip() : 0);
  tell_overflow();
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
  calls_missed_ = false;
  waiting_ = fup_pending_ = fup_bound_ = transaction_pending_ = in_psb_ = after_overflow_ = overflow_untold_ =
      false;
  synchronised_ = resume_at_psb_ = false;
  mode_ = options_.mode;
  items_ = BlockItems::none;
  last_ip_.reset();
  current_ = 0;
  bit_count_ = 0;
  psb_end_ = long_end_ = ~uint64_t{0};
  cr3_writes_ = 0;
  resumed_ = false;
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

}  // namespace aftercheck::pt
