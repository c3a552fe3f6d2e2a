// Frames, faults and restarts: arch/x86/kernel/signal.c, traps.c and the x86 half of get_signal().
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/guarded_copy.h"
#include "base/log.h"
#include "kvm-recorder/guest_task.h"
#include "kvm-recorder/memory_limits.h"
#include "kvm-recorder/system_call.h"
#include "kvm-recorder/thread_signals.h"
#include "machine/memory_accesses.h"

namespace aftercheck {
namespace {

constexpr uint64_t kRedZone = 128;  // System V ABI, AMD64 supplement, 3.2.2
constexpr size_t kFxsaveSize = 512;
constexpr uint64_t kSyscallLength = 2;
// arch/x86/kernel/signal.c, FIX_EFLAGS: what rt_sigreturn may change.
constexpr uint64_t kRestoredFlags =
    rflags::kAlignmentCheck | rflags::kStatus | rflags::kDirection | rflags::kTrap | rflags::kResume;
// SDM vol. 1, 10.2.3: bits 16-31 of MXCSR are reserved; FXRSTOR faults on them.
constexpr size_t kMxcsrOffset = 24;
constexpr uint32_t kMxcsrBits = 0xffff;
constexpr size_t kFxsaveReserved = 416;  // from here on FXRSTOR ignores the bytes

struct GeneralRegister {
  uint64_t KernelSigcontext::*in_frame;
  uint64_t Registers::*in_cpu;
};
using F = KernelSigcontext;
using R = Registers;
constexpr GeneralRegister kRegisters[] = {
    {&F::r8, &R::r8},   {&F::r9, &R::r9},   {&F::r10, &R::r10}, {&F::r11, &R::r11}, {&F::r12, &R::r12},
    {&F::r13, &R::r13}, {&F::r14, &R::r14}, {&F::r15, &R::r15}, {&F::rdi, &R::rdi}, {&F::rsi, &R::rsi},
    {&F::rbp, &R::rbp}, {&F::rbx, &R::rbx}, {&F::rdx, &R::rdx}, {&F::rax, &R::rax}, {&F::rcx, &R::rcx},
    {&F::rsp, &R::rsp}, {&F::rip, &R::rip},
};

siginfo_t make_info(int signal, int code, uint64_t address = 0) {
  siginfo_t info{};
  info.si_signo = signal;
  info.si_code = code;
  info.si_addr = reinterpret_cast<void*>(address);
  return info;
}

// arch/x86/kernel/traps.c, by vector. `addressed`: si_addr is the instruction.
struct Trap {
  uint8_t vector;
  int signal, code;
  bool addressed;
};
constexpr Trap kTraps[] = {
    {vector::kDivideError, SIGFPE, FPE_INTDIV, true},
    {vector::kDebug, SIGTRAP, TRAP_TRACE, true},
    {vector::kBreakpoint, SIGTRAP, kSiKernel, false},
    {vector::kOverflow, SIGSEGV, kSiKernel, false},
    {vector::kBound, SIGSEGV, kSiKernel, false},
    {vector::kInvalidOpcode, SIGILL, ILL_ILLOPN, true},
    {vector::kStackFault, SIGBUS, kSiKernel, false},
    {vector::kGeneralProtection, SIGSEGV, kSiKernel, false},
    {vector::kX87Error, SIGFPE, FPE_FLTINV, true},  // code: fpu_code()
    {vector::kAlignmentCheck, SIGBUS, BUS_ADRALN, false},
    {vector::kSimdError, SIGFPE, FPE_FLTINV, true},
};

// arch/x86/kernel/fpu/core.c, fpu__exception_code(): the first unmasked exception.
int fpu_code(const FpuState& fpu, uint8_t trap) {
  uint16_t control = 0, status = 0;
  uint32_t mxcsr = 0;
  std::memcpy(&control, &fpu.fxsave[0], sizeof control);
  std::memcpy(&status, &fpu.fxsave[2], sizeof status);
  std::memcpy(&mxcsr, &fpu.fxsave[kMxcsrOffset], sizeof mxcsr);
  const uint32_t raised = trap == vector::kX87Error ? status & ~uint32_t{control} : mxcsr & ~(mxcsr >> 7);
  struct {
    uint32_t bits;
    int code;
  } constexpr kCodes[] = {
      {0x01, FPE_FLTINV}, {0x04, FPE_FLTDIV}, {0x08, FPE_FLTOVF}, {0x12, FPE_FLTUND}, {0x20, FPE_FLTRES}};
  for (const auto& entry : kCodes)
    if ((raised & entry.bits) != 0) return entry.code;
  return FPE_FLTUNK;
}

// arch/x86/mm/fault.c: SIGSEGV for what the mappings forbid, SIGBUS for what they allow but the file lacks.
siginfo_t memory_fault_info(const Exit& exit, const AddressSpace& space) {
  const Mapping* mapping = space.find(exit.address);
  if (mapping == nullptr) return make_info(SIGSEGV, SEGV_MAPERR, exit.address);
  const int needed = exit.access == Access::write   ? PROT_WRITE
                     : exit.access == Access::fetch ? PROT_EXEC
                                                    : PROT_READ | PROT_WRITE | PROT_EXEC;
  if ((mapping->prot & needed) == 0) return make_info(SIGSEGV, SEGV_ACCERR, exit.address);
  return make_info(SIGBUS, BUS_ADRERR, exit.address);
}

// Non-canonical addresses are the general protection fault for machines (machine/exit.h), but processors
// raise the stack fault where the access is through SS.
bool is_stack_fault(const Exit& exit, const Registers& registers, const AddressSpace& space) {
  if (exit.kind != ExitKind::exception || exit.vector != vector::kGeneralProtection || exit.error_code != 0)
    return false;
  std::array<uint8_t, kLongestInstruction> code;
  size_t size = 0;
  while (size < code.size() && space.accessible(registers.rip + size, 1, PROT_READ)) ++size;
  if (!guarded_copy(code.data(), reinterpret_cast<const void*>(registers.rip), size)) return false;
  const auto accesses = memory_accesses({code.data(), size}, registers);
  if (!accesses) return false;
  const auto first = std::ranges::find_if(*accesses, [](const MemoryAccess& access) {
    return !is_canonical(access.address) || !is_canonical(access.address + access.size - 1);
  });
  return first != accesses->end() && first->stack;
}

// X86_PF_* (arch/x86/include/asm/trap_pf.h).
uint64_t page_fault_error_code(const Exit& exit, const siginfo_t& info) {
  const uint64_t access = exit.access == Access::write ? 2 : exit.access == Access::fetch ? 0x10 : 0;
  const uint64_t present = info.si_signo == SIGSEGV && info.si_code == SEGV_ACCERR ? 1 : 0;
  return 4 /* user */ | access | present;
}

// handle_signal(): a system call that the signal interrupted; `result` 0: none. `flags`: of the action; null:
// no handler runs.
void resolve_restart(Registers& registers, long result, uint64_t call_number, const uint64_t* flags) {
  if (result != kRestartSys && result != kRestartNoHand) return;
  const bool restart = flags == nullptr || (result == kRestartSys && (*flags & SA_RESTART) != 0);
  if (restart) {
    registers.rax = call_number;
    registers.rip -= kSyscallLength;
  } else {
    registers.rax = static_cast<uint64_t>(-EINTR);
  }
}

struct FrameContext {
  uint64_t saved_mask;
  KernelStack alternate;
  bool nested;  // already on the alternate stack
  uint64_t trap_number, error_code, cr2;
};

// --- the FPU in frames: arch/x86/kernel/fpu/signal.c ---

// With the v3 model an XSAVE area with its marks, otherwise the FXSAVE image alone, which has zeros where
// marks would be.
std::vector<std::byte> frame_of_fpu(const FpuState& fpu, CpuModelKind model) {
  std::vector<std::byte> bytes(kFxsaveSize);
  std::copy_n(fpu.fxsave.begin(), kFxsaveReserved, bytes.begin());
  if (model != CpuModelKind::v3) return bytes;
  const auto put = [&bytes](size_t offset, const auto& value) {
    std::memcpy(&bytes.at(offset), &value, sizeof value);
  };
  bytes.resize(xsave::kSize + sizeof kXsaveMagicBehind);
  KernelXsaveMark mark;
  mark.magic = kXsaveMagic;
  mark.extended_size = static_cast<uint32_t>(bytes.size());
  mark.features = xsave::kAll;
  mark.size = xsave::kSize;
  put(kXsaveMark, mark);
  put(xsave::kHeader, xsave::kAll);
  put(xsave::kUpper, fpu.upper);
  put(xsave::kSize, kXsaveMagicBehind);
  return bytes;
}

// check_xstate_in_sigframe(): how many bytes of an XSAVE area are there, its header included; 0: the FXSAVE
// image alone counts.
size_t marked_size(const LoggedSpace& memory, uint64_t address, const FpuState& legacy) {
  KernelXsaveMark mark;
  std::memcpy(&mark, &legacy.fxsave[kXsaveMark], sizeof mark);
  if (mark.magic != kXsaveMagic || mark.size < xsave::kUpper || mark.size > xsave::kSize ||
      mark.size > mark.extended_size)
    return 0;
  uint32_t behind = 0;
  if (!memory.read(address + mark.size, &behind, sizeof behind) || behind != kXsaveMagicBehind) return 0;
  return mark.size;
}

// __restore_fpregs_from_user(): what a component is that the area does not have, or does not mark as being
// there. False: the area can't be loaded.
bool restore_area(const LoggedSpace& memory, uint64_t address, size_t size, FpuState& fpu) {
  KernelXsaveMark mark;
  std::memcpy(&mark, &fpu.fxsave[kXsaveMark], sizeof mark);
  std::array<uint64_t, 3> header{};  // XSTATE_BV, and what must be zero
  if (!memory.read(address + xsave::kHeader, header.data(), sizeof header)) return false;
  if ((header[0] & ~xsave::kAll) != 0 || header[1] != 0 || header[2] != 0) return false;
  const uint64_t there = header[0] & mark.features;
  const FpuState initial = FpuState::initial();
  const auto reset = [&](size_t from, size_t to) {
    std::copy_n(&initial.fxsave[from], to - from, &fpu.fxsave[from]);
  };
  if ((there & xsave::kX87) == 0) {
    reset(0, xsave::kMxcsr);
    reset(xsave::kSt0, xsave::kXmm0);
  }
  if ((there & xsave::kSse) == 0) reset(xsave::kXmm0, FpuState::kUsed);
  if ((mark.features & (xsave::kSse | xsave::kAvx)) == 0) reset(xsave::kMxcsr, xsave::kSt0);
  if ((there & xsave::kAvx) == 0) return true;
  return size >= xsave::kSize && memory.read(address + xsave::kUpper, fpu.upper.data(), fpu.upper.size());
}

// x64_setup_rt_frame(). False: the stack can't take it.
bool push_frame(GuestTask& task, Registers& registers, const FpuState& fpu, const KernelSigaction& action,
                const siginfo_t& info, const FrameContext& context) {
  if ((action.flags & kSaRestorer) == 0) return false;  // x86-64 has no other way back
  uint64_t sp = registers.rsp - kRedZone;
  bool on_alternate = context.nested;
  const KernelStack& alternate = context.alternate;
  const bool within = (alternate.flags & kSsAutodisarm) == 0 && sp > alternate.address &&
                      sp - alternate.address <= alternate.size;
  if ((action.flags & SA_ONSTACK) != 0 && alternate.size != 0 && !within) {
    sp = alternate.address + alternate.size;
    on_alternate = true;
  }
  const std::vector<std::byte> state = frame_of_fpu(fpu, task.process.cpu.kind());
  const uint64_t fpstate = (sp - state.size()) & ~uint64_t{63};
  // After the handler's "call", RSP + 8 is a multiple of 16 (System V ABI, 3.2.2).
  const uint64_t address = ((fpstate - sizeof(SignalFrame)) & ~uint64_t{15}) - 8;
  if (on_alternate && !(address > alternate.address && address - alternate.address <= alternate.size))
    return false;

  SignalFrame frame{};
  frame.return_address = action.restorer;
  const uint64_t has_xsave = state.size() > kFxsaveSize ? kContextHasXsave : 0;
  frame.context.flags = has_xsave | kContextHasSs | kContextStrictSs;
  frame.context.stack = alternate;
  KernelSigcontext& saved = frame.context.registers;
  for (const GeneralRegister& entry : kRegisters) saved.*entry.in_frame = registers.*entry.in_cpu;
  saved.rflags = registers.rflags;
  saved.cs = kUserCs;
  saved.ss = kUserSs;
  saved.error_code = context.error_code;
  saved.trap_number = context.trap_number;
  saved.old_mask = frame.context.mask = context.saved_mask;
  saved.cr2 = context.cr2;
  saved.fpstate = fpstate;
  frame.info = info;
  const size_t size = (action.flags & SA_SIGINFO) != 0 ? sizeof frame : offsetof(SignalFrame, info);
  if (!on_alternate) reach_stack(task, address);
  if (!task.answer.write(fpstate, state.data(), state.size()) || !task.answer.write(address, &frame, size))
    return false;

  registers.rdi = static_cast<uint64_t>(info.si_signo);
  registers.rsi = address + offsetof(SignalFrame, info);
  registers.rdx = address + offsetof(SignalFrame, context);
  registers.rax = 0;
  registers.rip = action.handler;
  registers.rsp = address;
  registers.rflags &= ~(rflags::kDirection | rflags::kTrap | rflags::kResume);
  return true;
}

}  // namespace

bool ThreadSignals::rt_sigreturn(GuestTask& task, Registers& registers, FpuState& fpu) {
  SignalFrame frame{};
  FpuState restored = FpuState::initial();
  // The handler's "ret" has taken the return address. Without SA_SIGINFO the info was never there.
  const bool readable = task.process.memory.read(registers.rsp - 8, &frame, offsetof(SignalFrame, info));
  const KernelSigcontext& saved = frame.context.registers;
  if (!readable ||
      (saved.fpstate != 0 && !task.process.memory.read(saved.fpstate, restored.fxsave.data(), kFxsaveSize))) {
    force(make_info(SIGSEGV, kSiKernel));
    return false;
  }
  if (saved.fpstate != 0 && task.process.cpu.kind() == CpuModelKind::v3) {
    const size_t size = marked_size(task.process.memory, saved.fpstate, restored);
    if (size != 0 && !restore_area(task.process.memory, saved.fpstate, size, restored)) {
      force(make_info(SIGSEGV, kSiKernel));
      return false;
    }
  }
  uint32_t mxcsr = 0;
  std::memcpy(&mxcsr, &restored.fxsave[kMxcsrOffset], sizeof mxcsr);
  mxcsr &= kMxcsrBits;
  std::memcpy(&restored.fxsave[kMxcsrOffset], &mxcsr, sizeof mxcsr);
  std::fill(restored.fxsave.begin() + kFxsaveReserved, restored.fxsave.end(), std::byte{0});
  restored.settle_x87();  // as the kernel's FXRSTOR; KVM gives back what it was given until x87 is used
  fpu = restored;

  for (const GeneralRegister& entry : kRegisters) registers.*entry.in_cpu = saved.*entry.in_frame;
  registers.rflags = (registers.rflags & ~kRestoredFlags) | (saved.rflags & kRestoredFlags);
  temporary_ = false;
  set_blocked(frame.context.mask);
  set_alternate_stack(frame.context.stack, registers.rsp);  // errors don't count (restore_altstack())
  return true;
}

std::optional<int> ThreadSignals::fatal_pending() {
  update();
  for (int signal = 1; signal <= kSignals; ++signal) {
    const uint64_t bit = bit_of(signal);
    if ((pending_bits() & ~blocked_ & bit) == 0 || process_.ignored(signal)) continue;
    if (process_.action(signal).handler == kHandlerDefault && (bit & kStopByDefault) == 0) return signal;
  }
  return std::nullopt;
}

ThreadSignals::Delivery ThreadSignals::deliver(GuestTask& task, Registers& registers, const FpuState& fpu,
                                               std::optional<long> call_result, uint64_t call_number) {
  long interrupted = call_result.value_or(0);
  update();
  for (;;) {
    std::optional<siginfo_t> next;
    if (forced_ && (pending_bits() & bit_of(SIGKILL)) == 0) {
      next = forced_;
      forced_.reset();
      if (forced_vector_ == vector::kX87Error || forced_vector_ == vector::kSimdError)
        next->si_code = fpu_code(fpu, forced_vector_);
      forced_vector_ = 0;
    } else {
      next = dequeue(~blocked_);
    }
    if (!next) break;

    const int signal = next->si_signo;
    const KernelSigaction action = process_.action(signal);
    if (process_.ignored(signal)) continue;
    if (action.handler == kHandlerDefault) {
      if ((bit_of(signal) & kStopByDefault) != 0) {
        ::raise(signal);  // the host's action is the default one
        continue;
      }
      update();
      AFTERCHECK_LOG_TO(LogTopic::signals, "signal {} (si_code {}) ends the guest at {:#x}", signal,
                        next->si_code, registers.rip);
      return {Delivery::Kind::terminate, signal, (bit_of(signal) & kCoreByDefault) != 0, false};
    }

    resolve_restart(registers, interrupted, call_number, &action.flags);
    interrupted = 0;
    const uint64_t stopped_at = registers.rip;
    if ((action.flags & uint64_t{SA_RESETHAND}) != 0) process_.reset_action(signal);
    const FrameContext context{temporary_ ? saved_ : blocked_,
                               alternate_,
                               on_alternate_stack(registers.rsp),
                               trap_number_,
                               error_code_,
                               cr2_};
    if (!push_frame(task, registers, fpu, action, *next, context)) {
      if (signal == SIGSEGV) process_.reset_action(SIGSEGV);  // force_fatal_sig()
      force(make_info(SIGSEGV, kSiKernel));
      continue;
    }
    if ((alternate_.flags & kSsAutodisarm) != 0) alternate_ = {0, SS_DISABLE, 0, 0};
    temporary_ = false;
    set_blocked(blocked_ | action.mask | ((action.flags & SA_NODEFER) != 0 ? 0 : bit_of(signal)));
    AFTERCHECK_LOG_TO(LogTopic::signals,
                      "signal {} (si_code {}) delivered at {:#x}: handler {:#x}, frame at {:#x}", signal,
                      next->si_code, stopped_at, registers.rip, registers.rsp);
    return {Delivery::Kind::handler, signal, false, true};
  }
  resolve_restart(registers, interrupted, call_number, nullptr);
  restore_mask();
  update();
  return {};
}

void ThreadSignals::raise_fault(const Exit& exit, const Registers& registers, const AddressSpace& space) {
  if (exit.kind == ExitKind::memory_fault) {
    const siginfo_t info = memory_fault_info(exit, space);
    trap_number_ = vector::kPageFault;
    error_code_ = page_fault_error_code(exit, info);
    cr2_ = exit.address;
    force(info, vector::kPageFault);
    return;
  }
  const uint8_t number = exit.kind == ExitKind::breakpoint        ? vector::kBreakpoint
                         : exit.kind == ExitKind::step            ? vector::kDebug
                         : is_stack_fault(exit, registers, space) ? vector::kStackFault
                                                                  : exit.vector;
  const auto* trap =
      std::find_if(std::begin(kTraps), std::end(kTraps), [&](const Trap& t) { return t.vector == number; });
  const Trap found = trap != std::end(kTraps) ? *trap : Trap{number, SIGSEGV, kSiKernel, false};
  trap_number_ = number;
  error_code_ = exit.kind == ExitKind::exception ? exit.error_code : 0;
  force(make_info(found.signal, found.code, found.addressed ? registers.rip : 0), number);
}

}  // namespace aftercheck
