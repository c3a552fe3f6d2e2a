#include "pt-trace/encoder.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace aftercheck::pt {
namespace {

// Low five bits of the first byte (manual: TIP, TIP.PGE, TIP.PGD, FUP packet definitions).
constexpr uint8_t opcode_tip = 0x0d;
constexpr uint8_t opcode_pge = 0x11;
constexpr uint8_t opcode_pgd = 0x01;
constexpr uint8_t opcode_fup = 0x1d;

uint64_t sign_extend48(uint64_t ip) { return static_cast<uint64_t>(static_cast<int64_t>(ip << 16) >> 16); }

// Eight short TNT packets (manual: TNT packet definition): of 48 outcomes six in each byte, with the stop bit
// above them. The oldest comes first in memory.
uint64_t full_tnts(uint64_t outcomes) {
  outcomes = (outcomes & 0xffffff000000) << 8 | (outcomes & 0xffffff);
  outcomes = (outcomes & 0x00fff00000fff000) << 4 | (outcomes & 0x00000fff00000fff);
  outcomes = (outcomes & 0x0fc00fc00fc00fc0) << 2 | (outcomes & 0x003f003f003f003f);
  return __builtin_bswap64(outcomes << 1 | 0x8080808080808080);
}

// Second byte of the payload's encoding: MODE.Exec bits for each ExecMode.
constexpr std::array<uint8_t, 4> mode_bits = {3, 0, 2, 1};

}  // namespace

void Encoder::begin_packet() {
  spill();
  if (options_.pad_before_packet != 0) bytes_.insert(bytes_.end(), options_.pad_before_packet, 0);
}

void Encoder::spill() {
  bytes_.insert(bytes_.end(), quick_, quick_ + quick_size_);
  quick_size_ = 0;
}

void Encoder::put(uint64_t value, unsigned size) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);  // little-endian, as x86-64 is
  bytes_.insert(bytes_.end(), bytes, bytes + size);
}

void Encoder::ip_packet(uint8_t opcode, uint64_t ip) {
  IpCompression compression = IpCompression::full;
  const bool fits48 = sign_extend48(ip) == ip;
  if (options_.ip_style == IpStyle::shortest) {
    if ((ip ^ last_ip_) >> 16 == 0)
      compression = IpCompression::update16;
    else if ((ip ^ last_ip_) >> 32 == 0)
      compression = IpCompression::update32;
    else if (fits48)
      compression = IpCompression::sext48;
    else if ((ip ^ last_ip_) >> 48 == 0)
      compression = IpCompression::update48;
  } else if (options_.ip_style == IpStyle::sext48 && fits48) {
    compression = IpCompression::sext48;
  }
  const auto code = static_cast<uint8_t>(compression);
  begin_packet();
  std::array<uint8_t, 9> packet;
  packet[0] = static_cast<uint8_t>(opcode | code << 5);
  std::memcpy(&packet[1], &ip, sizeof ip);  // little-endian, as x86-64 is
  bytes_.insert(bytes_.end(), packet.begin(), packet.begin() + 1 + ip_payload_size[code]);
  last_ip_ = ip;
}

void Encoder::suppressed_ip_packet(uint8_t opcode) {
  begin_packet();
  put(opcode, 1);
}

void Encoder::mode_exec() {
  begin_packet();
  put(0x99, 1);
  put(mode_bits[static_cast<size_t>(mode_)], 1);
}

// One TNT packet with all waiting outcomes, then the TIPs that waited behind it.
void Encoder::write_tnt() {
  if (outcome_count_ > 0) {
    begin_packet();
    const uint64_t payload = uint64_t{1} << outcome_count_ | outcomes_;
    if (outcome_count_ <= 6) {
      put(payload << 1, 1);
    } else {
      put(0xa302, 2);
      put(payload, 6);
    }
  }
  outcomes_ = 0;
  outcome_count_ = 0;
  if (deferred_.empty()) return;
  const auto deferred = std::exchange(deferred_, {});
  for (const uint64_t target : deferred) ip_packet(opcode_tip, target);
}

void Encoder::flush() { write_tnt(); }

void Encoder::timing_packet() {
  if (!options_.timing) return;
  ++clock_;
  begin_packet();
  put(static_cast<uint8_t>((clock_ % 31) << 3 | 3), 1);  // CYC of one byte
  if (clock_ % 16 == 0) {
    begin_packet();
    put(0x59, 1);
    put(clock_ / 16, 1);
  }
}

