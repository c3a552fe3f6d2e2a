#include "machine/soft/soft_vcpu.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "machine/fault_address.h"
#include "machine/flag_instructions.h"
#include "machine/soft/fault_analysis.h"
#include "machine/soft/fpu_transfer.h"
#include "machine/soft/host_executed.h"
#include "machine/soft/soft_machine.h"
#include "machine/soft/sse_arithmetic.h"
#include "machine/soft/unicorn_stores.h"
#include "machine/trapped_answer.h"
#include "x86/decode.h"

namespace aftercheck::soft {
namespace {

// RF too, which SIGRETURN restores.
constexpr uint64_t kUserFlags = rflags::kUser | rflags::kResume;

Exit exception(uint8_t number) {
  Exit exit;
  exit.kind = ExitKind::exception;
  exit.vector = number;
  return exit;
}

Exit memory_fault(const Fault& fault) {
  Exit exit;
  exit.kind = ExitKind::memory_fault;
  exit.address = fault.address;
  exit.access = fault.access;
  return exit;
}

Exit plain(ExitKind kind) {
  Exit exit;
  exit.kind = kind;
  return exit;
}

Exit trapped(const TrappedInstruction& instruction) {
  Exit exit;
  exit.kind = ExitKind::trapped_instruction;
  exit.instruction = instruction;
  return exit;
}

// Within a hook the engine's RIP is that of the block.
class HookState final : public ArrivalFilter::State {
 public:
  HookState(const UnicornEngine& engine, uint64_t rip) : engine_(engine), rip_(rip) {}
  uint64_t word(size_t number) const override { return number == kRip ? rip_ : engine_.word(number); }
  std::array<uint64_t, 2> xmm(size_t number) const override { return engine_.xmm(number); }
  FpuState fpu() const override { return read_fpu(engine_.get()); }

 private:
  static constexpr size_t kRip = register_number(&Registers::rip);

