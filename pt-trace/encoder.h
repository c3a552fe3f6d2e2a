// Writes Intel PT packets for a control flow that something else knows (the soft vCPU), as a processor would.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/branch_run.h"
#include "pt-trace/packet.h"

namespace aftercheck::pt {

enum class IpStyle : uint8_t {
  shortest,  // the fewest bytes that express the address
  sext48,    // always 6 bytes, sign extended
  full,      // always 8 bytes, as some processors do
};

// What the hardware, its settings and the host may vary without the guest doing anything else. May be changed
// between any two events.
struct EncoderOptions {
  uint32_t psb_period = 4096;  // bytes between PSB+; 0: only the first
  uint8_t tnt_short_bits = 6;  // outcomes per short TNT, 1 to 6
  uint8_t tnt_long_bits = 0;   // 1 to 47: long TNT packets of this many outcomes; 0: short ones only
  bool defer_tips = false;     // TIP may stand before the TNT of earlier outcomes does, as the manual allows
  IpStyle ip_style = IpStyle::shortest;
  uint8_t pad_before_packet = 0;  // PAD bytes in front of every packet
  bool mode_exec_at_enable = true;
  bool cbr_in_psb = true;
  uint8_t cbr = 0x24;
  bool pip_in_psb = false;   // with `cr3` and `non_root`
  bool vmcs_in_psb = false;  // with `vmcs`
  uint64_t cr3 = 0x1000;
  bool non_root = true;
  uint64_t vmcs = 0x2000;
  bool timing = false;  // TSC and TMA in PSB+, MTC and CYC between packets
};

// One trace. Every event that leads somewhere is told the address where execution goes on, because PSB+ and
// interruptions have to name it. Not thread-safe. Grows bytes() only; take() empties it.
class Encoder {
 public:
  explicit Encoder(const EncoderOptions& options = {}) : options_(options) {}

  EncoderOptions& options() { return options_; }

  // Tracing goes on at `ip` (TIP.PGE); the first call starts the trace with PSB+.
  void enable(uint64_t ip, ExecMode mode = ExecMode::bits64);
  // A conditional branch; execution goes on at `next`. Also for compressed returns (taken).
  void conditional(bool taken, uint64_t next);
  // As the calls of conditional() and indirect() that they stand for, but faster; PSB+ comes at the end of a
  // run at the earliest.
  void branches(std::span<const BranchRun> runs);
  // An indirect jump or call, a return, or a far transfer that stays traced.
  void indirect(uint64_t target);
  // Interrupt, exception or fault that stays traced: `from` did not execute.
  void asynchronous(uint64_t from, uint64_t target);
  // Tracing goes off by an instruction (SYSCALL, a branch out of the filter). `target` only if the filter,
  // not the privilege level, is the reason.
  void disable(std::optional<uint64_t> target = {});
  // Tracing goes off by an interrupt, exception or VM exit: `from` did not execute.
  void disable_asynchronous(uint64_t from);
  // The code mode changes with the next transfer.
  void change_mode(ExecMode mode);
  // PTWRITE of 4 or 8 bytes, executed at `ip`.
  void ptwrite(uint64_t payload, unsigned size, std::optional<uint64_t> ip = {});
  // Packets were lost. `resume` is where tracing goes on if it is on, nothing if it resolves while it is off.
  void overflow(std::optional<uint64_t> resume);

  // The host did something that the guest can't see: it interrupted the guest for a VM exit before the
  // instruction at `ip`; without one, at the address set by the last event. Nothing happens while tracing is
  // off.
  void host_interruption(std::optional<uint64_t> ip = {});
  // As host_interruption, but while the indirect branch to `target` executes; replaces indirect().
  void host_interruption_at_indirect(uint64_t target);
  // CR3 was written or a VMCS loaded, as at VM entries. Only while tracing is off: elsewhere decoders look
  // for the instruction that did it.
  void paging(uint64_t cr3, bool non_root);
  void vmcs_pointer(uint64_t base);
  void core_bus_ratio(uint8_t ratio);  // at least 1 (Error usage)

  // PSB+ now, whatever the period says.
  void synchronise();
  // Writes out conditional outcomes that still wait for their packet to fill.
  void flush();

  const std::vector<uint8_t>& bytes() {
    spill();
    return bytes_;
  }
  size_t size() const { return bytes_.size() + quick_size_; }
  // Hands over what has been written and goes on with an empty buffer.
  std::vector<uint8_t> take();
  // The same for a caller who has copied bytes().
  void discard();

 private:
  void begin_packet();
  void put(uint64_t value, unsigned size);
  void ip_packet(uint8_t opcode, uint64_t ip);
  void suppressed_ip_packet(uint8_t opcode);
  void mode_exec();
  void write_tnt();
  unsigned tnt_limit() const;
  // As EncoderOptions are by default, so that packets need no further look at them.
  bool is_plain() const {
    return options_.tnt_short_bits == 6 && options_.tnt_long_bits == 0 && !options_.defer_tips &&
           options_.ip_style == IpStyle::shortest && options_.pad_before_packet == 0 && !options_.timing &&
           outcome_count_ < 6;
  }
  // True when packets were written, so that a PSB may be due.
  bool outcomes(uint64_t outcomes, unsigned count);
  // The frequent ones of branches(): those before the first run for which something else is due.
  size_t quick_branches(std::span<const BranchRun> runs);
  void spill();
  void psb_if_due();
  void timing_packet();

  EncoderOptions options_;
  std::vector<uint8_t> bytes_;
  // Packets that follow bytes_: the frequent ones are written here, without a look at a vector's capacity.
  static constexpr size_t quick_capacity = 4096;
  // Of one run: eight full TNTs, one that is not full, and a TIP with eight bytes, all written whatever their
  // number and length is.
  static_assert((5 + BranchRun::kMost) / 6 <= 8);
  static constexpr size_t quick_slack = 8 + 1 + 9;
  uint8_t quick_[quick_capacity + quick_slack];
  size_t quick_size_ = 0;
  std::vector<uint64_t> deferred_;  // TIP targets that wait for the TNT before them
  uint64_t taken_ = 0;              // bytes already handed over
  uint64_t psb_end_ = 0;            // place of the last PSBEND in the whole trace
  uint64_t last_ip_ = 0;
  uint64_t current_ = 0;  // where execution goes on, while enabled
  uint64_t outcomes_ = 0;
  uint64_t clock_ = 0;
  unsigned outcome_count_ = 0;
  ExecMode mode_ = ExecMode::bits64;
  bool enabled_ = false;
  bool started_ = false;
};

}  // namespace aftercheck::pt
