// Signal state and the system calls on it (kernel/signal.c).
//
// The host thread's mask follows the guest's, so a signal that the guest blocks stays pending in the host's
// kernel and does not interrupt blocking calls; and every signal that a handler of ours notes could be
// delivered at that moment. Never blocked on the host: SIGSEGV and SIGBUS, which guarded_copy needs, and what
// the libc keeps for itself.
#include "kvm-recorder/signals.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "base/error.h"
#include "base/guarded_copy.h"
#include "kvm-recorder/interruptible_syscall.h"
#include "kvm-recorder/signals_state.h"
#include "kvm-recorder/system_call.h"

namespace aftercheck {
namespace {

constexpr uint64_t kFaultSignals = bit_of(SIGSEGV) | bit_of(SIGBUS);
constexpr uint64_t kLibcSignals = bit_of(32) | bit_of(33);
// include/uapi/asm-generic/signal-defs.h: the flags that sigaction(2) knows; others read back as 0.
constexpr uint64_t kKnownFlags = SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | SA_ONSTACK | SA_RESTART |
                                 SA_NODEFER | uint64_t{SA_RESETHAND} | 0x800 /* SA_EXPOSE_TAGBITS */ |
                                 kSaRestorer;
constexpr int kSsAutodisarm = 1 << 31;  // uapi/linux/signal.h

std::atomic<Arrivals*> arrivals_in_use{nullptr};
std::atomic<Vcpu*> vcpu_in_use{nullptr};
std::array<struct sigaction, 2> fault_guard;  // SIGSEGV, SIGBUS: the handlers before ours

void note_host_signal(int signal, const siginfo_t& info, void* context) {
  Arrivals* arrivals = arrivals_in_use.load();
  if (arrivals == nullptr) return;
  arrivals->note(signal, info);
  set_signal_waiting(true);
  recheck_interrupted_call(context);
  if (Vcpu* vcpu = vcpu_in_use.load()) vcpu->kick();
}

void on_signal(int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  note_host_signal(signal, *info, context);
  errno = saved_errno;
}

// A fault of the recorder's own (guarded_copy's, usually) is not the guest's; kill -SEGV is.
void on_fault_signal(int signal, siginfo_t* info, void* context) {
  if (info->si_code <= 0) {
    on_signal(signal, info, context);
    return;
  }
  const struct sigaction& guard = fault_guard[signal == SIGSEGV ? 0 : 1];
  if ((guard.sa_flags & SA_SIGINFO) != 0)
    guard.sa_sigaction(signal, info, context);
  else
    std::signal(signal, SIG_DFL);
}

sigset_t to_host_set(uint64_t mask) {
  sigset_t set;
  sigemptyset(&set);
  for (int signal = 1; signal <= kSignals; ++signal)
    if ((mask & bit_of(signal) & ~kLibcSignals) != 0) sigaddset(&set, signal);
  return set;
}

uint64_t from_host_set(const sigset_t& set) {
  uint64_t mask = 0;
  for (int signal = 1; signal <= kSignals; ++signal)
    if (sigismember(&set, signal) == 1) mask |= bit_of(signal);
  return mask;
}

void set_host_mask(uint64_t mask) {
  const sigset_t set = to_host_set(mask & ~kFaultSignals);
  pthread_sigmask(SIG_SETMASK, &set, nullptr);
}

}  // namespace

Arrivals::Arrivals() {
  for (size_t i = 0; i < realtime_.size(); ++i) realtime_[i].sequence.store(i);
}

void Arrivals::note(int signal, const siginfo_t& info) noexcept {
  if (signal < kFirstRealtime) {
    if ((claimed_.fetch_or(bit_of(signal)) & bit_of(signal)) != 0) return;
    standard_[static_cast<size_t>(signal)] = info;
    standard_[static_cast<size_t>(signal)].si_signo = signal;
    ready_.fetch_or(bit_of(signal));
    return;
  }
  uint64_t position = tail_.load();
  for (;;) {
    const uint64_t sequence = realtime_[position % kMaxQueued].sequence.load();
    if (sequence < position) return;  // full
    if (sequence == position && tail_.compare_exchange_weak(position, position + 1)) break;
    if (sequence > position) position = tail_.load();
  }
  Slot& slot = realtime_[position % kMaxQueued];
  slot.info = info;
  slot.info.si_signo = signal;
  slot.sequence.store(position + 1);
}

bool Arrivals::pop_realtime(siginfo_t& info) {
  Slot& slot = realtime_[head_ % kMaxQueued];
  if (slot.sequence.load() != head_ + 1) return false;
  info = slot.info;
  slot.sequence.store(head_ + kMaxQueued);
  ++head_;
  return true;
}

void Signals::State::take_over(Vcpu& of) {
  install_fault_guard();  // before ours, which passes real faults on to it
  pthread_sigmask(SIG_SETMASK, nullptr, &host_mask_before);
  actions = {};
  pending = 0;
  queued = 0;
  forced.reset();
  alternate = {};
  temporary = false;
  trap_number = error_code = cr2 = 0;
  arrivals.drain([](const siginfo_t&) {});
  arrivals_in_use.store(&arrivals);
  vcpu_in_use.store(&of);
  for (int signal = 1; signal <= kSignals; ++signal) {
    const uint64_t bit = bit_of(signal);
    if ((bit & (kUnblockable | kLibcSignals)) != 0) continue;
    sigaction(signal, nullptr, &host_actions[signal]);
    if ((bit & kFaultSignals) != 0) {
      fault_guard[signal == SIGSEGV ? 0 : 1] = host_actions[signal];
      struct sigaction action {};
      action.sa_sigaction = on_fault_signal;
      action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
      sigaction(signal, &action, nullptr);
      continue;
    }
    const bool ignore =
        (host_actions[signal].sa_flags & SA_SIGINFO) == 0 && host_actions[signal].sa_handler == SIG_IGN;
    actions[signal].handler = ignore ? kHandlerIgnore : kHandlerDefault;
    apply_host_action(signal);
  }
  host_mask.reset();
  set_blocked(from_host_set(host_mask_before));
}

void Signals::State::give_back() {
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
    sigaction(signal, &host_actions[signal], nullptr);
  }
  vcpu_in_use.store(nullptr);
  arrivals_in_use.store(nullptr);
  set_signal_waiting(false);
  pthread_sigmask(SIG_SETMASK, &host_mask_before, nullptr);
}

