// The soft vCPU: drives one UnicornEngine and turns its ways of stopping into the exits of machine/exit.h.
#pragma once

#include <atomic>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "machine/soft/flow_tracker.h"
#include "machine/soft/translation_guard.h"
#include "machine/soft/unicorn_engine.h"
#include "machine/vcpu.h"

namespace aftercheck::soft {

class SoftMachine;

class SoftVcpu : public Vcpu {
 public:
  explicit SoftVcpu(SoftMachine& machine);
  ~SoftVcpu() override;
  SoftVcpu(const SoftVcpu&) = delete;
  SoftVcpu& operator=(const SoftVcpu&) = delete;

  Exit run() override;
  Exit step() override;
  bool has_run_to() const override { return true; }
  Exit run_to(uint64_t address, ArrivalFilter* filter) override;
  bool counts_branches() const override { return counting_; }
  bool count_branches(bool wanted) override;
  uint64_t branches() override { return counting_ ? flow_->counted() : Vcpu::branches(); }
  void reset_branches() override;
  Exit run_until(uint64_t branches, uint64_t rip) override;
  Registers& registers() override { return registers_; }
  FpuState fpu() override;
  void set_fpu(const FpuState& state) override;
  void kick() noexcept override {
    kicked_.store(true);
    flow_log_.limit.store(nullptr, std::memory_order_relaxed);
  }
  void clear_kick() noexcept override { kicked_.store(false); }

  bool set_control_flow(ControlFlow* flow) override;

  bool has_bounds() const override { return true; }
  void set_bounds(uint64_t end, uint64_t code_bytes) override;
  uint64_t code_left() const override { return code_left_; }

  // From the machine, while this vCPU does not run; what they ask for is done before it next runs.
  void mapping_changed(Range range);
  void code_changed(Range range);

 private:
  // Why the engine has stopped.
  enum class Stop : uint8_t { none, syscall, interrupt, kick, special, new_block, arrival, used_up, goal };

  SoftMachine& machine_;
  UnicornEngine engine_;
  TranslationGuard guard_;
  Registers registers_;
  std::atomic<bool> kicked_{false};
  size_t chunks_added_ = 0;

  Stop stop_ = Stop::none;
  std::optional<uint64_t> stopped_before_;          // the block that was not begun
  uint64_t last_block_ = 0;                         // the block that was begun last
  uint32_t last_size_ = 0;                          // its bytes; 0: none since the engine was started
  uint32_t interrupt_ = 0;                          // Stop::interrupt: its number
  uint64_t block_ = 0;                              // Stop::new_block: where it starts
  std::vector<uint64_t> found_;                     // Stop::new_block: special instructions in it
  std::unordered_map<uint64_t, uc_hook> specials_;  // by address: stops right before a special instruction
  // run_to(): the address, the hook on it while it is armed, whether the instruction there is yet to be
  // executed, and whether arrivals are nothing because a step is under way.
  std::optional<uint64_t> target_;
  uc_hook target_hook_ = 0;
  bool leaving_target_ = false, target_ignored_ = false;
  ArrivalFilter* filter_ = nullptr;
  // set_bounds()
  bool bounded_ = false, leaving_end_ = false;
  uint64_t end_ = 0, code_left_ = 0;
  uc_hook block_hook_ = 0;
  std::unique_ptr<FlowTracker> flow_;  // while control flow is asked for, or a count
  ControlFlow* sink_ = nullptr;        // who asks for control flow
  bool counting_ = false;
  std::optional<uint64_t> goal_;  // run_until(): stops where so many branches have been executed
  BlockLog flow_log_;
  std::set<uint64_t> code_pages_;  // with translated code
  std::vector<Range> changed_code_;
  bool flush_tlb_ = false;

  void add_hooks();
  void add_block_hook();
  void track();
  static void on_syscall(uc_engine* engine, void* self);
  static void on_interrupt(uc_engine* engine, uint32_t number, void* self);
  static bool on_unmapped(uc_engine* engine, uc_mem_type type, uint64_t address, int size, int64_t value,
                          void* self);
  static void on_block(uc_engine* engine, uint64_t address, uint32_t size, void* self);
  static void on_logged_block(uc_engine* engine, uint64_t address, uint32_t size, void* self);
  static void on_new_block(uc_engine* engine, uc_tb* block, uc_tb* previous, void* self);
  static void on_arrival(uc_engine* engine, uint64_t address, uint32_t size, void* self);
  static void on_special(uc_engine* engine, uint64_t address, uint32_t size, void* self);

  void stop(Stop why);
  bool passes_by(uint64_t address);
  void block_starts(uint64_t address, uint32_t size);
  [[gnu::noinline]] void log_limit_reached(uint64_t address, uint32_t size);
  void set_log_limit();
  bool at_goal() const { return goal_ && flow_->counted() >= *goal_; }
  bool leaves_bounds(uint64_t address, uint32_t size);
  void inspect(const uc_tb& block);
  void apply_changes();
  void forget_code(const std::vector<uint64_t>& pages);
  void undo_branch();
  void stop_before(uint64_t block, Stop why);

  // The exit is of kind step where `goal` came first.
  Exit execute(bool single, std::optional<uint64_t> goal = std::nullopt);
  void set_target(std::optional<uint64_t> address);
  // One start of the engine; the exit, if it came to one.
  std::optional<Exit> turn(bool single);
  std::optional<Exit> after_stop(uc_err error, bool single);
  Exit syscall();
  std::optional<Exit> interrupt(bool single);
  std::optional<Exit> page_fault(bool single);
  std::optional<Exit> invalid_instruction();
  void arm_specials();
  std::optional<Exit> special(bool single);
  std::optional<Exit> host_executed(std::span<const uint8_t> code);
  [[noreturn]] void refuse(std::span<const uint8_t> code) const;
  void after_step(uint64_t rip, bool trap_flag);
  void tell_stop(uc_err error, bool undone);
};

}  // namespace aftercheck::soft
