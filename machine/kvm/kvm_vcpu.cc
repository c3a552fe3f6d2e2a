#include "machine/kvm/kvm_vcpu.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/kick_signal.h"
#include "base/log.h"
#include "machine/exit_time.h"
#include "machine/fault_address.h"
#include "machine/flag_instructions.h"
#include "machine/kvm/kvm_machine.h"
#include "machine/memory_accesses.h"

namespace aftercheck::kvm {
namespace {

// Model-specific registers (SDM vol. 4): what SYSCALL does.
constexpr uint32_t kStar = 0xc0000081, kLstar = 0xc0000082, kSyscallMask = 0xc0000084;
// Flags that SYSCALL clears on entry: TF, IF, DF, NT, AC, as Linux.
constexpr uint64_t kClearedFlags = 0x100 | 0x200 | 0x400 | 0x4000 | 0x40000;

}  // namespace

KvmVcpu::KvmVcpu(KvmMachine& machine, KvmMachine::VcpuParts parts, const CpuModel& cpu)
    : machine_(machine), parts_(std::move(parts)), id_(parts_.id), model_(cpu.kind()), fd_(*parts_.fd) {
  prepare_kicks();  // one from another thread has to interrupt KVM_RUN
  fd_.run_area().immediate_exit = 0;
  kvm_sregs sregs = fd_.sregs();
  const CpuidResult features = cpu.cpuid(1, 0);
  const bool xsave = (features.ecx >> 26 & 1) != 0;
  build_vcpu(machine_.monitor(), id_, sregs, xsave);
  fd_.set_sregs(sregs);
  if (xsave) {
    const CpuidResult state = cpu.cpuid(0xd, 0);
    fd_.set_xcr0((state.eax & 0xe7) | 1);  // x87, SSE, AVX, AVX-512
  }
  const std::array<Msr, 3> msrs = {{
      {kStar, uint64_t{0x13} << 48 | uint64_t{kKernelCode} << 32},
      {kLstar, kMonitorBase + layout::kSyscallStub},
      {kSyscallMask, kClearedFlags},
  }};
  fd_.set_msrs(msrs);
  fd_.set_xsave({});  // every component as it is initially
  set_fpu(FpuState::initial());
  fd_.run_area().kvm_valid_regs = KVM_SYNC_X86_REGS;
  fd_.run_area().s.regs.sregs =
      sregs;  // KVM reads it at each entry and never writes it: it is not in kvm_valid_regs
}

KvmVcpu::~KvmVcpu() { machine_.give_back(std::move(parts_)); }

FpuState KvmVcpu::fpu() {
  const kvm_xsave area = fd_.xsave();
  FpuState state = FpuState::of_image(area.region);
  if (model_ != CpuModelKind::v3) return state;
  const auto* bytes = reinterpret_cast<const std::byte*>(area.region);
  uint64_t components = 0;
  std::memcpy(&components, bytes + xsave::kHeader, sizeof components);
  if ((components & xsave::kAvx) != 0)
    std::memcpy(state.upper.data(), bytes + xsave::kUpper, xsave::kUpperSize);
  return state;
}

// Where instructions may choose by them what they access.
std::optional<FpuState> KvmVcpu::vector_registers() {
  if (model_ != CpuModelKind::v3) return std::nullopt;
  return fpu();
}

void KvmVcpu::set_fpu(const FpuState& state) {
  kvm_xsave area = fd_.xsave();
  auto* bytes = reinterpret_cast<std::byte*>(area.region);
  std::memcpy(bytes, state.fxsave.data(), FpuState::kUsed);
  uint64_t components = 0;
  std::memcpy(&components, bytes + xsave::kHeader, sizeof components);
  components |= xsave::kX87 | xsave::kSse;
  if (model_ == CpuModelKind::v3) {
    components |= xsave::kAvx;
    std::memcpy(bytes + xsave::kUpper, state.upper.data(), xsave::kUpperSize);
  }
  std::memcpy(bytes + xsave::kHeader, &components, sizeof components);
  fd_.set_xsave(area);
}

void KvmVcpu::kick() noexcept {
  kicked_.store(true);
  fd_.run_area().immediate_exit = 1;
  const int thread = thread_.load();
  const auto self = static_cast<int>(syscall(SYS_gettid));
  if (thread == 0 || thread == self)
    return;  // in a handler on the vCPU's own thread, the signal itself gets KVM out
  kick_thread(thread);
}

void KvmVcpu::leave_untrapped(bool on) { machine_.watch_written_code(on); }

void KvmVcpu::clear_kick() noexcept { consume_kick(); }

bool KvmVcpu::consume_kick() noexcept {
  fd_.run_area().immediate_exit = 0;
  return kicked_.exchange(false);
}

void KvmVcpu::load_registers(bool single_step) {
  kvm_run& run = fd_.run_area();
  kvm_regs& regs = run.s.regs.regs;
  regs = {registers_.rax, registers_.rbx, registers_.rcx, registers_.rdx, registers_.rsi, registers_.rdi,
          registers_.rsp, registers_.rbp, registers_.r8,  registers_.r9,  registers_.r10, registers_.r11,
          registers_.r12, registers_.r13, registers_.r14, registers_.r15, registers_.rip, 0};
  regs.rflags = (registers_.rflags & rflags::kUser) | rflags::kFixed | (single_step ? rflags::kTrap : 0);
  single_step_ = single_step;
  hidden_trap_flag_ = single_step && (registers_.rflags & rflags::kTrap) == 0 ? rflags::kTrap : 0;
  kvm_sregs& sregs = run.s.regs.sregs;
  sregs.fs.base = registers_.fs_base;
  sregs.gs.base = registers_.gs_base;
  run.kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
}

void KvmVcpu::save_general_registers() {
  const kvm_regs& regs = fd_.run_area().s.regs.regs;
  const uint64_t fs = registers_.fs_base, gs = registers_.gs_base;
  registers_ = {regs.rax, regs.rbx, regs.rcx, regs.rdx,    regs.rsi, regs.rdi, regs.rsp,
                regs.rbp, regs.r8,  regs.r9,  regs.r10,    regs.r11, regs.r12, regs.r13,
                regs.r14, regs.r15, regs.rip, regs.rflags, fs,       gs};
}

bool KvmVcpu::in_monitor() const {
  const uint64_t rip = const_cast<VcpuFd&>(fd_).run_area().s.regs.regs.rip;
  return rip >= kMonitorBase && rip < kMonitorBase + kMonitorSize && (fd_.sregs().cs.selector & 3) == 0;
}

// The tables are as they should be, and so is what this vCPU's TLB has of them: another's update has flushed
// its own only.
void KvmVcpu::see_page_tables() {
  PageTables& tables = machine_.tables();
  const bool flushed = tables.pending() && update_page_tables();
  if (!flushed && tables_ != tables.generation()) run_monitor(layout::kReload, 0);
  tables_ = tables.generation();
}

// True: this vCPU has reloaded CR3.
bool KvmVcpu::update_page_tables() {
  for (bool updated = false;; updated = true) {
    bool rebuild = false;
    const std::vector<TableWrite> writes = machine_.tables().take_writes(&rebuild);
    if (rebuild) {
      machine_.rebuild_tables();
      return false;
    }
    if (writes.empty()) return updated;
    std::memcpy(machine_.monitor() + layout::kUpdateList, writes.data(), writes.size() * sizeof(TableWrite));
    run_monitor(layout::kUpdate, writes.size());
  }
}

// The update routine, from there on.
void KvmVcpu::run_monitor(uint64_t routine, size_t writes) {
  kvm_run& run = fd_.run_area();
  set_ring(run.s.regs.sregs, 0);
  run.s.regs.regs = {};
  run.s.regs.regs.rip = kMonitorBase + routine;
  run.s.regs.regs.rsi = kMonitorBase + layout::kUpdateList;
  run.s.regs.regs.rcx = writes;
  run.s.regs.regs.rflags = 2;
  run.kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
  int error = 0;
  do {
    run.immediate_exit = 0;  // a kick waits until the guest itself would run; kicked_ remembers it
    error = fd_.run();
  } while (error == EINTR);
  set_ring(run.s.regs.sregs, 3);
  if (error != 0 || run.exit_reason != KVM_EXIT_IO || run.io.port != kUpdatePort)
    fail(ErrorKind::host_lacks, "KVM did not run the page-table update: {}, exit reason {}, RIP {:#x}",
         error != 0 ? errno_text(error) : "no error", run.exit_reason, run.s.regs.regs.rip);
}

Exit KvmVcpu::run() { return enter(false); }

// Single-stepping is done with the trap flag, which the guest must not see.
Exit KvmVcpu::step() {
  const uint64_t rip = registers_.rip;
  std::array<uint8_t, 15> code{};
  size_t size = 0;
  while (size < code.size() && machine_.space().read(rip + size, &code[size], 1)) ++size;
  const FlagUse use = flag_use({code.data(), size});
  Exit exit = enter(true);
  while (exit.kind == ExitKind::step && registers_.rip == rip && is_gather({code.data(), size}))
    exit = enter(true);  // it goes on, or faults
  if (exit.kind != ExitKind::step || hidden_trap_flag_ == 0) return exit;
  if (use == FlagUse::loads && flags_at_exit_ & rflags::kTrap) registers_.rflags |= rflags::kTrap;
  uint16_t flags = 0;
  if (use == FlagUse::stores && machine_.space().read(registers_.rsp, &flags, sizeof flags)) {
    flags = static_cast<uint16_t>(flags & ~rflags::kTrap);
    machine_.space().write(registers_.rsp, &flags, sizeof flags);
  }
  return exit;
}

Exit KvmVcpu::enter(bool single_step) {
  if (kicked_.load() && consume_kick()) return Exit{};
  machine_.tables().set_live();
  see_page_tables();
  if (kicked_.load() && consume_kick()) return Exit{};
  thread_.store(static_cast<int>(syscall(SYS_gettid)));
  Exit exit;
  for (;;) {
    load_registers(single_step);
    while (!take_exit(run_guest(), exit)) {
    }
    if (exit.kind != ExitKind::memory_fault || !only_ours(exit)) break;
    see_page_tables();
    if (kicked_.load() && consume_kick()) {
      exit = Exit{};
      break;
    }
  }
  thread_.store(0);
  settle_fault(machine_.space(), exit, registers_);
  return exit;
}

bool KvmVcpu::only_ours(Exit& exit) {
  if (machine_.space().bring_in(exit.address)) return true;
  const WrittenCode::Verdict verdict = machine_.judge(exit.address, exit.access, registers_.rip);
  if (verdict == WrittenCode::Verdict::untrapped) exit = Exit{.kind = ExitKind::untrapped};
  return verdict == WrittenCode::Verdict::changed;
}

// One KVM_RUN, of which some are timed.
int KvmVcpu::run_guest() {
  constexpr unsigned kTimed = 16;  // one in so many
  if (runs_++ % kTimed != 0) return fd_.run();
  const auto start = std::chrono::steady_clock::now();
  const int error = fd_.run();
  // Where it was interrupted it may not even have begun.
  if (error == 0)
    note_exit_seconds(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return error;
}

bool KvmVcpu::take_exit(int error, Exit& exit) {
  kvm_run& run = fd_.run_area();
  if (error == EINTR) {
    // In a stub the guest is already on its way out: let it arrive, the kick is answered by the next run().
    run.immediate_exit = 0;
    if (!kicked_.load() || in_monitor()) return false;
    consume_kick();
    save_general_registers();
    registers_.rflags &= ~hidden_trap_flag_;
    exit = Exit{};
    return true;
  }
  if (error == EAGAIN) return false;
  save_general_registers();
  if (error == EFAULT) {
    registers_.rflags &= ~(hidden_trap_flag_ | rflags::kResume);
    exit = memory_fault_exit();
    AFTERCHECK_LOG_TO(LogTopic::kvm, "EFAULT at {:#x} is {}", registers_.rip, describe(exit));
    return true;
  }
  if (error != 0)
    fail(ErrorKind::host_lacks, "KVM_RUN failed at {:#x}: {}", registers_.rip, errno_text(error));
  if (run.exit_reason != KVM_EXIT_IO)
    fail(ErrorKind::host_lacks, "KVM stopped the guest at {:#x} with exit reason {} (suberror {})",
         registers_.rip, run.exit_reason,
         run.exit_reason == KVM_EXIT_INTERNAL_ERROR ? run.internal.suberror : 0);
  if (run.io.port == kSyscallPort && run.io.size == 4 && in_syscall_stub())
    exit = syscall_exit();
  else if (run.io.port >= kSyscallPort && run.io.port < kSyscallPort + kPortsAllowed)
    exit = port_access_exit();
  else
    exit = exception_exit(run.io.port);
  return true;
}

Exit KvmVcpu::syscall_exit() {
  registers_.rip = registers_.rcx;
  registers_.rflags = registers_.r11 & ~(hidden_trap_flag_ | rflags::kResume);
  registers_.r11 = canonical_r11(registers_.rflags);
  return Exit{.kind = ExitKind::syscall};
}

// The guest itself has used the stub's port or those beside it, which its rights allow on every host because
// one needs it. To the guest they are what every port is.
Exit KvmVcpu::port_access_exit() {
  registers_.rflags &= ~(hidden_trap_flag_ | rflags::kResume);
  kvm_run& run = fd_.run_area();
  const auto access_at = [&](uint64_t rip) {
    std::array<uint8_t, kLongestInstruction> buffer{};
    auto access = port_access(code_at(machine_.space(), rip, buffer));
    if (access && (access->size != run.io.size || access->out != (run.io.direction == KVM_EXIT_IO_OUT)))
      access.reset();
    return access;
  };
  // KVM reports the access with RIP on the instruction, or past it where it emulates; so bytes before it that
  // could be prefixes are taken for some.
  std::optional<PortAccess> access = access_at(registers_.rip);
  for (uint64_t back = kLongestInstruction; !access && back != 0; --back) {
    access = access_at(registers_.rip - back);
    if (access && access->length != back) access.reset();
    if (access) registers_.rip -= back;
  }
  if (access && access->string) access->out ? take_back_output(*access) : give_back_input(*access);
  // An IN is completed when KVM is run next: now, lest it be taken for done when it is tried again.
  run.immediate_exit = 1;
  static_cast<void>(fd_.run());
  run.immediate_exit = kicked_.load() ? 1 : 0;
  return Exit{.kind = ExitKind::exception, .vector = vector::kGeneralProtection};
}

// INS is going to store what it gets, in some turns at once: what is there already.
void KvmVcpu::give_back_input(const PortAccess& access) {
  const kvm_run& run = fd_.run_area();
  auto* to = reinterpret_cast<std::byte*>(&fd_.run_area()) + run.io.data_offset;
  const bool down = (registers_.rflags & rflags::kDirection) != 0;
  for (uint64_t turn = 0; turn < run.io.count; ++turn) {
    const uint64_t address = registers_.rdi + (down ? -turn : turn) * access.size;
    machine_.space().read(access.wide ? address : static_cast<uint32_t>(address), to + turn * access.size,
                          access.size);
  }
}

// One turn of OUTS, which KVM has taken already. With 32-bit addresses the upper halves are lost.
void KvmVcpu::take_back_output(const PortAccess& access) {
  const auto change = [&access](uint64_t& value, uint64_t by) {
    value = access.wide ? value + by : static_cast<uint32_t>(value + by);
  };
  change(registers_.rsi, (registers_.rflags & rflags::kDirection) != 0 ? access.size : -access.size);
  if (access.repeated) change(registers_.rcx, 1);
}

bool KvmVcpu::in_syscall_stub() const {
  const uint64_t stub = kMonitorBase + layout::kSyscallStub;
  return registers_.rip >= stub && registers_.rip < stub + kPageSize;
}

Exit KvmVcpu::exception_exit(unsigned number) {
  uint32_t error_code = 0;
  const ExceptionFrame frame = exception_frame(machine_.monitor(), id_, number, error_code);
  if ((frame.cs & 3) != 3)
    fail(ErrorKind::host_lacks, "exception {} (error code {:#x}) inside the monitor at {:#x}", number,
         error_code, frame.rip);
  registers_.rip = frame.rip;
  registers_.rsp = frame.rsp;
  flags_at_exit_ = frame.rflags;
  registers_.rflags = frame.rflags & ~(hidden_trap_flag_ | rflags::kResume);

  if (number == vector::kPageFault) return classify_page_fault(error_code);
  if (number == vector::kDebug && single_step_) return Exit{.kind = ExitKind::step};
  if (number == vector::kBreakpoint) {
    --registers_.rip;
    return Exit{.kind = ExitKind::breakpoint};
  }
  std::array<uint8_t, kLongestInstruction> buffer{};
  const std::span<const uint8_t> code = code_at(machine_.space(), registers_.rip, buffer);
  if (number == vector::kInvalidOpcode)
    if (const CodePatch* patch = machine_.space().patch_at(registers_.rip);
        patch != nullptr && code.size() >= 2 && code[0] == kTrapBytes[0] && code[1] == kTrapBytes[1])
      return Exit{.kind = ExitKind::trapped_instruction, .instruction = patch->instruction};
  if (number == vector::kGeneralProtection)  // CR4.TSD
    if (const auto trapped = decode_trapped(code);
        trapped && (trapped->kind == TrappedKind::rdtsc || trapped->kind == TrappedKind::rdtscp))
      return Exit{.kind = ExitKind::trapped_instruction, .instruction = *trapped};
  // kvm_pvm reports INT n, and what is wrong with an operand or its address, as #UD; and what the error code
  // says is the host's business.
  const std::optional<FpuState> vectors =
      number == vector::kInvalidOpcode ? vector_registers() : std::nullopt;
  if (number == vector::kGeneralProtection || number == vector::kStackFault ||
      (number == vector::kInvalidOpcode && protection_fault(code, registers_, vectors ? &*vectors : nullptr)))
    return Exit{.kind = ExitKind::exception, .vector = vector::kGeneralProtection};
  return Exit{.kind = ExitKind::exception, .vector = static_cast<uint8_t>(number), .error_code = error_code};
}

Exit KvmVcpu::classify_page_fault(uint32_t error_code) {
  // Error code bits (SDM vol. 3, figure 4-12): 1 write, 4 instruction fetch.
  const Access access = (error_code & 0x10) != 0 ? Access::fetch
                        : (error_code & 2) != 0  ? Access::write
                                                 : Access::read;
  const uint64_t address = fd_.sregs().cr2;
  if (!is_canonical(address)) return Exit{.kind = ExitKind::exception, .vector = vector::kGeneralProtection};
  return Exit{.kind = ExitKind::memory_fault,
              .address = lowest_fault(
                  machine_.space(), registers_, [this] { return vector_registers(); }, address, access),
              .access = access};
}

Exit KvmVcpu::memory_fault_exit() {
  const std::optional<FpuState> vectors = vector_registers();
  const auto fault = find_faulting_access(machine_.space(), registers_, vectors ? &*vectors : nullptr);
  std::array<uint8_t, kLongestInstruction> buffer{};
  if (!fault && is_xsave_or_hypercall(code_at(machine_.space(), registers_.rip, buffer)))
    return Exit{.kind = ExitKind::exception, .vector = vector::kInvalidOpcode};
  if (!fault)
    fail(ErrorKind::host_lacks,
         "KVM can't access the guest's memory for the instruction at {:#x}, and no access of it is "
         "forbidden; out of memory?",
         registers_.rip);
  return Exit{.kind = ExitKind::memory_fault, .address = fault->address, .access = fault->access};
}

}  // namespace aftercheck::kvm