void Signals::State::apply_host_action(int signal) {
  const uint64_t bit = bit_of(signal);
  if ((bit & (kUnblockable | kLibcSignals | kFaultSignals)) != 0) return;
  struct sigaction action {};
  const KernelSigaction& guest = actions[signal];
  if (guest.handler == kHandlerIgnore) {
    action.sa_handler = SIG_IGN;
  } else if (guest.handler == kHandlerDefault && (bit & (kIgnoredByDefault | kStopByDefault)) != 0) {
    action.sa_handler =
        SIG_DFL;  // a stop stops the recorder with its guest, as a shell's job control expects
  } else {
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO;  // no SA_RESTART: blocking calls are to return
    sigfillset(&action.sa_mask);
    sigdelset(&action.sa_mask, SIGSEGV);
    sigdelset(&action.sa_mask, SIGBUS);
  }
  // SIGCHLD: whether stopped children count and dead ones stay is the kernel's business.
  action.sa_flags |= static_cast<int>(guest.flags & (SA_NOCLDSTOP | SA_NOCLDWAIT));
  sigaction(signal, &action, nullptr);
}

void Signals::State::set_blocked(uint64_t mask) {
  blocked = mask & ~kUnblockable;
  if (host_mask != blocked) {
    host_mask = blocked;
    set_host_mask(blocked);
  }
  update();
}

void Signals::State::update() {
  // A handler that runs from here on says true by itself.
  set_signal_waiting(false);
  arrivals.drain([this](const siginfo_t& arrived) { add(arrived); });
  uint64_t waiting = pending_bits() & ~blocked;
  while (waiting != 0 && ignored(__builtin_ctzll(waiting) + 1)) waiting &= waiting - 1;
  if (forced || waiting != 0) set_signal_waiting(true);
}

bool Signals::State::ignored(int signal) const {
  const uint64_t handler = actions[signal].handler;
  return handler == kHandlerIgnore ||
         (handler == kHandlerDefault && (bit_of(signal) & kIgnoredByDefault) != 0);
}

uint64_t Signals::State::pending_bits() const {
  uint64_t bits = pending;
  for (size_t i = 0; i < queued; ++i) bits |= bit_of(queue[i].si_signo);
  return bits;
}

void Signals::State::add(const siginfo_t& arrived) {
  const int signal = arrived.si_signo;
  if (ignored(signal) && (blocked & bit_of(signal)) == 0) return;
  if (signal >= kFirstRealtime) {
    if (queued < queue.size()) queue[queued++] = arrived;
  } else if ((pending & bit_of(signal)) == 0) {
    pending |= bit_of(signal);
    info[signal] = arrived;
  }
}

