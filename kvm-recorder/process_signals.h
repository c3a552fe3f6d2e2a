// Signals of the guest's process: actions, what is pending for whichever thread takes it, and the host's
// signals that stand for the guest's. (What each thread has: thread_signals.h.)
//
// Host signals meant for the guest arrive in handlers of ours, are noted, kick the vCPU out, and are
// delivered at the next exit, so a delivery is nothing but register changes and memory writes in an answer.
// The mask of each host thread follows that of the guest's thread it runs, so the host's kernel chooses the
// thread as it would choose the guest's, what the guest blocks stays pending in the host's kernel and does
// not interrupt blocking calls, and every signal that a handler of ours notes could be delivered at that
// moment.
#pragma once

#include <array>
#include <csignal>
#include <cstdint>
#include <set>
#include <vector>

#include "kvm-recorder/signal_queues.h"
#include "kvm-recorder/signal_sets.h"

namespace aftercheck {

struct GuestTask;
class ThreadSignals;

// As /proc/self/status shows them.
struct SignalSets {
  uint64_t pending = 0, shared_pending = 0;  // what the host's kernel keeps for the guest left out
  uint64_t blocked = 0, ignored = 0, caught = 0;
};

// One at a time, since it has the host process's actions. Used by the holder of the token.
class ProcessSignals {
 public:
  // Takes over the host process's catchable signals: inherited SIG_IGN stays ignored, everything else that
  // would terminate is caught by a handler that notes it for the thread it hits and kicks its vCPU. From here
  // on the calling thread has them all blocked, until its ThreadSignals exists.
  ProcessSignals();
  ~ProcessSignals();  // restores the host's actions, and the mask of this thread
  ProcessSignals(const ProcessSignals&) = delete;
  ProcessSignals& operator=(const ProcessSignals&) = delete;

  // The mask that the process was started with: the first thread's.
  uint64_t inherited_mask() const { return inherited_mask_; }

  // rt_sigaction(2). Pointers are guest addresses, checked here.
  long rt_sigaction(GuestTask& task, int signal, uint64_t action, uint64_t old_action, uint64_t set_size);
  // kill(2), rt_sigqueueinfo(2) to the guest itself: pending for the process. A thread that can take it is
  // woken; `by` if it can. 0, or -EAGAIN: too many wait already (RLIMIT_SIGPENDING).
  long raise(ThreadSignals& by, int signal, const siginfo_t& info);
  // In a child of fork(2), on the thread of `only`, which there has no other beside it: nothing is pending
  // there.
  void forked(ThreadSignals& only);
  // clone3(2), CLONE_CLEAR_SIGHAND.
  void clear_handlers();
  // execve: handlers go back to default, ignored stay ignored; `left` is the thread that remains.
  void reset_for_exec(ThreadSignals& left);

  // A descriptor of signalfd(2) reads what the host's kernel keeps: from now on it gets what the guest sends
  // to itself and blocks, too (but SIGSEGV, SIGBUS and those of kLibcSignals, which the host can't block).
  void keep_blocked_in_host();
  bool keeps_blocked_in_host() const { return keeps_blocked_in_host_; }
  // timer_create(2): whether the timer's signals are for one thread (SIGEV_THREAD_ID), or for the process.
  void timer_created(int timer, bool of_thread);
  bool is_of_thread(const siginfo_t& info) const;  // it went to a thread, not to the process
  // The guest has this descriptor from another process: it may be one.
  void descriptor_arrived(int fd);

  // Of this thread, of the first where there is none with this number, and of the process.
  SignalSets sets(pid_t thread) const;
  size_t threads() const { return threads_.size(); }

  // For ThreadSignals.
  const KernelSigaction& action(int signal) const { return actions_[static_cast<size_t>(signal)]; }
  bool ignored(int signal) const;
  void reset_action(int signal);  // to the default one
  PendingSignals& pending() { return pending_; }
  // True when no more of what sigqueue(3) sends may wait in `queue` or for the process:
  // __send_signal_locked().
  bool too_many(const PendingSignals& queue, const siginfo_t& info) const;
  // A host thread begins and ends to run one of the guest's: called there. Signals that hit it are noted for
  // `thread` in between.
  void attach(ThreadSignals& thread);
  void detach(ThreadSignals& thread);
  // Gives realtime signals to the threads that they were noted for.
  void drain_realtime();

 private:
  friend class ThreadSignals;  // its handler's half notes in realtime_
  std::array<KernelSigaction, kSignals + 1> actions_{};
  PendingSignals pending_;
  bool keeps_blocked_in_host_ = false;
  std::set<int> thread_timers_;  // numbers of those whose signals are for one thread
  RealtimeArrivals realtime_;
  std::vector<ThreadSignals*> threads_;

  std::array<struct sigaction, kSignals + 1> host_actions_{};  // as they were
  KickHandler kick_handler_ = nullptr;
  uint64_t inherited_mask_ = 0;

  // Makes the host's action for `signal` follow the guest's.
  void apply_host_action(int signal);
};

}  // namespace aftercheck
