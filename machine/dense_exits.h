// Where a guest executes instructions that trap very often (RDTSC in a loop), exits cost more than slow
// execution: on KVM each is one, on a soft vCPU a call. And some code KVM can't execute faithfully
// (Vcpu::leave_untrapped).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "machine/vcpu.h"

namespace aftercheck {

// A vCPU of a KVM machine, and while its trapped instructions are dense a soft one on the same memory.
// Measures both and goes on with the cheaper. What the own one leaves untrapped the soft one executes, up to
// the next exit of another kind. Of what the soft vCPU finds invalid the processor has the last
// word, and what it can't execute the processor does. Neither machine sees anything of this.
class DenseExits final : public Vcpu {
 public:
  // `machine` is on KVM and observes `space`; both must outlive this.
  DenseExits(Machine& machine, AddressSpace& space, const CpuModel& cpu);
  ~DenseExits() override;

  Exit run() override;
  Exit step() override;
  Registers& registers() override { return now().registers(); }
  FpuState fpu() override { return now().fpu(); }
  void set_fpu(const FpuState& state) override { now().set_fpu(state); }
  void stay_on_processor() override;
  void kick() noexcept override;
  void clear_kick() noexcept override;

 private:
  Machine& own_machine_;
  AddressSpace& space_;
  const CpuModel cpu_;
  const std::unique_ptr<Vcpu> own_;
  std::unique_ptr<Machine> soft_machine_;
  std::unique_ptr<Vcpu> soft_;
  std::atomic<Vcpu*> soft_to_kick_{nullptr};
  std::atomic<bool> kicked_{false};
  bool stays_ = false, on_soft_ = false;
  bool visits_ = false;  // the soft one only executes what the own one can't

  // Since the block under way began.
  uint64_t exits_ = 0, trapped_ = 0;
  double block_start_;             // thread_seconds()
  double own_seconds_ = 0;         // an exit of the last block on the own vCPU
  uint64_t wait_ = 0, waits_ = 1;  // blocks on it before the soft one is tried again; how many next time

  Vcpu& now() { return on_soft_ ? *soft_ : *own_; }
  Exit run_on();
  Exit step_on();
  void take_turn();
  void end_turn() { own_machine_.last_run() = {this, on_soft_}; }
  Exit run_soft();
  void visit_soft();
  Exit step_unwatched();
  void count(const Exit& exit);
  void begin_block();
  void change();
  void lose();
};

// A vCPU of `machine`; on KVM one of the above, unless the model has registers that the soft vCPU lacks.
std::unique_ptr<Vcpu> create_leaving_vcpu(Machine& machine, AddressSpace& space, const CpuModel& cpu);

}  // namespace aftercheck
