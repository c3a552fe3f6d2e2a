// What each packet means for the code: the walk from block to block.
#include "pt-trace/flow_decoder_impl.h"

namespace aftercheck::pt {

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
  bit_count_ = cr3_writes_ = 0;
  resumed_ = false;
  calls_.clear();
  calls_missed_ = true;
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
          error(calls_missed_ ? FlowStatus::call_not_seen : FlowStatus::empty_call_stack, at);
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
  tell_overflow();
  // Behind an overflow, outcomes without a FUP before them are of no address that is known (SKD010).
  fup_pending_ = fup_bound_ = transaction_pending_ = in_psb_ = resumed_ = false;
  cr3_writes_ = 0;
  if (current_ == 0) return update_waiting();
  if (bit_count_ + count > 64) return error(FlowStatus::wrong_packet, current_ip());
  bits_ = bit_count_ == 0 ? bits : bits_ << count | bits;
  bit_count_ += count;
  walk_bits();
}

void FlowDecoder::Impl::on_tip(bool has_ip) {
  tell_overflow();
  const uint64_t target = last_ip_.value();
  cr3_writes_ = 0;
  // A FUP behind an overflow may be an event's, its own being missing. It is where the code there does not
  // end with this TIP.
  if (std::exchange(resumed_, false) && current_ != 0 &&
      cache_.links(current_).end == BlockEnd::conditional) {
    fup_pending_ = true;
    fup_ip_ = current_ip();
  }
  if (std::exchange(fup_pending_, false)) {
    fup_bound_ = false;
    update_waiting();
    // The address is right whatever went wrong before.
    if (current_ != 0) run_to(fup_ip_);
    current_ = 0;
    if (has_ip) go_to(target);
    FlowEvent e{FlowEventKind::async_branch};
    e.from = fup_ip_;
    e.to = target;
    e.has_to = has_ip;
    event(e);
    return;
  }
  fup_bound_ = transaction_pending_ = in_psb_ = false;
  if (current_ != 0 && step_to_end()) {
    const BlockEnd end = cache_.links(current_).end;
    if (end != BlockEnd::indirect && end != BlockEnd::near_return) {
      error(FlowStatus::wrong_packet, current_ip(), target);
    } else {
      emit(current_);
    }
  }
  current_ = 0;
  if (has_ip) go_to(target);
  if (bit_count_ > 0 && current_ != 0)
    walk_bits();
  else
    bit_count_ = 0;
  update_waiting();
}

// Executes up to, not including, the instruction at `stop`; current_ is spent. False after an error.
bool FlowDecoder::Impl::run_to(uint64_t stop) {
  const uint64_t start = current_ip();
  for (unsigned i = 0; i < most_straight; ++i) {
    const BlockId part = cache_.up_to(current_, stop);
    if (part != BlockCache::no_block) {
      if (part != 0) emit(part);
      return true;
    }
    if (cache_.links(current_).end != BlockEnd::straight) break;
    emit(current_);
    current_ = cache_.next(current_);
  }
  error(FlowStatus::event_not_reached, start, stop);
  return false;
}

// Executes up to the instruction that switched tracing off without an address in the trace: a far transfer, a
// write to CR3 (those before it that left tracing on had PIP packets), or a direct branch out of the filter
// (SKL014). False after an error.
bool FlowDecoder::Impl::run_to_end_of_tracing() {
  // The outcome before may have led out of the filter.
  if (!is_traced(current_ip())) return true;
  const std::span<const AddressRange> filter = options_.errata.skl014
                                                   ? std::span<const AddressRange>(options_.filter)
                                                   : std::span<const AddressRange>();
  unsigned before = cr3_writes_;
  for (unsigned i = 0; i < most_straight && current_ != BlockCache::nowhere; ++i) {
    const BlockId part = cache_.up_to_end_of_tracing(current_, before, filter);
    const BlockLinks& links = cache_.links(current_);
    if (part != current_ || links.end != BlockEnd::straight) {
      if (part == current_ && links.end == BlockEnd::unmapped) break;
      emit(part);
      return true;
    }
    before -= std::min<unsigned>(before, links.cr3_writes);
    emit(current_);
    current_ = cache_.next(current_);
  }
  if (!step_to_end()) return false;
  emit(current_);
  return true;
}