std::optional<siginfo_t> Signals::State::dequeue(uint64_t set) {
  const uint64_t bits = pending_bits() & set;
  if (bits == 0) return std::nullopt;
  const uint64_t first = (bits & bit_of(SIGKILL)) != 0 ? bit_of(SIGKILL)
                         : (bits & kSynchronous) != 0  ? bits & kSynchronous
                                                       : bits;
  const int signal = __builtin_ctzll(first) + 1;
  if (signal < kFirstRealtime) {
    pending &= ~bit_of(signal);
    return info[signal];
  }
  const auto end = queue.begin() + static_cast<ptrdiff_t>(queued);
  const auto found =
      std::find_if(queue.begin(), end, [&](const siginfo_t& entry) { return entry.si_signo == signal; });
  const siginfo_t result = *found;
  std::move(found + 1, end, found);
  --queued;
  return result;
}

void Signals::State::discard(int signal) {
  while (dequeue(bit_of(signal))) {
  }
}

void Signals::State::force(const siginfo_t& fault, uint8_t vector) {
  const int signal = fault.si_signo;
  if ((blocked & bit_of(signal)) != 0 || actions[signal].handler == kHandlerIgnore) {
    actions[signal].handler = kHandlerDefault;
    apply_host_action(signal);
    set_blocked(blocked & ~bit_of(signal));
  }
  forced = fault;
  forced_vector = vector;
  update();
}

bool Signals::State::on_alternate_stack(uint64_t rsp) const {
  return (alternate.flags & kSsAutodisarm) == 0 && rsp > alternate.address &&
         rsp - alternate.address <= alternate.size;
}

long Signals::State::set_alternate_stack(const KernelStack& wanted, uint64_t rsp) {
  if (on_alternate_stack(rsp)) return -EPERM;
  const int mode = wanted.flags & ~kSsAutodisarm;
  if (mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0) return -EINVAL;
  if (mode == SS_DISABLE) {
    alternate = {0, wanted.flags, 0, 0};
    return 0;
  }
  constexpr uint64_t kMinimum = 2048;  // MINSIGSTKSZ, uapi/asm/signal.h
  if (wanted.size < kMinimum) return -ENOMEM;
  alternate = {wanted.address, wanted.flags, 0, wanted.size};
  return 0;
}

namespace {
bool in_use = false;
}

Signals::Signals(Vcpu& vcpu) {
  static State state;
  if (in_use) fail(ErrorKind::internal, "a second Signals object while the first is in use");
  in_use = true;
  state_ = &state;
  state_->take_over(vcpu);
}

Signals::~Signals() {
  state_->give_back();
  in_use = false;
}

long Signals::rt_sigaction(GuestTask& task, int signal, uint64_t action, uint64_t old_action,
                           uint64_t set_size) {
  if (set_size != sizeof(uint64_t)) return -EINVAL;
  KernelSigaction wanted;
  if (action != 0 && !task.process.memory.read_object(action, wanted)) return -EFAULT;
  if (signal < 1 || signal > kSignals || (action != 0 && (bit_of(signal) & kUnblockable) != 0))
    return -EINVAL;
  const KernelSigaction old = state_->actions[signal];
  if (action != 0) {
    wanted.flags &= kKnownFlags;
    wanted.mask &= ~kUnblockable;
    state_->actions[signal] = wanted;
    state_->apply_host_action(signal);
    state_->update();
    if (state_->ignored(signal)) {
      state_->discard(signal);
      state_->update();
    }
  }
  if (old_action != 0 && !task.answer.write_object(old_action, old)) return -EFAULT;
  return 0;
}

long Signals::rt_sigprocmask(GuestTask& task, int how, uint64_t set, uint64_t old_set, uint64_t set_size) {
  if (set_size != sizeof(uint64_t)) return -EINVAL;
  const uint64_t old = state_->blocked;
  if (set != 0) {
    uint64_t mask = 0;
    if (!task.process.memory.read_object(set, mask)) return -EFAULT;
    if (how == SIG_BLOCK)
      mask |= old;
    else if (how == SIG_UNBLOCK)
      mask = old & ~mask;
    else if (how != SIG_SETMASK)
      return -EINVAL;
    state_->set_blocked(mask);
  }
  if (old_set != 0 && !task.answer.write_object(old_set, old)) return -EFAULT;
  return 0;
}

long Signals::rt_sigpending(GuestTask& task, uint64_t set, uint64_t set_size) {
  if (set_size > sizeof(uint64_t)) return -EINVAL;
  state_->update();
  sigset_t host;
  sigemptyset(&host);
  sigpending(&host);
  const uint64_t waiting = (state_->pending_bits() | from_host_set(host)) & state_->blocked;
  return task.answer.write(set, &waiting, set_size) ? 0 : -EFAULT;
}