void Encoder::synchronise() {
  write_tnt();
  started_ = true;
  begin_packet();
  for (size_t i = 0; i < psb_size; i += 2) put(0x8202, 2);
  last_ip_ = 0;
  if (options_.timing) {
    begin_packet();
    put(0x19, 1);
    put(clock_ * 100, 7);
    begin_packet();
    put(0x7302, 2);
    put(clock_ / 16, 2);
    put(0, 3);
  }
  if (options_.pip_in_psb) paging(options_.cr3, options_.non_root);
  if (options_.vmcs_in_psb) vmcs_pointer(options_.vmcs);
  if (options_.cbr_in_psb) core_bus_ratio(options_.cbr);
  if (enabled_) {
    mode_exec();
    ip_packet(opcode_fup, current_);
  }
  begin_packet();
  put(0x2302, 2);
  psb_end_ = taken_ + size();
}

void Encoder::psb_if_due() {
  if (!started_ || (options_.psb_period != 0 && taken_ + size() - psb_end_ >= options_.psb_period))
    synchronise();
}

void Encoder::enable(uint64_t ip, ExecMode mode) {
  psb_if_due();
  mode_ = mode;
  if (options_.mode_exec_at_enable) mode_exec();
  ip_packet(opcode_pge, ip);
  enabled_ = true;
  current_ = ip;
}

unsigned Encoder::tnt_limit() const {
  return options_.tnt_long_bits != 0 ? std::min<unsigned>(options_.tnt_long_bits, 47)
                                     : std::clamp<unsigned>(options_.tnt_short_bits, 1, 6);
}

void Encoder::conditional(bool taken, uint64_t next) {
  current_ = next;
  if (outcomes(taken ? 1 : 0, 1)) psb_if_due();
}

bool Encoder::outcomes(uint64_t outcomes, unsigned count) {
  const unsigned limit = tnt_limit();
  bool wrote = false;
  while (count > 0) {
    // Smaller limits may have been set since outcomes began to wait.
    const unsigned part = std::min(count, limit > outcome_count_ ? limit - outcome_count_ : 1);
    count -= part;
    outcomes_ = outcomes_ << part | (outcomes >> count & ((uint64_t{1} << part) - 1));
    outcome_count_ += part;
    if (outcome_count_ >= limit) {
      write_tnt();
      timing_packet();
      wrote = true;
    }
  }
  return wrote;
}

void Encoder::branches(std::span<const BranchRun> runs) {
  while (!runs.empty()) {
    if (is_plain() && deferred_.empty()) [[likely]] {
      const size_t done = quick_branches(runs);
      psb_if_due();
      runs = runs.subspan(done);
      if (done != 0) continue;
    }
    const BranchRun& run = runs.front();
    outcomes(run.outcomes, run.count);
    if (run.indirect) {
      indirect(run.next);
    } else {
      current_ = run.next;
      psb_if_due();
    }
    runs = runs.subspan(1);
  }
}

size_t Encoder::quick_branches(std::span<const BranchRun> runs) {
  // Of the members only copies that stay in registers.
  uint8_t* to = quick_ + quick_size_;
  uint64_t waiting = outcomes_, last_ip = last_ip_;
  unsigned waiting_count = outcome_count_;
  // Behind the run that goes beyond this, there is something else to do.
  const uint64_t since_psb = taken_ + size() - psb_end_;
  size_t room = quick_capacity - quick_size_;
  if (!started_ || (options_.psb_period != 0 && since_psb >= options_.psb_period))
    room = 0;
  else if (options_.psb_period != 0)
    room = std::min(room, static_cast<size_t>(options_.psb_period - since_psb));
  const uint8_t* const stop = to + room;
  const BranchRun* run = runs.data();
  for (const BranchRun* const end = run + runs.size(); run != end && to < stop; ++run) {
    const uint64_t change = run->next ^ last_ip;
    if (run->indirect && change >> 32 != 0 && sign_extend48(run->next) != run->next) [[unlikely]]
      break;
    waiting = waiting << run->count | run->outcomes;
    waiting_count += run->count;
    const unsigned full = waiting_count / 6;
    waiting_count -= 6 * full;
    const uint64_t packets = full_tnts(waiting >> waiting_count << (48 - 6 * full));
    std::memcpy(to, &packets, sizeof packets);
    to += full;
    waiting &= (uint64_t{1} << waiting_count) - 1;
    if (!run->indirect) continue;
    *to = static_cast<uint8_t>((1U << waiting_count | waiting) << 1);
    to += waiting_count != 0 ? 1 : 0;
    waiting = 0;
    waiting_count = 0;
    const unsigned code = 1 + (change >> 16 != 0 ? 1U : 0U) + (change >> 32 != 0 ? 1U : 0U);  // IpCompression
    *to = static_cast<uint8_t>(opcode_tip | code << 5);
    std::memcpy(to + 1, &run->next, sizeof run->next);  // little-endian, as x86-64 is
    to += 1 + 2 * code;                                 // ip_payload_size
    last_ip = run->next;
  }
  quick_size_ = static_cast<size_t>(to - quick_);
  outcomes_ = waiting;
  outcome_count_ = waiting_count;
  last_ip_ = last_ip;
  const auto done = static_cast<size_t>(run - runs.data());
  if (done != 0) current_ = run[-1].next;
  if (quick_size_ >= quick_capacity) spill();
  return done;
}

