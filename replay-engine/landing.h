// The way to the instant of an asynchronous event, which is known by the guest's whole state only.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "machine/vcpu.h"
#include "recording/event.h"
#include "replay-engine/guest.h"

namespace aftercheck {

// Where the guest passes the instant's address often, nearly all arrivals must be refused for next to
// nothing: on KVM one costs two exits, so the guest goes to the soft vCPU, on the same memory, which asks
// without leaving translated code; and what refused the arrival before is looked at first.
class Landing final : private ArrivalFilter {
 public:
  // `event` is of the thread's, asynchronous, and ends the segment in which the guest is. All must outlive
  // this.
  Landing(Guest& guest, GuestThread& thread, const recording::Event& event);
  ~Landing();
  Landing(const Landing&) = delete;
  Landing& operator=(const Landing&) = delete;

  uint64_t address() const { return event_.rip; }
  // How often the guest was there.
  uint64_t arrivals() const { return arrivals_; }

  // The guest is at the address: is this the instant? Afterwards another vCPU may run it.
  bool arrived();
  // Runs the guest to the next arrival that may be it, or to another exit.
  Exit go();
  // The soft vCPU can't execute what comes: the thread's own goes on, for good. False where it was at work
  // already.
  bool give_up();

 private:
  using Clock = std::chrono::steady_clock;
  struct Stretch {
    const recording::MemoryDigest* digest;
    bool direct;  // may be read where it is, and no breakpoint of ours is in it
  };

  Guest& guest_;
  GuestThread& thread_;
  const recording::Event& event_;
  std::vector<Stretch> samples_, stretches_;  // what refused an arrival last is in front
  bool looked_up_ = false;
  uint64_t arrivals_ = 0;
  bool armed_ = false;  // an INT3 stops the guest there

  // Of the soft vCPU's run under way: so many arrivals are refused before it comes back.
  uint64_t patience_ = 0;

  // Which vCPU is cheaper. A block is a number of arrivals, on one of them.
  bool gave_up_ = false;
  uint64_t block_arrivals_ = 0, block_size_ = 0;
  Clock::time_point block_start_;
  double kvm_seconds_ = 0;         // an arrival
  uint64_t wait_ = 0, waits_ = 1;  // blocks on KVM before the soft vCPU is tried again; how many next time

  bool on_soft() const { return &thread_.vcpu() != &thread_.own_vcpu(); }
  void look_up_stretches();
  bool holds(const Stretch& stretch);
  bool all_hold(std::vector<Stretch>& stretches);
  bool registers_match(const Registers& registers);
  void arm();
  void disarm();
  void begin_block(uint64_t size);
  void end_block();
  void change();

  bool passes_by() noexcept override;
  bool passes_by(const Registers& registers) noexcept override;
};

}  // namespace aftercheck