long Signals::rt_sigsuspend(GuestTask& task, uint64_t set, uint64_t set_size) {
  if (set_size != sizeof(uint64_t)) return -EINVAL;
  uint64_t mask = 0;
  if (!task.process.memory.read_object(set, mask)) return -EFAULT;
  set_temporary_mask(mask);
  while (!deliverable()) interruptible_syscall(SYS_pause, 0, 0, 0, 0, 0, 0);
  return kRestartNoHand;
}

long Signals::rt_sigtimedwait(GuestTask& task, uint64_t set, uint64_t info, uint64_t timeout,
                              uint64_t set_size) {
  if (set_size != sizeof(uint64_t)) return -EINVAL;
  uint64_t mask = 0;
  timespec time{};
  if (!task.process.memory.read_object(set, mask)) return -EFAULT;
  if (timeout != 0 && !task.process.memory.read_object(timeout, time)) return -EFAULT;
  if (time.tv_sec < 0 || time.tv_nsec < 0 || time.tv_nsec >= 1'000'000'000) return -EINVAL;
  mask &= ~kUnblockable;

  // While the host waits for them, they must be blocked there even if the guest has not blocked them.
  const uint64_t blocked = state_->blocked;
  state_->set_blocked(blocked | mask);
  std::optional<siginfo_t> found = state_->dequeue(mask);
  long result = 0;
  if (!found) {
    const uint64_t wanted = mask & ~(kFaultSignals | kLibcSignals);
    siginfo_t arrived{};
    const auto set_at = reinterpret_cast<uint64_t>(&wanted), info_at = reinterpret_cast<uint64_t>(&arrived);
    const auto time_at = timeout != 0 ? reinterpret_cast<uint64_t>(&time) : 0;
    if (timeout != 0 && time.tv_sec == 0 && time.tv_nsec == 0) {
      result = syscall(SYS_rt_sigtimedwait, set_at, info_at, time_at, sizeof wanted);
      if (result < 0) result = -errno;
    } else {
      result = interruptible_syscall(SYS_rt_sigtimedwait, set_at, info_at, time_at, sizeof wanted, 0, 0);
    }
    if (result > 0) found = arrived;
  }
  state_->set_blocked(blocked);
  if (!found) return result;
  if (info != 0 && !task.answer.write_object(info, *found)) return -EFAULT;
  return found->si_signo;
}

long Signals::sigaltstack(GuestTask& task, const Registers& registers, uint64_t stack, uint64_t old_stack) {
  State& state = *state_;
  const uint64_t rsp = registers.rsp;
  KernelStack old = state.alternate;
  const int mode = state.alternate.size == 0 ? SS_DISABLE : state.on_alternate_stack(rsp) ? SS_ONSTACK : 0;
  old.flags = mode | (state.alternate.flags & kSsAutodisarm);
  if (stack != 0) {
    KernelStack wanted;
    if (!task.process.memory.read_object(stack, wanted)) return -EFAULT;
    if (const long result = state.set_alternate_stack(wanted, rsp); result != 0) return result;
  }
  if (old_stack != 0 && !task.answer.write_object(old_stack, old)) return -EFAULT;
  return 0;
}

void Signals::raise(int signal, const siginfo_t& info) {
  if (signal < 1 || signal > kSignals) return;
  if (signal == SIGSTOP) {
    ::raise(SIGSTOP);
    return;
  }
  siginfo_t pending = info;
  pending.si_signo = signal;
  if (info.si_code == SI_KERNEL) {
    state_->force(pending);
    return;
  }
  state_->update();
  state_->add(pending);
  state_->update();
}

void Signals::reset_for_exec() {
  for (int signal = 1; signal <= kSignals; ++signal) {
    const bool ignore = state_->actions[signal].handler == kHandlerIgnore;
    state_->actions[signal] = {};
    if (ignore) state_->actions[signal].handler = kHandlerIgnore;
    state_->apply_host_action(signal);
  }
  state_->alternate = {};
  state_->trap_number = state_->error_code = state_->cr2 = 0;
  state_->update();
}

bool Signals::deliverable() const { return signal_waiting(); }

void Signals::set_temporary_mask(uint64_t mask) {
  if (!state_->temporary) state_->saved = state_->blocked;
  state_->temporary = true;
  state_->set_blocked(mask);
}

void Signals::restore_mask() {
  if (!state_->temporary) return;
  state_->temporary = false;
  state_->set_blocked(state_->saved);
}

}  // namespace aftercheck
