// Signals of one thread of the guest: mask, what is pending for it alone, alternate stack, faults, frames.
// (What its process has: process_signals.h.)
#pragma once

#include <atomic>
#include <csignal>
#include <cstdint>
#include <optional>

#include "kvm-recorder/process_signals.h"
#include "kvm-recorder/signal_frame.h"
#include "machine/exit.h"
#include "machine/vcpu.h"

namespace aftercheck {

struct GuestTask;

// Lives on the host thread that runs the guest's. Used by the holder of the token, except where told
// otherwise.
class ThreadSignals {
 public:
  // Called on the host thread that will run the guest's, which gets the guest's mask `mask`. A signal kicks
  // `vcpu`. Both must outlive this.
  ThreadSignals(ProcessSignals& process, Vcpu& vcpu, uint64_t mask);
  // On the same host thread. What has arrived for the process stays pending for it. The host thread has all
  // signals blocked then.
  ~ThreadSignals();
  ThreadSignals(const ThreadSignals&) = delete;
  ThreadSignals& operator=(const ThreadSignals&) = delete;

  // System calls; results as the kernel's. Pointers are guest addresses, checked here.
  long rt_sigprocmask(GuestTask& task, int how, uint64_t set, uint64_t old_set, uint64_t set_size);
  long rt_sigpending(GuestTask& task, uint64_t set, uint64_t set_size);
  long rt_sigsuspend(GuestTask& task, uint64_t set,
                     uint64_t set_size);  // kRestartNoHand when interrupted
  long rt_sigtimedwait(GuestTask& task, uint64_t set, uint64_t info, uint64_t timeout, uint64_t set_size);
  long sigaltstack(GuestTask& task, const Registers& registers, uint64_t stack, uint64_t old_stack);
  // tgkill(2), tkill(2), rt_tgsigqueueinfo(2) to this thread: notes it as pending. (To others: an ordinary
  // pass-through call.) 0, or -EAGAIN: too many wait already (RLIMIT_SIGPENDING).
  long raise(int signal, const siginfo_t& info);
  // The kernel ends the process, as after execve's point of no return.
  void kill();
  // rt_sigreturn: restores registers, FPU and mask from the frame at RSP; false when the frame is unreadable:
  // SIGSEGV then waits for deliver().
  bool rt_sigreturn(GuestTask& task, Registers& registers, FpuState& fpu);
  // Another vCPU goes on with the thread; the one before stays there.
  void set_vcpu(Vcpu& vcpu) { vcpu_.store(&vcpu); }
  // Gets the thread out of the guest's code. Any thread.
  void kick() noexcept { vcpu_.load()->kick(); }
  // Gets the thread out of a blocking call, which ends as by a signal. Any thread that has the token.
  void interrupt();
  pid_t host_thread() const { return host_thread_; }
  // In a child of fork(2): nothing of what was pending here is.
  void forget_pending();
  const KernelStack& alternate_stack() const { return alternate_; }
  void set_alternate_stack(const KernelStack& stack) { alternate_ = stack; }
  // execve: the alternate stack is forgotten.
  void reset_for_exec();

  // True when an unblocked signal waits whose action is not "ignore", or one that the thread waits for.
  // Cheap; any thread.
  bool deliverable() const { return waiting_.load() != 0; }
  // The same for interruptible_syscall().
  const std::atomic<int>& waiting() const { return waiting_; }
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

  // SIGSYS for a call that a filter stopped (seccomp(2)); can't be blocked or ignored. `fatal`: no handler
  // gets it.
  void raise_filtered(const siginfo_t& info, bool fatal);

  // For ProcessSignals.
  uint64_t blocked() const { return blocked_; }
  const PendingSignals& pending() const { return pending_; }
  // Would take the signal: does not block it, or waits for it in rt_sigtimedwait(2).
  bool takes(int signal) const { return ((~blocked_ | waited_for_) & bit_of(signal)) != 0; }
  // In a handler on this thread. False: the handler must leave realtime signals blocked, until update()
  // has made room for more.
  bool arrived(int signal, const siginfo_t& info) noexcept;
  void take(const siginfo_t& arrived);  // what was noted becomes pending
  // Moves noted signals over and recomputes what deliverable() says. After every change of masks, actions or
  // pending signals.
  void update();
  // The same after another thread of the guest has made a signal pending: gets this one out of the guest, or
  // out of a blocking call, if it can take it.
  void notice();
  void discard(int signal);
  // Blocked here, and kept by the host's kernel (ProcessSignals::keep_blocked_in_host()),
  bool kept_in_host(int signal) const;
  // which gets it there: as pending for this thread, or for the process where `queue` is its. 0, or the
  // host's -EAGAIN: too many wait there.
  long keep_in_host(const siginfo_t& info, const PendingSignals& queue) const;

 private:
  ProcessSignals& process_;
  std::atomic<Vcpu*> vcpu_;
  const pid_t host_thread_;
  std::atomic<int> waiting_{0};
  StandardArrivals arrivals_;

  uint64_t blocked_ = 0, saved_ = 0;
  uint64_t waited_for_ = 0;  // blocked, but rt_sigtimedwait(2) waits for them
  bool temporary_ = false;   // blocked_ holds for one call only; saved_ is the guest's own
  PendingSignals pending_;
  std::optional<siginfo_t> forced_;  // a synchronous signal: comes before everything else
  uint8_t forced_vector_ = 0;
  uint64_t trap_number_ = 0, error_code_ = 0,
           cr2_ = 0;  // of the last fault, as in the kernel's thread_struct
  KernelStack alternate_{};
  std::optional<uint64_t> host_mask_;        // in force now,
  std::atomic<bool> holds_realtime_{false};  // but for realtime signals, which a handler has blocked

  bool here() const;
  void set_blocked(uint64_t mask);
  // What is pending here and blocked goes to the host's kernel, where it stays pending.
  void hand_to_host();
  uint64_t pending_bits();
  // Removes a pending signal of `set` in the kernel's order (dequeue_signal()); nullopt: none.
  std::optional<siginfo_t> dequeue(uint64_t set);
  // force_sig_info(): can't be blocked or ignored. `vector`: the exception it comes from.
  void force(const siginfo_t& info, uint8_t vector = 0);
  bool on_alternate_stack(uint64_t rsp) const;
  // do_sigaltstack(); `wanted` as the guest gave it.
  long set_alternate_stack(const KernelStack& wanted, uint64_t rsp);
};

}  // namespace aftercheck
