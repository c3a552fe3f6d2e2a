// One vCPU of the translated machine.
#pragma once

#include <atomic>
#include <optional>

#include "machine/memory_accesses.h"
#include "machine/translated/host_faults.h"
#include "machine/translated/path_teller.h"
#include "machine/translated/translated_machine.h"
#include "machine/vcpu.h"

namespace aftercheck::translated {

class TranslatedVcpu final : public Vcpu {
 public:
  explicit TranslatedVcpu(TranslatedMachine& machine);
  ~TranslatedVcpu() override;
  TranslatedVcpu(const TranslatedVcpu&) = delete;
  TranslatedVcpu& operator=(const TranslatedVcpu&) = delete;

  Exit run() override { return execute(Mode::run); }
  Exit step() override { return execute(Mode::step); }
  bool counts_branches() const override { return true; }
  uint64_t branches() override { return branches_; }
  void reset_branches() override { branches_ = 0; }
  Exit run_until(uint64_t branches, uint64_t rip) override;
  bool has_bounds() const override { return journal_ != nullptr; }
  void set_bounds(uint64_t end, uint64_t code_bytes) override;
  uint64_t code_left() const override;
  Registers& registers() override { return registers_; }
  FpuState fpu() override;
  void set_fpu(const FpuState& state) override;
  bool set_control_flow(ControlFlow* flow) override;
  bool set_instrument(Instrument* instrument) override;
  void take_fpu(Vcpu& from) override;
  void kick() noexcept override;
  void clear_kick() noexcept override {
    if (kicked_.load()) kicked_.store(false);
  }

 private:
  enum class Mode : uint8_t { run, step, until };
  // What became of an instruction that was executed alone: the exit that it made, or none.
  using Outcome = std::optional<Exit>;

  TranslatedMachine& machine_;
  StoreJournal* const journal_;  // null: stores are not journaled
  Registers registers_;
  FpuState fpu_;                // while another vCPU has the context
  bool x87_unsettled_ = false;  // x87 state in the context has never been in the processor
  uint64_t branches_ = 0;
  std::atomic<bool> kicked_{false};
  std::atomic<int> thread_{0};  // kernel thread id while execute() is under way, for kicks
  HostFault fault_;
  LeftInside left_;
  ControlFlow* flow_ = nullptr;
  Instrument* instrument_ = nullptr;
  std::unique_ptr<PathTeller> teller_;  // null: nobody wants to be told
  uint64_t shown_x87_pointer_ = 0;      // as it was looked up last
  // run_until()
  uint64_t goal_branches_ = 0, goal_rip_ = 0;
  Translator::Way way_;  // by which translated code was left last
  // set_bounds(); the code that is left is in the context
  uint64_t end_ = 0;
  uint64_t isolated_ = 0;  // the last that was not 0: it stays so

  Exit execute(Mode mode);
  Outcome turn(Mode mode);
  Outcome at_bounds(bool first);
  Outcome turn_to_goal();
  Outcome block_turn(Translator& translator);
  Outcome left_block(Translator& translator);
  Outcome left_by_table(Translator& translator, bool noted = true);
  // Executes the instruction at RIP. Exits of kind step are not among those it gives, and of kind kick only
  // where the journal is full.
  Outcome alone();
  Outcome alone_as_it_is(const Instruction& instruction, bool notes = true);
  Outcome alone_copied(const Instruction& instruction);
  Outcome repeated(const Instruction& instruction);
  void note_stores(const Instruction& instruction, bool all_turns);
  void note_turns(const MemoryAccess& first, uint64_t turns, bool down);
  Outcome special(const Instruction& instruction);
  Outcome unnoted(Translator& translator);
  void executed(const Instruction& instruction);
  void change_teller();
  Outcome alone_observed(const Instruction& instruction);
  Outcome alone_unobserved(const Instruction& instruction);
  Registers registers_now() const;
  std::vector<MemoryAccess> accesses_of(const Instruction& instruction);
  Outcome move_flags(const Instruction& instruction);
  Outcome with_guest_gs(const Instruction& instruction);
  Outcome fault();
  Outcome outcome_of_fault();
  Outcome page_fault();
  [[noreturn]] void went_astray() const;
  [[noreturn]] void refuse(const Instruction& instruction) const;

  Context& context() const { return machine_.context(); }
  void hold();
  void settle_x87();
  // Executes translated code until it is left. `goes_on`: even where somebody wants the vCPU out.
  void enter(const Translator& translator, uint64_t entry, bool goes_on);
  void count();
  void uncount();
  void load();
  void store();
  void translate_x87_pointer();
};

}  // namespace aftercheck::translated
