// State and system calls of one thread of the guest (kernel/signal.c).
#include "kvm-recorder/thread_signals.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <utility>

#include "kvm-recorder/guest_task.h"
#include "kvm-recorder/system_call.h"
#include "kvm-recorder/waiting_call.h"

namespace aftercheck {
namespace {

// The host thread blocks these where the guest does.
constexpr uint64_t kBlockedByHost = ~(kUnblockable | kFaultSignals | kLibcSignals);

}  // namespace

ThreadSignals::ThreadSignals(ProcessSignals& process, Vcpu& vcpu, uint64_t mask)
    : process_(process), vcpu_(&vcpu), host_thread_(static_cast<pid_t>(syscall(SYS_gettid))) {
  process_.attach(*this);
  set_blocked(mask);
}

ThreadSignals::~ThreadSignals() {
  process_.detach(*this);
  arrivals_.drain([this](const siginfo_t& info) { take(info); });
}

bool ThreadSignals::here() const { return static_cast<pid_t>(syscall(SYS_gettid)) == host_thread_; }

void ThreadSignals::forget_pending() {
  arrivals_.drain([](const siginfo_t&) {});
  pending_ = {};
  forced_.reset();
}

void ThreadSignals::notice() {
  update();
  if (!deliverable() || here()) return;
  vcpu_.load()->kick();
  kick_thread(host_thread_);
}

void ThreadSignals::interrupt() {
  waiting_.store(1);
  kick_thread(host_thread_);
}

bool ThreadSignals::arrived(int signal, const siginfo_t& info) noexcept {
  bool room = true;
  if (signal < kFirstRealtime)
    arrivals_.note(signal, info);
  else
    room = process_.realtime_.note(*this, signal, info);
  if (!room) holds_realtime_.store(true);
  waiting_.store(1);
  vcpu_.load()->kick();
  return room;
}

// What isn't known to be the thread's own may be the process's: this thread was chosen because it did not
// block them, and if it does now, another may have them.
void ThreadSignals::take(const siginfo_t& arrived) {
  const int signal = arrived.si_signo;
  if (process_.ignored(signal) && (blocked_ & bit_of(signal)) == 0) return;
  (process_.is_of_thread(arrived) ? pending_ : process_.pending()).add(arrived);
}

void ThreadSignals::update() {
  // A handler that runs from here on says true by itself.
  waiting_.store(0);
  process_.drain_realtime();
  arrivals_.drain([this](const siginfo_t& info) { take(info); });
  // Only the thread itself has a mask to change. More of them may come at once.
  while (holds_realtime_.load() && here()) {
    holds_realtime_.store(false);
    set_host_mask(host_mask_.value_or(blocked_));
    process_.drain_realtime();
  }
  if (process_.keeps_blocked_in_host()) hand_to_host();
  uint64_t deliverable = pending_bits() & ~blocked_;
  while (deliverable != 0 && process_.ignored(__builtin_ctzll(deliverable) + 1))
    deliverable &= deliverable - 1;
  if (forced_ || deliverable != 0 || (pending_bits() & waited_for_) != 0) waiting_.store(1);
}

bool ThreadSignals::kept_in_host(int signal) const {
  return process_.keeps_blocked_in_host() && (blocked_ & kBlockedByHost & bit_of(signal)) != 0;
}

long ThreadSignals::keep_in_host(const siginfo_t& info, const PendingSignals& queue) const {
  const long result = &queue == &pending_
                          ? syscall(SYS_rt_tgsigqueueinfo, getpid(), host_thread_, info.si_signo, &info)
                          : syscall(SYS_rt_sigqueueinfo, getpid(), info.si_signo, &info);
  return result == 0 ? 0 : -errno;
}

void ThreadSignals::hand_to_host() {
  for (PendingSignals* queue : {&pending_, &process_.pending()})
    while (const std::optional<siginfo_t> info = queue->dequeue(blocked_ & kBlockedByHost))
      if (keep_in_host(*info, *queue) != 0) {
        queue->put_back(*info);
        break;
      }
}

void ThreadSignals::discard(int signal) {
  pending_.discard(signal);
  update();
}

void ThreadSignals::set_blocked(uint64_t mask) {
  blocked_ = mask & ~kUnblockable;
  if (host_mask_ != blocked_) {
    host_mask_ = blocked_;
    set_host_mask(blocked_);
  }
  update();
}

uint64_t ThreadSignals::pending_bits() { return pending_.bits() | process_.pending().bits(); }

std::optional<siginfo_t> ThreadSignals::dequeue(uint64_t set) {
  const uint64_t first = pending_bits() & set & bit_of(SIGKILL);
  if (first != 0) set = first;
  if (std::optional<siginfo_t> own = pending_.dequeue(set)) return own;
  return process_.pending().dequeue(set);
}

void ThreadSignals::force(const siginfo_t& fault, uint8_t vector) {
  const int signal = fault.si_signo;
  if ((blocked_ & bit_of(signal)) != 0 || process_.action(signal).handler == kHandlerIgnore) {
    process_.reset_action(signal);
    set_blocked(blocked_ & ~bit_of(signal));
  }
  forced_ = fault;
  forced_vector_ = vector;
  update();
}

bool ThreadSignals::on_alternate_stack(uint64_t rsp) const {
  return (alternate_.flags & kSsAutodisarm) == 0 && rsp > alternate_.address &&
         rsp - alternate_.address <= alternate_.size;
}

long ThreadSignals::set_alternate_stack(const KernelStack& wanted, uint64_t rsp) {
  if (on_alternate_stack(rsp)) return -EPERM;
  const int mode = wanted.flags & ~kSsAutodisarm;
  if (mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0) return -EINVAL;
  if (mode == SS_DISABLE) {
    alternate_ = {0, wanted.flags, 0, 0};
    return 0;
  }
  constexpr uint64_t kMinimum = 2048;  // MINSIGSTKSZ, uapi/asm/signal.h
  if (wanted.size < kMinimum) return -ENOMEM;
  alternate_ = {wanted.address, wanted.flags, 0, wanted.size};
  return 0;
}

long ThreadSignals::rt_sigprocmask(GuestTask& task, int how, uint64_t set, uint64_t old_set,
                                   uint64_t set_size) {
  if (set_size != sizeof(uint64_t)) return -EINVAL;
  const uint64_t old = blocked_;
  if (set != 0) {
    uint64_t mask = 0;
    if (!task.process.memory.read_object(set, mask)) return -EFAULT;
    if (how == SIG_BLOCK)
      mask |= old;
    else if (how == SIG_UNBLOCK)
      mask = old & ~mask;
    else if (how != SIG_SETMASK)
      return -EINVAL;
    set_blocked(mask);
  }
  if (old_set != 0 && !task.answer.write_object(old_set, old)) return -EFAULT;
  return 0;
}

long ThreadSignals::rt_sigpending(GuestTask& task, uint64_t set, uint64_t set_size) {
  if (set_size > sizeof(uint64_t)) return -EINVAL;
  update();
  const uint64_t waiting = (pending_bits() | host_pending()) & blocked_;
  return task.answer.write(set, &waiting, set_size) ? 0 : -EFAULT;
}

long ThreadSignals::rt_sigsuspend(GuestTask& task, uint64_t set, uint64_t set_size) {
  if (set_size != sizeof(uint64_t)) return -EINVAL;
  uint64_t mask = 0;
  if (!task.process.memory.read_object(set, mask)) return -EFAULT;
  set_temporary_mask(mask);
  while (!deliverable()) {
    waiting_call(task, SYS_pause);
    update();  // some are noted although they are blocked (SIGSEGV, SIGBUS)
  }
  return kRestartNoHand;
}

long ThreadSignals::rt_sigtimedwait(GuestTask& task, uint64_t set, uint64_t info, uint64_t timeout,
                                    uint64_t set_size) {
  if (set_size != sizeof(uint64_t)) return -EINVAL;
  uint64_t mask = 0;
  timespec time{};
  if (!task.process.memory.read_object(set, mask)) return -EFAULT;
  if (timeout != 0 && !task.process.memory.read_object(timeout, time)) return -EFAULT;
  if (time.tv_sec < 0 || time.tv_nsec < 0 || time.tv_nsec >= 1'000'000'000) return -EINVAL;
  mask &= ~kUnblockable;

  // While the host waits for them, they must be blocked there even if the guest has not blocked them.
  const uint64_t blocked = blocked_;
  set_blocked(blocked | mask);
  std::optional<siginfo_t> found = dequeue(mask);
  waited_for_ = mask;
  long result = 0;
  timespec until{};
  if (timeout != 0) clock_gettime(CLOCK_MONOTONIC, &until);
  constexpr long kSecond = 1'000'000'000, kLongest = 1L << 32;  // s: no sum below overflows
  time.tv_sec = std::min<time_t>(time.tv_sec, kLongest);
  until.tv_nsec += time.tv_nsec;
  until.tv_sec += time.tv_sec + until.tv_nsec / kSecond;
  until.tv_nsec %= kSecond;
  while (!found) {
    const uint64_t wanted = mask & ~(kFaultSignals | kLibcSignals);
    siginfo_t arrived{};
    const auto set_at = reinterpret_cast<uint64_t>(&wanted), info_at = reinterpret_cast<uint64_t>(&arrived);
    const auto time_at = timeout != 0 ? reinterpret_cast<uint64_t>(&time) : 0;
    if (timeout != 0 && time.tv_sec == 0 && time.tv_nsec == 0) {
      result = syscall(SYS_rt_sigtimedwait, set_at, info_at, time_at, sizeof wanted);
      if (result < 0) result = -errno;
    } else {
      result = waiting_call(task, SYS_rt_sigtimedwait, set_at, info_at, time_at, sizeof wanted);
    }
    if (result > 0) found = arrived;
    if (result != -EINTR) break;
    // Those that the host can't wait for are noted by a handler, and so are others that are none of these.
    update();
    found = dequeue(mask);
    if (found || deliverable()) break;
    if (timeout == 0) continue;
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    const long left = std::max(0L, (until.tv_sec - now.tv_sec) * kSecond + until.tv_nsec - now.tv_nsec);
    time = {left / kSecond, left % kSecond};
  }
  waited_for_ = 0;
  set_blocked(blocked);
  if (!found) return result;
  if (info != 0 && !task.answer.write_object(info, *found)) return -EFAULT;
  return found->si_signo;
}

long ThreadSignals::sigaltstack(GuestTask& task, const Registers& registers, uint64_t stack,
                                uint64_t old_stack) {
  const uint64_t rsp = registers.rsp;
  KernelStack old = alternate_;
  const int mode = alternate_.size == 0 ? SS_DISABLE : on_alternate_stack(rsp) ? SS_ONSTACK : 0;
  old.flags = mode | (alternate_.flags & kSsAutodisarm);
  if (stack != 0) {
    KernelStack wanted;
    if (!task.process.memory.read_object(stack, wanted)) return -EFAULT;
    if (const long result = set_alternate_stack(wanted, rsp); result != 0) return result;
  }
  if (old_stack != 0 && !task.answer.write_object(old_stack, old)) return -EFAULT;
  return 0;
}

long ThreadSignals::raise(int signal, const siginfo_t& info) {
  if (signal < 1 || signal > kSignals) return 0;
  if (signal == SIGSTOP) {
    ::raise(SIGSTOP);
    return 0;
  }
  siginfo_t sent = info;
  sent.si_signo = signal;
  update();
  if (process_.ignored(signal) && (blocked_ & bit_of(signal)) == 0) return 0;
  if (kept_in_host(signal)) return keep_in_host(sent, pending_);
  if (process_.too_many(pending_, sent)) return -EAGAIN;
  pending_.add(sent);
  notice();
  return 0;
}

void ThreadSignals::kill() {
  siginfo_t info{};
  info.si_signo = SIGKILL;
  info.si_code = SI_KERNEL;
  force(info);
}

void ThreadSignals::raise_filtered(const siginfo_t& info, bool fatal) {
  if (fatal) process_.reset_action(SIGSYS);
  force(info);
}

void ThreadSignals::reset_for_exec() {
  alternate_ = {};
  trap_number_ = error_code_ = cr2_ = 0;
  update();
}

void ThreadSignals::set_temporary_mask(uint64_t mask) {
  if (!temporary_) saved_ = blocked_;
  temporary_ = true;
  set_blocked(mask);
}

void ThreadSignals::restore_mask() {
  if (!temporary_) return;
  temporary_ = false;
  set_blocked(saved_);
}

}  // namespace aftercheck
