// The handlers of the host's signals, and what belongs to the process of kernel/signal.c.
#include "kvm-recorder/process_signals.h"

#include <sys/resource.h>
#include <sys/time.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <utility>

#include "base/error.h"
#include "base/fault_claims.h"
#include "base/guarded_copy.h"
#include "base/kick_signal.h"
#include "kvm-recorder/guest_task.h"
#include "kvm-recorder/interruptible_syscall.h"
#include "kvm-recorder/proc_files.h"
#include "kvm-recorder/process_tree.h"
#include "kvm-recorder/signal_frame.h"
#include "kvm-recorder/thread_signals.h"

namespace aftercheck {
namespace {

// include/uapi/asm-generic/signal-defs.h: the flags that sigaction(2) knows; others read back as 0.
constexpr uint64_t kKnownFlags = SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | SA_ONSTACK | SA_RESTART |
                                 SA_NODEFER | uint64_t{SA_RESETHAND} | 0x800 /* SA_EXPOSE_TAGBITS */ |
                                 kSaRestorer;

std::atomic<bool> in_use{false};
std::array<struct sigaction, 2> fault_guard;  // SIGSEGV, SIGBUS: the handlers before ours
// Handlers need it, so it must be there without the dynamic linker's help.
[[gnu::tls_model("initial-exec")]] thread_local constinit ThreadSignals* signals_here = nullptr;

[[gnu::noinline]] void on_signal(int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  if (ThreadSignals* thread = signals_here) {
    if (!thread->arrived(signal, *info)) {
      auto& mask = static_cast<ucontext_t*>(context)->uc_sigmask;
      for (int blocked = kFirstRealtime + 2; blocked <= kSignals; ++blocked) sigaddset(&mask, blocked);
    }
    recheck_interrupted_call(context);
  }
  errno = saved_errno;
}

// What another process sends under this number is the guest's like any other signal.
[[gnu::noinline]] void on_kick(int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  if (ProcessTree::asks_to_end(*info)) {
    if (ThreadSignals* thread = signals_here) thread->arrived(SIGKILL, *info);
    recheck_interrupted_call(context);
  } else if (is_kick(*info))
    recheck_interrupted_call(context);
  else
    on_signal(signal, info, context);
  errno = saved_errno;
}

// A fault of the recorder's own (guarded_copy's, usually) is not the guest's; kill -SEGV is.
[[gnu::noinline]] void on_fault_signal(int signal, siginfo_t* info, void* context) {
  if (claim_fault(signal, info, context)) return;
  if (info->si_code <= 0) {
    on_signal(signal, info, context);
    return;
  }
  if (signal == SIGSEGV || signal == SIGBUS) {
    const struct sigaction& guard = fault_guard[signal == SIGSEGV ? 0 : 1];
    if ((guard.sa_flags & SA_SIGINFO) != 0) return guard.sa_sigaction(signal, info, context);
  }
  std::signal(signal, SIG_DFL);
}

}  // namespace

ProcessSignals::ProcessSignals() {
  if (in_use.exchange(true))
    fail(ErrorKind::internal, "a second ProcessSignals object while the first is in use");
  install_fault_guard();  // before ours, which passes real faults on to it
  inherited_mask_ = host_mask();
  set_host_mask(~uint64_t{0});  // what arrives waits in the host's kernel for the first thread
  kick_handler_ = replace_kick_handler(interrupting_guest<on_kick>);
  for (int signal = 1; signal <= kSignals; ++signal) {
    const uint64_t bit = bit_of(signal);
    if ((bit & (kUnblockable | kLibcSignals)) != 0) continue;
    sigaction(signal, nullptr, &host_actions_[signal]);
    const bool ignore =
        (host_actions_[signal].sa_flags & SA_SIGINFO) == 0 && host_actions_[signal].sa_handler == SIG_IGN;
    actions_[signal].handler = ignore ? kHandlerIgnore : kHandlerDefault;
    if ((bit & kFaultSignals) != 0) {
      if (signal == SIGSEGV || signal == SIGBUS)
        fault_guard[signal == SIGSEGV ? 0 : 1] = host_actions_[signal];
      struct sigaction action {};
      action.sa_sigaction = interrupting_guest<on_fault_signal>;
      action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
      sigaction(signal, &action, nullptr);
      continue;
    }
    apply_host_action(signal);
  }
  for (const int fd : open_descriptors()) descriptor_arrived(fd);
}

ProcessSignals::~ProcessSignals() {
  // The guest's timers and what is pending for it end with it.
  for (const auto timer : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF}) {
    const itimerval none{};
    setitimer(timer, &none, nullptr);
  }
  for (int signal = 1; signal <= kSignals; ++signal) {
    if ((bit_of(signal) & (kUnblockable | kLibcSignals)) != 0) continue;
    struct sigaction discard {};
    discard.sa_handler = SIG_IGN;  // drops what is pending (POSIX, 2.4.3 Signal Actions)
    sigaction(signal, &discard, nullptr);
    sigaction(signal, &host_actions_[signal], nullptr);
  }
  replace_kick_handler(kick_handler_);
  set_host_mask(inherited_mask_);
  in_use.store(false);
}