void FlowDecoder::Impl::on_pge(bool has_ip) {
  after_overflow_ = overflow_untold_ = false;  // it ended while tracing was off: this tells where it goes on
  fup_pending_ = fup_bound_ = transaction_pending_ = in_psb_ = resumed_ = false;
  bit_count_ = 0;
  cr3_writes_ = 0;
  update_waiting();
  current_ = 0;
  if (has_ip) go_to(last_ip_.value());
  FlowEvent e{FlowEventKind::enabled};
  e.to = last_ip_.value();
  e.has_to = has_ip;
  event(e);
}

void FlowDecoder::Impl::on_pgd(bool has_ip) {
  tell_overflow();
  // As in on_tip(): a FUP that is an event's.
  if (std::exchange(resumed_, false) && current_ != 0 && !has_ip) {
    const BlockLinks& links = cache_.links(current_);
    const bool needs_address =
        links.end == BlockEnd::near_return || (links.end == BlockEnd::indirect && !links.far);
    if (needs_address && links.cr3_writes == 0) {
      fup_pending_ = true;
      fup_ip_ = current_ip();
    }
  }
  const bool asynchronous = std::exchange(fup_pending_, false);
  fup_bound_ = transaction_pending_ = in_psb_ = false;
  FlowEvent e{asynchronous ? FlowEventKind::async_disabled : FlowEventKind::disabled};
  e.to = last_ip_.value();
  e.has_to = has_ip;
  if (current_ != 0 && asynchronous) {
    e.from = fup_ip_;
    if (!run_to(fup_ip_)) return;
    if (options_.errata.skd022 && cache_.instruction(fup_ip_, mode_).vm_entry) {
      emit(cache_.find(fup_ip_, mode_));
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
    } else if (!run_to_end_of_tracing()) {
      return;
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
    if (has_ip && resume_at_psb_ && current_ == 0) {
      tell_overflow();
      go_to(ip);
    }
    return;
  }
  if (after_overflow_) {
    after_overflow_ = false;
    if (has_ip) go_to(ip);
    resumed_ = has_ip && options_.errata.skd010;
    FlowEvent e{FlowEventKind::overflow};
    e.to = ip;
    e.has_to = has_ip;
    update_waiting();
    return event(e);
  }
  resumed_ = false;
  if (transaction_pending_) {
    transaction_pending_ = fup_bound_ = false;
    update_waiting();
    const bool aborted = (transaction_flags_ & 2) != 0;
    if (current_ != 0) {
      if (options_.errata.bdm64 && aborted && cache_.up_to(current_, ip) == BlockCache::no_block) go_to(ip);
      if (!run_to(ip)) return;
      go_to(ip);
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
  tell_overflow();
  ++totals_.overflows;
  fup_pending_ = fup_bound_ = transaction_pending_ = in_psb_ = resumed_ = false;
  cr3_writes_ = 0;
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
      if (mode != mode_ && mode != ExecMode::unknown) {
        mode_ = mode;
        if (!in_psb_ && current_ != 0) {
          FlowEvent e{FlowEventKind::mode};
          e.detail = packet.aux;
          event(e);
        }
      }
      if (in_psb_) return;
      end_overflow();
      break;
    }
    case PacketType::mode_tsx:
      if (in_psb_) return;
      end_overflow();
      transaction_flags_ = packet.aux;
      transaction_pending_ = waiting_ = true;
      return;
    case PacketType::psb:
      begin_psb(packet_offset_ + packet.size);
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
    case PacketType::pip:
      if (!in_psb_ && !fup_pending_) ++cr3_writes_;
      end_overflow();
      return;
    case PacketType::vmcs:
    case PacketType::trace_stop:
    case PacketType::exstop:
    case PacketType::mwait:
    case PacketType::pwre:
    case PacketType::pwrx:
      // Only packets of time and frequency come between an overflow and the FUP where it ended.
      end_overflow();
      break;
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

}  // namespace aftercheck::pt
