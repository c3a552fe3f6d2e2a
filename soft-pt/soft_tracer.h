// Intel PT packets for the control flow of a vCPU, as a processor would write them for user-mode code in a
// virtual machine: tracing goes off where the guest exits and on where it goes on. Stops that the guest does
// not see leave no trace.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "machine/control_flow.h"
#include "pt-trace/encoder.h"
#include "recording/event.h"

namespace aftercheck {

class SoftTracer : public ControlFlow {
 public:
  // Gets the packets in pieces of some kilobytes, and what there is at each exit. False: they were dropped.
  using Output = std::function<bool(std::span<const uint8_t>)>;

  explicit SoftTracer(Output output, const pt::EncoderOptions& options = {});

  // The guest is about to run, from `rip` on; nothing where it has not exited since it last ran.
  void resume(uint64_t rip) {
    if (!on_) resume_ = rip;
  }
  // The guest has come to the exit of this event.
  void exited(const recording::Event& event);
  // The same in parts: by SYSCALL, or before the instruction at `rip`.
  void exit_by_system_call();
  void exit_before(uint64_t rip);
  // PSB+ now, so that decoding can start here.
  void synchronise() { encoder_.synchronise(); }
  // Of a guest that still runs, what is known of it comes out.
  void flush();

  void branches(std::span<const BranchRun> runs) override;
  void lost(uint64_t next) override;

  struct Totals {
    uint64_t branches = 0;  // conditional and indirect
    uint64_t losses = 0;    // calls of lost()
  };
  const Totals& totals() const { return totals_; }

 private:
  Output output_;
  pt::Encoder encoder_;
  Totals totals_;
  uint64_t resume_ = 0;
  bool on_ = false;
  bool dropped_ = false;

  void turn_on();
  void hand_over();
  void hand_over_if_much();
};

}  // namespace aftercheck
