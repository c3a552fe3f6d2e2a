// The way to the instant of an asynchronous event, which is known by the guest's whole state and, if the
// recorder could count them, by the number of branches executed before it. That number and the registers'
// digest are all there is for the instant at which a thread was preempted.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "machine/vcpu.h"
#include "recording/event.h"
#include "replay-engine/counter_search.h"
#include "replay-engine/guest.h"

namespace aftercheck {

// With a count, on a vCPU that counts, the guest stops at the instant, and its state is compared to prove
// that. Else where the guest passes the instant's address often, nearly all arrivals must be refused for next
// to nothing: on KVM one costs two exits, so the guest goes to the soft vCPU, on the same memory, which asks
// without leaving translated code; and what refused the arrival before is looked at first: a cache line that
// the recorder has sampled, or a register. With the v3 model, which the soft vCPU lacks, it goes to the
// translated machine.
class Landing final : private ArrivalFilter {
 public:
  // Is it one whose instant has to be found?
  static bool lands_on(const recording::Event& event);
  // `event` is such a one, of the thread that runs, and ends the segment in which the guest is. Both must
  // outlive this. Throws Error(bad_input) where it does not say what it should.
  Landing(Guest& guest, const recording::Event& event);
  ~Landing();
  Landing(const Landing&) = delete;
  Landing& operator=(const Landing&) = delete;

  uint64_t address() const { return address_; }
  // How often the guest was there; where that counts, with the instant's count of branches.
  uint64_t arrivals() const { return arrivals_; }
  bool counted() const { return counted_; }
  // The registers there, the last time.
  const std::optional<Registers>& last_arrival() const { return last_arrival_; }
  // Executed since the segment's start, where they are counted; else 0.
  uint64_t branches() const { return counted_ ? guest_.vcpu().branches() : 0; }
  // Has the guest executed more than before the instant? No, where they are not counted.
  bool passed() const { return counted_ && branches() > *branches_; }

  // Before anything else, at the segment's start. Afterwards another vCPU may run the guest; one that counts
  // is to count from here on. Throws Error(host_lacks) where nothing counts and nothing else will do.
  void begin();
  // The guest is at the address: is this the instant? Afterwards another vCPU may run it.
  bool arrived();
  // Runs the guest to the next arrival that may be it, or to another exit.
  Exit go();
  // The vCPU that is not the guest's own can't execute what comes: its own goes on. False where it was at
  // work already.
  bool give_up();

 private:
  struct Stretch {
    const recording::MemoryDigest* digest;
    bool direct;  // may be read where it is, and no breakpoint of ours is in it
  };

  Guest& guest_;
  const recording::Event& event_;
  const bool preempted_;  // it says no more than a count
  const uint64_t address_;
  const std::optional<uint64_t> branches_;
  std::vector<Stretch> samples_, stretches_;  // what refused an arrival last is in front
  // The canonical registers of the instant, where the recording has them; and which refused last.
  std::optional<RegisterWords> words_;
  std::optional<FpuState> fpu_;
  size_t hot_word_ = 0, hot_xmm_ = 0;
  bool registers_first_ = false;
  // The word of the stretch in front by which arrivals differ, while there is one only; then its value at the
  // instant.
  struct Word {
    uint64_t address = 0, value = 0;
  };
  std::optional<Word> counter_;
  std::optional<CounterSearch> search_;
  const recording::MemoryDigest* watched_ = nullptr;
  std::vector<std::byte> seen_;  // its bytes at seen_arrival_
  uint64_t seen_arrival_ = 0, searched_offset_ = 0, searched_step_ = 0;
  bool looked_up_ = false;
  uint64_t arrivals_ = 0;
  std::optional<Registers> last_arrival_;
  bool armed_ = false;    // an INT3 stops the guest there
  bool counted_ = false;  // the vCPU counts branches and stops the guest there

  // Of the soft vCPU's run under way: so many arrivals are refused before it comes back.
  uint64_t patience_ = 0;

  // Which vCPU is cheaper. A block is a number of arrivals, on one of them.
  bool gave_up_ = false;
  uint64_t block_arrivals_ = 0, block_size_ = 0;
  double block_start_ = 0;         // thread_seconds()
  double kvm_seconds_ = 0;         // an arrival
  uint64_t wait_ = 0, waits_ = 1;  // blocks on KVM before the soft vCPU is tried again; how many next time

  // Where branches are counted, on the one that counts.
  bool on_soft() const { return &guest_.vcpu() != &guest_.own_vcpu(); }
  void begin_on_own();
  void look_up();
  void look_up_stretches();
  void look_up_operands();
  bool copy_written(uint64_t address, std::span<std::byte> bytes) const;
  void look_up_frame(uint64_t frame);
  void look_up_fpu(uint64_t address);
  bool holds(const Stretch& stretch);
  bool all_hold(std::vector<Stretch>& stretches);
  bool registers_match(const Registers& registers);
  void search_counter();
  void watch(const recording::MemoryDigest& stretch, std::span<const std::byte> now);
  void arm();
  void disarm();
  uint64_t next_block(double seconds) const;
  void begin_block(uint64_t size);
  void end_block();
  void change();

  bool passes_by(const State& state) noexcept override;
  bool refused(const State& state);
  bool refused_by_words(const State& state);
  bool refused_by_xmm(const State& state);
};

}  // namespace aftercheck