  const UnicornEngine& engine_;
  const uint64_t rip_;
};

template <typename Function>
void* callback(Function* function) {
  return reinterpret_cast<void*>(function);
}

}  // namespace

SoftVcpu::SoftVcpu(SoftMachine& machine)
    : machine_(machine), engine_(machine.tables()), guard_(machine.tables(), machine.cpu().kind()) {
  add_hooks();
}

SoftVcpu::~SoftVcpu() { machine_.forget(this); }

// --- what Unicorn calls; in none of them may an exception escape into it ---

void SoftVcpu::add_hooks() {
  uc_engine* engine = engine_.get();
  const auto add = [&](int type, void* function, auto... extra) {
    uc_hook hook = 0;
    check(uc_hook_add(engine, &hook, type, function, this, 1, 0, extra...), "uc_hook_add");
  };
  add(UC_HOOK_INSN, callback(on_syscall), UC_X86_INS_SYSCALL);
  add(UC_HOOK_INTR, callback(on_interrupt));
  add(UC_HOOK_MEM_UNMAPPED, callback(on_unmapped));
  add(UC_HOOK_EDGE_GENERATED, callback(on_new_block));
  add_block_hook();
}

// One callback or the other: the engine calls it at each block, and with one alone it does so directly.
void SoftVcpu::add_block_hook() {
  uc_engine* engine = engine_.get();
  if (block_hook_ != 0) engine_.remove_hook(block_hook_);
  check(uc_hook_add(engine, &block_hook_, UC_HOOK_BLOCK, callback(flow_ ? on_logged_block : on_block), this,
                    1, 0),
        "uc_hook_add");
  for (const uint64_t page : code_pages_) changed_code_.push_back({page, page + kPageSize});
}

void SoftVcpu::stop(Stop why) {
  if (stop_ != Stop::none) return;  // the first reason is the one that happened
  stop_ = why;
  uc_emu_stop(engine_.get());
}

// RIP is where the engine last stored it, which it does not do between blocks that follow each other
// directly, and when it leaves a block that it has not begun it makes up for that only where there are no
// code hooks (cpu_tb_exec() in the library's qemu/accel/tcg/cpu-exec.c).
void SoftVcpu::stop_before(uint64_t block, Stop why) {
  if (stop_ != Stop::none) return;
  stopped_before_ = block;
  stop(why);
}

void SoftVcpu::on_syscall(uc_engine*, void* self) { static_cast<SoftVcpu*>(self)->stop(Stop::syscall); }

void SoftVcpu::on_interrupt(uc_engine*, uint32_t number, void* self) {
  auto* vcpu = static_cast<SoftVcpu*>(self);
  if (vcpu->stop_ == Stop::none) vcpu->interrupt_ = number;
  vcpu->stop(Stop::interrupt);
}

bool SoftVcpu::on_unmapped(uc_engine*, uc_mem_type, uint64_t address, int, int64_t, void* self) {
  return static_cast<SoftVcpu*>(self)->engine_.add_hole(address);
}

void SoftVcpu::on_block(uc_engine*, uint64_t address, uint32_t size, void* self) {
  auto* vcpu = static_cast<SoftVcpu*>(self);
  vcpu->last_block_ = address;
  vcpu->last_size_ = size;
  if (vcpu->bounded_ | vcpu->kicked_.load(std::memory_order_relaxed)) [[unlikely]]
    vcpu->block_starts(address, size);
}

void SoftVcpu::on_logged_block(uc_engine*, uint64_t address, uint32_t size, void* self) {
  auto* vcpu = static_cast<SoftVcpu*>(self);
  vcpu->last_block_ = address;
  vcpu->last_size_ = size;
  if (!vcpu->flow_log_.add(address, size)) [[unlikely]]
    vcpu->log_limit_reached(address, size);
}

void SoftVcpu::log_limit_reached(uint64_t address, uint32_t size) {
  if (goal_ || flow_log_.at >= flow_->log_end()) flow_->read_log();
  set_log_limit();
  block_starts(address, size);
}

// A kick that comes in between is seen when the log is full, soon.
void SoftVcpu::set_log_limit() {
  BlockLog::Block* const end = goal_ ? flow_->log_end_for(*goal_) : flow_->log_end();
  flow_log_.limit.store(bounded_ || kicked_ ? nullptr : end, std::memory_order_relaxed);
}

void SoftVcpu::block_starts(uint64_t address, uint32_t size) {
  if (bounded_ && leaves_bounds(address, size)) return;
  if (at_goal()) return stop_before(address, Stop::goal);
  if (!kicked_) return;
  // Each iteration of a repeated string instruction is a block event; its end is near enough.
  if (is_repeated_string(code_at(address, machine_.tables()))) return;
  stop_before(address, Stop::kick);
}

bool SoftVcpu::leaves_bounds(uint64_t address, uint32_t size) {
  if (stop_ != Stop::none) return true;  // comes again
  if (address == end_ && !std::exchange(leaving_end_, false)) {
    stop_before(address, Stop::arrival);
    return true;
  }
  if (code_left_ <= size) {
    code_left_ = 0;
    stop_before(address, Stop::used_up);
    return true;
  }
  code_left_ -= size;
  return false;
}

void SoftVcpu::on_new_block(uc_engine*, uc_tb* block, uc_tb*, void* self) {
  static_cast<SoftVcpu*>(self)->inspect(*block);
}

void SoftVcpu::on_arrival(uc_engine*, uint64_t address, uint32_t, void* self) {
  auto* vcpu = static_cast<SoftVcpu*>(self);
  if (vcpu->target_ignored_ || std::exchange(vcpu->leaving_target_, false)) return;
  if (vcpu->filter_ == nullptr || !vcpu->passes_by(address)) vcpu->stop(Stop::arrival);
}

bool SoftVcpu::passes_by(uint64_t address) {
  if (stop_ != Stop::none) return false;
  return filter_->passes_by(HookState(engine_, address));
}

void SoftVcpu::on_special(uc_engine*, uint64_t, uint32_t, void* self) {
  static_cast<SoftVcpu*>(self)->stop(Stop::special);
}

// Called once per translation, before the block first runs.
void SoftVcpu::inspect(const uc_tb& block) {
  if (flow_) {
    flow_->translated(block.pc, block.size);
    set_log_limit();
  }
  const uint64_t end = block.pc + std::max<uint64_t>(block.size, 1);
  code_pages_.insert(page_down(block.pc));
  code_pages_.insert(page_down(end - 1));
  for (const auto& [address, verdict] : guard_.block()) {
    // An incomplete instruction runs into a page that may not be executed.
    if ((verdict.treatment != Treatment::run || !verdict.complete) && !specials_.contains(address))
      found_.push_back(address);
  }
  if (found_.empty()) return;
  block_ = block.pc;
  stop(Stop::new_block);
}

// --- changes from outside ---

void SoftVcpu::mapping_changed(Range range) {
  flush_tlb_ = true;
  code_changed(range);
}

void SoftVcpu::code_changed(Range range) {
  const Range pages{page_down(range.start), page_up(range.end)};
  const auto first = code_pages_.lower_bound(pages.start);
  if (first != code_pages_.end() && *first < pages.end) changed_code_.push_back(pages);
}

void SoftVcpu::apply_changes() {
  const std::vector<Range>& chunks = machine_.chunks();
  for (; chunks_added_ < chunks.size(); ++chunks_added_) {
    const Range& chunk = chunks[chunks_added_];
    AFTERCHECK_LOG_TO(LogTopic::soft, "memory {:#x} to {:#x} shown to Unicorn", chunk.start, chunk.end);
    engine_.add_memory(chunk);
  }
  if (!changed_code_.empty()) {
    std::vector<uint64_t> pages;
    for (const Range& range : changed_code_) {
      const auto first = code_pages_.lower_bound(range.start), last = code_pages_.lower_bound(range.end);
      pages.insert(pages.end(), first, last);
      code_pages_.erase(first, last);
    }
    changed_code_.clear();
    forget_code(pages);
    flush_tlb_ = false;
  }
  if (flush_tlb_) engine_.flush_tlb();
  flush_tlb_ = false;
}

// And what is special in it.
void SoftVcpu::forget_code(const std::vector<uint64_t>& pages) {
  std::vector<uc_hook> hooks;
  if (!specials_.empty()) {
    const std::unordered_set<uint64_t> gone(pages.begin(), pages.end());
    std::erase_if(specials_, [&](const auto& special) {
      const bool goes = gone.contains(page_down(special.first));
      if (goes) hooks.push_back(special.second);
      return goes;
    });
  }
  engine_.forget_code(pages, hooks);
}

// --- running ---

FpuState SoftVcpu::fpu() {
  FpuState state = read_fpu(engine_.get());
  tell_last_x87(guard_.last_x87(), state);
  return state;
}

void SoftVcpu::set_fpu(const FpuState& state) {
  write_fpu(engine_.get(), state);
  guard_.last_x87() = last_x87(state);
}

Exit SoftVcpu::run() {
  set_target(std::nullopt);
  leaving_end_ = registers_.rip == end_;
  return execute(false);
}

void SoftVcpu::set_bounds(uint64_t end, uint64_t code_bytes) {
  bounded_ = true;
  flow_log_.limit.store(nullptr, std::memory_order_relaxed);
  end_ = end;
  code_left_ = code_bytes;
}

Exit SoftVcpu::step() {
  target_ignored_ = true;
  return execute(true);
}

Exit SoftVcpu::run_to(uint64_t address, ArrivalFilter* filter) {
  set_target(address);
  target_ignored_ = false;
  filter_ = filter;
  leaving_target_ = registers_.rip == address;
  return execute(false);
}

// The hook stays while the same address is asked for: adding and removing it costs a translation.
void SoftVcpu::set_target(std::optional<uint64_t> address) {
  if (target_ == address) return;
  if (target_) engine_.forget_code({page_down(*target_)}, {target_hook_});
  target_ = address;
  if (!target_) return;
  check(
      uc_hook_add(engine_.get(), &target_hook_, UC_HOOK_CODE, callback(on_arrival), this, *target_, *target_),
      "uc_hook_add");
  engine_.forget_code({page_down(*target_)});
}

// --- counting ---

bool SoftVcpu::count_branches(bool wanted) {
  if (wanted == counting_) return counting_;
  counting_ = wanted;
  if (sink_ == nullptr) track();
  if (counting_) reset_branches();
  return counting_;
}

void SoftVcpu::reset_branches() {
  if (!counting_) return Vcpu::reset_branches();
  flow_->set_counted(0);
}

// At full speed up to the last branch; from there on instruction by instruction, since other branches are no
// way to it any more.
Exit SoftVcpu::run_until(uint64_t branches, uint64_t rip) {
  if (!counting_) return Vcpu::run_until(branches, rip);
  set_target(std::nullopt);
  target_ignored_ = true;
  for (;;) {
    if (kicked_.exchange(false) || this->branches() > branches) return plain(ExitKind::kick);
    const bool traps = (registers_.rflags & rflags::kTrap) != 0, near = this->branches() == branches;
    // The guest's own steps end by themselves.
    const Exit exit = near ? execute(!traps) : execute(false, branches);
    const bool there = this->branches() == branches && registers_.rip == rip;
    // The last branch may lead to where nothing can be fetched.
    const bool led_there = there && !near && exit.kind == ExitKind::memory_fault;
    if (exit.kind != ExitKind::step && !led_there) return exit;
    if (there) return plain(ExitKind::breakpoint);
  }
}

// --- the engine's turns ---

Exit SoftVcpu::execute(bool single, std::optional<uint64_t> goal) {
  goal_ = goal;
  machine_.take_turn(*this);
  const FastStores fast_stores(machine_.tables());
  const TranslationGuard::Scope guarded(guard_);
  if (!single && kicked_.exchange(false)) return plain(ExitKind::kick);
  for (;;) {
    apply_changes();
    const std::optional<Exit> exit = turn(single);
    if (!exit && at_goal()) return plain(ExitKind::step);
    if (!exit) continue;
    if (exit->kind != ExitKind::memory_fault || !machine_.bring_in(exit->address)) {
      settle_fault(machine_.space(), *exit, registers_);
      return *exit;
    }
    // The same instruction again: it has been arrived at.
    leaving_target_ = target_ == registers_.rip;
    leaving_end_ = registers_.rip == end_;
  }
}

std::optional<Exit> SoftVcpu::turn(bool single) {
  registers_.rflags = (registers_.rflags & kUserFlags) | rflags::kFixed;
  const uint64_t rip = registers_.rip;
  const bool trap_flag = (registers_.rflags & rflags::kTrap) != 0;
  if (single) registers_.rflags |= rflags::kTrap;
  engine_.load(registers_);
  stop_ = Stop::none;
  stopped_before_.reset();
  last_size_ = 0;
  forget_sse_flags();
  if (goal_) set_log_limit();
  const uc_err error = uc_emu_start(engine_.get(), rip, 0, 0, 0);
  engine_.store(registers_);
  if (stopped_before_ && error == UC_ERR_OK) registers_.rip = *stopped_before_;
  const bool nowhere = !is_canonical(registers_.rip);
  if (nowhere) undo_branch();
  if (flow_) tell_stop(error, nowhere);
  engine_.remove_holes();
  if (single) after_step(rip, trap_flag);
  if (!nowhere) return after_stop(error, single);
  engine_.forget_exception();
  return exception(vector::kGeneralProtection);
}

// A near branch to a non-canonical address faults before it has done anything (SDM vol. 2, CALL, JMP, RET).
// Unicorn has jumped when it faults; what CALL has overwritten below the stack is lost.
void SoftVcpu::undo_branch() {
  uint64_t at = last_block_;
  ZydisDecodedInstruction instruction{};
  for (const uint64_t end = last_block_ + last_size_; at < end; at += instruction.length) {
    if (!x86::decode(code_at(at, machine_.tables()), instruction)) return;
    if (at + instruction.length >= end) break;
  }
  if (instruction.meta.branch_type != ZYDIS_BRANCH_TYPE_NEAR) return;
  constexpr uint64_t kPointer = 8;
  if (instruction.mnemonic == ZYDIS_MNEMONIC_CALL) registers_.rsp += kPointer;
  if (instruction.mnemonic == ZYDIS_MNEMONIC_RET) registers_.rsp -= kPointer + instruction.raw.imm[0].value.u;
  registers_.rip = at;
}

// Single-stepping is done with the trap flag, which the guest must not see.
void SoftVcpu::after_step(uint64_t rip, bool trap_flag) {
  const bool done = stop_ == Stop::interrupt && interrupt_ == vector::kDebug;
  const FlagUse use = flag_use(code_at(rip, machine_.tables()));
  if (done && use == FlagUse::loads) return;  // what is there now is the guest's
  if (trap_flag) return;
  registers_.rflags &= ~rflags::kTrap;
  if (done && use == FlagUse::stores) {
    auto* flags = reinterpret_cast<uint16_t*>(registers_.rsp);
    *flags = static_cast<uint16_t>(*flags & ~rflags::kTrap);
  }
}

bool SoftVcpu::set_control_flow(ControlFlow* flow) {
  sink_ = flow;
  track();
  return true;
}

// For whoever asks now.
void SoftVcpu::track() {
  const uint64_t counted = flow_ ? flow_->counted() : 0;
  flow_.reset();
  goal_.reset();
  if (sink_ != nullptr || counting_) {
    flow_ = std::make_unique<FlowTracker>(sink_, engine_.get(), machine_.tables(), flow_log_);
    flow_->set_counted(counted);
    set_log_limit();
  }
  add_block_hook();
}

// `undone`: RIP is at the branch that has been undone.
void SoftVcpu::tell_stop(uc_err error, bool undone) {
  using How = FlowTracker::Stop;
  How how = How::inside;
  uint64_t rip = registers_.rip;
  if (error == UC_ERR_OK && stop_ == Stop::syscall) how = How::system_call;
  if (error == UC_ERR_OK && stop_ == Stop::new_block) how = How::untranslated;
  if (error == UC_ERR_OK && stop_ == Stop::interrupt && !undone) {
    if (interrupt_ == vector::kDebug) how = How::completed;
    if (interrupt_ == vector::kBreakpoint) --rip;  // it counts as not executed
  }
  flow_->stop(rip, how);
}

std::optional<Exit> SoftVcpu::after_stop(uc_err error, bool single) {
  if (error == UC_ERR_INSN_INVALID) return invalid_instruction();
  if (error != UC_ERR_OK)
    fail(ErrorKind::internal, "the soft vCPU stopped at {:#x}: {}", registers_.rip, uc_strerror(error));
  switch (stop_) {
    case Stop::syscall:
      return syscall();
    case Stop::interrupt:
      return interrupt(single);
    case Stop::kick:
      // clear_kick() may have come in between, and then nobody wants this exit.
      if (kicked_.exchange(false)) return plain(ExitKind::kick);
      return std::nullopt;
    case Stop::special:
      return special(single);
    case Stop::new_block:
      arm_specials();
      return std::nullopt;
    case Stop::arrival:
      return plain(ExitKind::breakpoint);
    case Stop::used_up:
      return plain(ExitKind::kick);
    case Stop::goal:
      return std::nullopt;  // execute() sees that it is reached
    case Stop::none:
      break;
  }
  fail(ErrorKind::internal, "the soft vCPU stopped at {:#x} without a reason", registers_.rip);
}

Exit SoftVcpu::syscall() {
  registers_.rcx = registers_.rip;
  registers_.r11 = canonical_r11(registers_.rflags);
  return plain(ExitKind::syscall);
}

std::optional<Exit> SoftVcpu::interrupt(bool single) {
  switch (interrupt_) {
    case vector::kDebug:
      return single ? plain(ExitKind::step) : exception(vector::kDebug);
    case vector::kBreakpoint:
      --registers_.rip;
      return plain(ExitKind::breakpoint);
    case vector::kPageFault:
      return page_fault(single);
    default:
      engine_.forget_exception();
      return exception(static_cast<uint8_t>(interrupt_));
  }
}

std::optional<Exit> SoftVcpu::page_fault(bool single) {
  const uint64_t reported = engine_.fault_address();
  engine_.forget_exception();
  if (const auto fault = find_fault(registers_, machine_.tables())) return memory_fault(*fault);
  // The instruction at RIP is innocent: Unicorn faulted while it translated ahead into a page that isn't
  // there. Nothing of the block ran, so go on one instruction at a time.
  if (!single) {
    if (at_goal()) return std::nullopt;
    const std::optional<Exit> exit = turn(true);
    if (exit && exit->kind == ExitKind::step) return std::nullopt;
    return exit;
  }
  return memory_fault({reported, Access::read});
}

std::optional<Exit> SoftVcpu::invalid_instruction() {
  if (const CodePatch* patch = machine_.space().patch_at(registers_.rip)) return trapped(patch->instruction);
  return exception(vector::kInvalidOpcode);
}

// --- special instructions ---

void SoftVcpu::arm_specials() {
  for (const uint64_t address : found_) {
    uc_hook hook = 0;
    check(uc_hook_add(engine_.get(), &hook, UC_HOOK_CODE, callback(on_special), this, address, address),
          "uc_hook_add");
    specials_.emplace(address, hook);
  }
  found_.clear();
  // The block was translated without them.
  engine_.forget_code({page_down(block_)});
}

std::optional<Exit> SoftVcpu::special(bool single) {
  const std::span<const uint8_t> code = code_at(registers_.rip, machine_.tables());
  if (code.empty()) return memory_fault({registers_.rip, Access::fetch});
  const Verdict verdict = judge(code, machine_.cpu().kind());
  if (!verdict.complete) return memory_fault({registers_.rip + code.size(), Access::fetch});
  switch (verdict.treatment) {
    case Treatment::run: {  // the guest has written other code here since
      const uint64_t page = page_down(registers_.rip);
      forget_code({page});
      return std::nullopt;
    }
    case Treatment::trapped:
      if (const auto instruction = decode_trapped(code)) return trapped(*instruction);
      refuse(code);
    case Treatment::cpuid:
      answer_cpuid(machine_.cpu(), registers_);
      if (flow_) flow_->executed_by_host(registers_.rip, registers_.rip + verdict.length);
      registers_.rip += verdict.length;
      break;
    case Treatment::invalid_opcode:
      return exception(vector::kInvalidOpcode);
    case Treatment::general_protection:
      return exception(vector::kGeneralProtection);
    case Treatment::debug:
      registers_.rip += verdict.length;  // a trap, not a fault (SDM vol. 3, table 6-1)
      return exception(vector::kDebug);
    case Treatment::breakpoint:
      registers_.rip += verdict.length - 1U;  // as if it were the one-byte INT3 that ends there
      return plain(ExitKind::breakpoint);
    case Treatment::host_executed:
      if (const auto exit = host_executed(code)) return exit;
      if (flow_) flow_->executed_by_host(registers_.rip - verdict.length, registers_.rip);
      break;
    case Treatment::unsupported:
      refuse(code);
  }
  return single ? std::optional(plain(ExitKind::step)) : std::nullopt;
}

std::optional<Exit> SoftVcpu::host_executed(std::span<const uint8_t> code) {
  if (const auto fault = find_fault(registers_, machine_.tables()))
    return is_canonical(fault->address) ? memory_fault(*fault) : exception(vector::kGeneralProtection);
  FpuState state = fpu();
  if (const auto raised = execute_on_host(code, registers_, state)) return exception(*raised);
  set_fpu(state);
  return std::nullopt;
}

void SoftVcpu::refuse(std::span<const uint8_t> code) const {
  const CpuModelKind model = machine_.cpu().kind();
  // With v3 it runs checks alone, whatever the machine is.
  const char* const way_out = model == CpuModelKind::portable ? "use --machine kvm"
                              : model == CpuModelKind::host
                                  ? "use --machine kvm or record with --cpu portable"
                                  : "it runs all checks; record with --cpu portable";
  fail(ErrorKind::unsupported, "the soft vCPU can't execute `{}` at {:#x} (CPU model {}); {}",
       x86::disassemble(code, registers_.rip), registers_.rip, name(model), way_out);
}

}  // namespace aftercheck::soft