void Encoder::indirect(uint64_t target) {
  current_ = target;
  if (options_.defer_tips && outcome_count_ > 0) {
    deferred_.push_back(target);
    return;
  }
  write_tnt();
  timing_packet();
  ip_packet(opcode_tip, target);
  psb_if_due();
}

void Encoder::asynchronous(uint64_t from, uint64_t target) {
  write_tnt();
  ip_packet(opcode_fup, from);
  ip_packet(opcode_tip, target);
  current_ = target;
  psb_if_due();
}

void Encoder::disable(std::optional<uint64_t> target) {
  write_tnt();
  timing_packet();
  if (target)
    ip_packet(opcode_pgd, *target);
  else
    suppressed_ip_packet(opcode_pgd);
  enabled_ = false;
}

void Encoder::disable_asynchronous(uint64_t from) {
  write_tnt();
  ip_packet(opcode_fup, from);
  suppressed_ip_packet(opcode_pgd);
  enabled_ = false;
}

void Encoder::change_mode(ExecMode mode) {
  write_tnt();
  mode_ = mode;
  mode_exec();
}

void Encoder::ptwrite(uint64_t payload, unsigned size, std::optional<uint64_t> ip) {
  if (size != 4 && size != 8) fail(ErrorKind::usage, "PTWRITE writes 4 or 8 bytes, not {}", size);
  write_tnt();
  begin_packet();
  put(2, 1);
  put((size == 8 ? 0x32u : 0x12u) | (ip ? 0x80u : 0u), 1);
  put(payload, size);
  if (ip) ip_packet(opcode_fup, *ip);
}

void Encoder::overflow(std::optional<uint64_t> resume) {
  outcomes_ = 0;
  outcome_count_ = 0;
  deferred_.clear();
  begin_packet();
  put(0xf302, 2);
  enabled_ = resume.has_value();
  if (!resume) return;
  current_ = *resume;
  last_ip_ = ~*resume;  // decoders differ in whether the last IP survives an overflow, so don't rely on it
  ip_packet(opcode_fup, *resume);
}

void Encoder::host_interruption(std::optional<uint64_t> ip) {
  if (!enabled_) return;
  const uint64_t at = ip.value_or(current_);
  disable_asynchronous(at);
  enable(at, mode_);
}

void Encoder::host_interruption_at_indirect(uint64_t target) {
  disable(target);
  enable(target, mode_);
}

void Encoder::paging(uint64_t cr3, bool non_root) {
  begin_packet();
  put(0x4302, 2);
  put((cr3 >> 5) << 1 | (non_root ? 1 : 0), 6);
}

void Encoder::vmcs_pointer(uint64_t base) {
  begin_packet();
  put(0xc802, 2);
  put(base >> 12, 5);
}

void Encoder::core_bus_ratio(uint8_t ratio) {
  if (ratio == 0) fail(ErrorKind::usage, "a core:bus ratio of 0 can't be: decoders divide by it");
  begin_packet();
  put(0x0302, 2);
  put(ratio, 2);
}

void Encoder::discard() {
  spill();
  taken_ += bytes_.size();
  bytes_.clear();
}

std::vector<uint8_t> Encoder::take() {
  spill();
  taken_ += bytes_.size();
  return std::exchange(bytes_, {});
}

}  // namespace aftercheck::pt