void ProcessSignals::apply_host_action(int signal) {
  const uint64_t bit = bit_of(signal);
  if ((bit & (kUnblockable | kLibcSignals | kFaultSignals)) != 0) return;
  struct sigaction action {};
  const KernelSigaction& guest = actions_[signal];
  if (guest.handler == kHandlerIgnore) {
    action.sa_handler = SIG_IGN;
  } else if (guest.handler == kHandlerDefault && (bit & (kIgnoredByDefault | kStopByDefault)) != 0) {
    action.sa_handler =
        SIG_DFL;  // a stop stops the recorder with its guest, as a shell's job control expects
  } else {
    action.sa_sigaction = interrupting_guest<on_signal>;
    // No SA_RESTART: blocking calls are to return. What runs may be guest code on the guest's stack.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigfillset(&action.sa_mask);
    sigdelset(&action.sa_mask, SIGSEGV);
    sigdelset(&action.sa_mask, SIGBUS);
  }
  // SIGCHLD: whether stopped children count and dead ones stay is the kernel's business.
  action.sa_flags |= static_cast<int>(guest.flags & (SA_NOCLDSTOP | SA_NOCLDWAIT));
  sigaction(signal, &action, nullptr);
}

bool ProcessSignals::ignored(int signal) const {
  const uint64_t handler = actions_[signal].handler;
  return handler == kHandlerIgnore ||
         (handler == kHandlerDefault && (bit_of(signal) & kIgnoredByDefault) != 0);
}

SignalSets ProcessSignals::sets(pid_t number) const {
  SignalSets sets;
  for (int signal = 1; signal <= kSignals; ++signal) {
    const uint64_t handler = actions_[signal].handler;
    if (handler == kHandlerIgnore) sets.ignored |= bit_of(signal);
    if (handler > kHandlerIgnore) sets.caught |= bit_of(signal);
  }
  sets.shared_pending = pending_.bits();
  if (threads_.empty()) return sets;
  const auto found = std::ranges::find(threads_, number, &ThreadSignals::host_thread);
  const ThreadSignals& thread = found != threads_.end() ? **found : *threads_.front();
  sets.pending = thread.pending().bits();
  sets.blocked = thread.blocked();
  return sets;
}

void ProcessSignals::reset_action(int signal) {
  actions_[signal].handler = kHandlerDefault;
  apply_host_action(signal);
}

void ProcessSignals::attach(ThreadSignals& thread) {
  threads_.push_back(&thread);
  signals_here = &thread;
}

void ProcessSignals::detach(ThreadSignals& thread) {
  set_host_mask(~uint64_t{0});  // from here on the host's kernel has other threads for them
  signals_here = nullptr;
  drain_realtime();
  std::erase(threads_, &thread);
}

void ProcessSignals::keep_blocked_in_host() {
  if (std::exchange(keeps_blocked_in_host_, true)) return;
  for (ThreadSignals* thread : threads_) thread->update();
}

