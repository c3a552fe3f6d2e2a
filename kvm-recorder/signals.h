// Guest signals: actions, mask, pending set, frames. Host signals meant for the guest arrive in handlers of
// ours, are noted, kick the vCPU out, and are delivered at the next exit, so a delivery is nothing but
// register changes and memory writes in an answer.
#pragma once

#include <csignal>
#include <cstdint>
#include <optional>

#include "kvm-recorder/guest_task.h"
#include "machine/exit.h"
#include "machine/vcpu.h"

namespace aftercheck {

// The kernel's struct sigaction for x86-64 (arch/x86/include/uapi/asm/signal.h), not libc's.
struct KernelSigaction {
  uint64_t handler = 0;  // SIG_DFL 0, SIG_IGN 1
  uint64_t flags = 0;
  uint64_t restorer = 0;
  uint64_t mask = 0;
};

class Signals {
 public:
  // Takes over the host process's catchable signals: inherited SIG_IGN stays ignored, everything else that
  // would terminate is caught by a handler that notes it and kicks `vcpu` (which must outlive this). One
  // instance at a time.
  explicit Signals(Vcpu& vcpu);
  ~Signals();  // restores the host's actions and mask

  // System calls; results as the kernel's. Pointers are guest addresses, checked here.
  long rt_sigaction(GuestTask& task, int signal, uint64_t action, uint64_t old_action, uint64_t set_size);
  long rt_sigprocmask(GuestTask& task, int how, uint64_t set, uint64_t old_set, uint64_t set_size);
  long rt_sigpending(GuestTask& task, uint64_t set, uint64_t set_size);
  long rt_sigsuspend(GuestTask& task, uint64_t set,
                     uint64_t set_size);  // kRestartNoHand when interrupted
  long rt_sigtimedwait(GuestTask& task, uint64_t set, uint64_t info, uint64_t timeout, uint64_t set_size);
  long sigaltstack(GuestTask& task, const Registers& registers, uint64_t stack, uint64_t old_stack);
  // kill/tgkill/tkill to the guest itself: notes it as pending. (To others: an ordinary pass-through call.)
  // With si_code SI_KERNEL it is forced, as the kernel's force_sig(): blocked or ignored, it kills.
  void raise(int signal, const siginfo_t& info);
  // rt_sigreturn: restores registers, FPU and mask from the frame at RSP; false when the frame is unreadable:
  // SIGSEGV then waits for deliver().
  bool rt_sigreturn(GuestTask& task, Registers& registers, FpuState& fpu);
  // execve: handlers go back to default, ignored stay ignored, alternate stack forgotten.
  void reset_for_exec();

  // True when an unblocked signal waits whose action is not "ignore". Cheap.
  bool deliverable() const;
  // ppoll, pselect6, epoll_pwait: a mask in force for one call; restore_mask ends it (delivery uses the saved
  // mask).
  void set_temporary_mask(uint64_t mask);
  void restore_mask();

  struct Delivery {
    enum class Kind { none, handler, terminate } kind = Kind::none;
    int signal = 0;
    bool core = false;  // terminate: default action dumps core
    // handler: it starts with FpuState::initial(), which the caller must put into the vCPU
    // (fpu__clear_user_states()).
    bool reset_fpu = false;
  };
  // Delivers one pending signal: sets up the frame (task.answer) and `registers`, or says that the guest
  // dies of it. Call it until it says none or terminate: the kernel, too, stacks the frames of all signals
  // that wait, and the first handler to run is the last one's. `call_result` is what the interrupted system
  // call returned (kRestart*, else ignored; nullopt from the second call on) and `call_number` its number: as
  // the kernel's handle_signal does, either RAX = -EINTR or RIP -= 2 and RAX = number. Also resolves
  // kRestart* when there is nothing to deliver. `fpu` is the vCPU's current state (stored in the frame). A
  // stop signal with its default action stops this process here.
  Delivery deliver(GuestTask& task, Registers& registers, const FpuState& fpu,
                   std::optional<long> call_result, uint64_t call_number);
  // The pending, unblocked signal that will kill the guest because it has no handler, if one waits. It needs
  // no frame, so the guest may be anywhere.
  std::optional<int> fatal_pending();
  // The signal that the kernel sends for this exit (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP) with si_code
  // and si_addr; forced: blocked or ignored ones kill. Deliver it with deliver(). For a breakpoint the caller
  // moves RIP past INT3 first: it is a trap, not a fault.
  void raise_fault(const Exit& exit, const Registers& registers, const AddressSpace& space);

 private:
  struct State;
  State* state_;  // static storage: signal handlers use it
};

// A system call on the host that a guest signal can interrupt without a race: when a deliverable signal is
// noted before the SYSCALL instruction, the call is not made and -EINTR comes back (the technique of musl's
// cancellation points). Returns the kernel's raw result.
long interruptible_syscall(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                           uint64_t f);

}  // namespace aftercheck
