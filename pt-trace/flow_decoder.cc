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
  // The caller may change the image before it goes on, and a sink looks blocks up in it.
  flush();
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

}  // namespace aftercheck::pt