void ProcessSignals::timer_created(int timer, bool of_thread) {
  if (of_thread)
    thread_timers_.insert(timer);
  else
    thread_timers_.erase(timer);
}

// Which of its two queues the host's kernel took a signal from is known of these only.
bool ProcessSignals::is_of_thread(const siginfo_t& info) const {
  return info.si_code == SI_TKILL || (info.si_code == SI_TIMER && thread_timers_.contains(info.si_timerid));
}

void ProcessSignals::descriptor_arrived(int fd) {
  if (!keeps_blocked_in_host_ && descriptor_path(fd) == "anon_inode:[signalfd]") keep_blocked_in_host();
}

void ProcessSignals::drain_realtime() {
  realtime_.drain([](ThreadSignals& thread, const siginfo_t& info) { thread.take(info); });
}

long ProcessSignals::rt_sigaction(GuestTask& task, int signal, uint64_t action, uint64_t old_action,
                                  uint64_t set_size) {
  if (set_size != sizeof(uint64_t)) return -EINVAL;
  KernelSigaction wanted;
  if (action != 0 && !task.process.memory.read_object(action, wanted)) return -EFAULT;
  if (signal < 1 || signal > kSignals || (action != 0 && (bit_of(signal) & kUnblockable) != 0))
    return -EINVAL;
  const KernelSigaction old = actions_[signal];
  if (action != 0) {
    wanted.flags &= kKnownFlags;
    wanted.mask &= ~kUnblockable;
    actions_[signal] = wanted;
    apply_host_action(signal);
    for (ThreadSignals* thread : threads_) thread->update();
    if (ignored(signal)) {
      pending_.discard(signal);
      for (ThreadSignals* thread : threads_) thread->discard(signal);
    }
  }
  if (old_action != 0 && !task.answer.write_object(old_action, old)) return -EFAULT;
  return 0;
}

bool ProcessSignals::too_many(const PendingSignals& queue, const siginfo_t& info) const {
  // kill(2)'s lose what they know instead, and standard ones wait once each.
  if (info.si_signo < kFirstRealtime || info.si_code == SI_USER) return false;
  rlimit limit{};
  if (getrlimit(RLIMIT_SIGPENDING, &limit) != 0) return false;
  return queue.queued() + (&queue == &pending_ ? 0 : pending_.queued()) >= limit.rlim_cur;
}

long ProcessSignals::raise(ThreadSignals& by, int signal, const siginfo_t& info) {
  if (signal < 1 || signal > kSignals) return 0;
  if (signal == SIGSTOP) {
    ::raise(SIGSTOP);
    return 0;
  }
  by.update();
  // kernel/signal.c, complete_signal(): the caller if it takes the signal, else any thread that does.
  const auto takes = [&](const ThreadSignals* thread) { return thread->takes(signal); };
  if (ignored(signal) && takes(&by)) return 0;
  siginfo_t sent = info;
  sent.si_signo = signal;
  if (by.kept_in_host(signal)) return by.keep_in_host(sent, pending_);
  if (too_many(pending_, sent)) return -EAGAIN;
  pending_.add(sent);
  by.update();
  const auto other = std::ranges::find_if(threads_, takes);
  if (!takes(&by) && other != threads_.end()) (*other)->notice();
  return 0;
}

void ProcessSignals::forked(ThreadSignals& only) {
  threads_ = {&only};
  only.forget_pending();
  realtime_.drain([](ThreadSignals&, const siginfo_t&) {});
  pending_ = {};
}

void ProcessSignals::clear_handlers() {
  for (int signal = 1; signal <= kSignals; ++signal) {
    const bool ignore = actions_[signal].handler == kHandlerIgnore;
    actions_[signal] = {};
    if (ignore) actions_[signal].handler = kHandlerIgnore;
    apply_host_action(signal);
  }
}

void ProcessSignals::reset_for_exec(ThreadSignals& left) {
  clear_handlers();
  left.reset_for_exec();
}

}  // namespace aftercheck
