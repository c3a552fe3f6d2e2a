// Signal calls: the state is in ProcessSignals and ThreadSignals; here is what belongs to the call itself.
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "kvm-recorder/guest_threads.h"
#include "kvm-recorder/process_numbers.h"
#include "kvm-recorder/process_tree.h"
#include "kvm-recorder/resource_limits.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

constexpr int kLastSignal = 64;  // _NSIG on x86-64

bool valid(int signal) { return signal > 0 && signal <= kLastSignal; }

// A signal that the guest sends to itself becomes pending there; it must not reach the recorder. SIGSTOP
// stops guest and recorder alike, so the kernel may have it, with 0 and numbers that are no signal's.
bool recorded(int signal) { return valid(signal) && signal != SIGSTOP; }

// Those that no handler of the recorder catches: the kernel can't be asked to send them to a group that the
// recorder is in.
bool uncaught(int signal) { return valid(signal) && (bit_of(signal) & (kUnblockable | kLibcSignals)) != 0; }

siginfo_t user_info(int signal, int code) {
  siginfo_t info{};
  info.si_signo = signal;
  info.si_code = code;
  info.si_pid = getpid();
  info.si_uid = getuid();
  return info;
}

long pass_as_is(const Call& call) {
  return host_call(call.row.number, call.args[0], call.args[1], call.args[2], call.args[3]);
}

// A process that stops itself would keep those that share memory with it waiting.
long stop_itself(const Call& call) {
  return while_others_run(call.task, [&] { return pass_as_is(call); });
}

// Processes that are recorded, too, end their recordings before they are killed.
void prepare_kill(const Call& call, std::span<const pid_t> processes, int signal) {
  if (signal != SIGKILL || !has_other_processes(call.process)) return;
  // One that shares memory with this process needs its turn for that.
  while_others_run(call.task, [&] {
    call.process.tree->prepare_kill(processes);
    return 0;
  });
}
void prepare_kill(const Call& call, pid_t process, int signal) {
  prepare_kill(call, std::span(&process, 1), signal);
}

// Signals to the guest's own process group. Of those that the recorder catches the guest gets its own as it
// gets those from outside; the others are sent to each of the group's processes but this one.
long signal_own_group(Call& call, int signal) {
  if (signal == SIGSTOP) return stop_itself(call);
  if (!uncaught(signal)) return host_call(SYS_kill, 0, static_cast<uint64_t>(signal));
  // Again where there are new ones meanwhile: a group can grow while it is being killed, but not for long.
  constexpr int kMostRounds = 10;
  std::vector<pid_t> reached;
  for (int round = 0; round < kMostRounds; ++round) {
    bool news = false;
    const std::vector<pid_t> others = others_in_group(getpgrp(), call.process.memory.host_thread());
    prepare_kill(call, others, signal);
    for (const pid_t process : others_in_group(getpgrp(), call.process.memory.host_thread())) {
      if (std::ranges::find(reached, process) != reached.end()) continue;
      news = true;
      reached.push_back(process);
      host_call(SYS_kill, static_cast<uint64_t>(process), static_cast<uint64_t>(signal));
    }
    if (!news) break;
  }
  call.process.signals.raise(call.task.signals, signal, user_info(signal, SI_USER));
  return 0;
}

// The kernel leaves out the caller and init.
long signal_everybody(Call& call, int signal) {
  if (!valid(signal) || call.process.unsupported.allow_kill_all) return pass_as_is(call);
  return answer_undone(call, "kill(-1) (a signal to every process)", EPERM);
}

// Of the guest's thread with this number.
ThreadSignals& thread_signals(Call& call, pid_t number) {
  GuestTask* const task = call.process.threads != nullptr ? call.process.threads->find(number) : nullptr;
  return task != nullptr ? task->signals : call.task.signals;
}

// To a thread of the process with this number.
long signal_thread(Call& call, pid_t process, pid_t thread, int signal) {
  const Whose of = whose(thread);
  if (of == Whose::recorder) return -ESRCH;
  if (of == Whose::other) prepare_kill(call, process == getpid() ? thread : process, signal);
  if (of != Whose::other && process == getpid() && signal == SIGSTOP) return stop_itself(call);
  if (of == Whose::other || process != getpid() || !recorded(signal)) return pass_as_is(call);
  thread_signals(call, thread).raise(signal, user_info(signal, SI_TKILL));
  return 0;
}

// known_siginfo_layout(): what si_code says of a signal's other fields.
bool known_layout(int signal, int code) {
  // include/uapi/asm-generic/siginfo.h: how many codes of their own these signals have.
  struct {
    int signal, codes;
  } constexpr kOwn[] = {{SIGILL, 11}, {SIGFPE, 15}, {SIGSEGV, 10}, {SIGBUS, 5},
                        {SIGTRAP, 6}, {SIGCHLD, 6}, {SIGPOLL, 6},  {SIGSYS, 2}};
  constexpr int kOfKernel = 0x80, kPollCodes = 6, kFirstOfUsers = -7 /* SI_DETHREAD */, kAsyncNl = -60;
  if (code == kOfKernel) return true;
  if (code <= SI_USER) return code >= kFirstOfUsers || code == kAsyncNl;
  const auto* own = std::ranges::find_if(kOwn, [&](const auto& entry) { return entry.signal == signal; });
  return code <= (own != std::end(kOwn) ? own->codes : kPollCodes);
}

// The guest's siginfo, with the checks of rt_sigqueueinfo(2). 0 or -errno. To oneself any si_code may be
// sent.
long queued_info(Call& call, uint64_t address, int signal, siginfo_t& info) {
  constexpr size_t kKept = 48;  // struct kernel_siginfo: the kernel has no room for more
  std::array<char, sizeof(siginfo_t)> bytes;
  if (!call.process.memory.read_object(address, bytes)) return -EFAULT;
  std::memcpy(&info, bytes.data(), sizeof info);
  if (!known_layout(signal, info.si_code) &&
      std::any_of(bytes.begin() + kKept, bytes.end(), [](char byte) { return byte != 0; }))
    return -E2BIG;
  std::memset(reinterpret_cast<char*>(&info) + kKept, 0, sizeof info - kKept);
  info.si_signo = signal;
  return 0;
}

}  // namespace

namespace calls {

long rt_sigaction(Call& call) {
  return call.process.signals.rt_sigaction(call.task, call.fd(0), call.args[1], call.args[2], call.args[3]);
}

long rt_sigprocmask(Call& call) {
  return call.task.signals.rt_sigprocmask(call.task, call.fd(0), call.args[1], call.args[2], call.args[3]);
}

long rt_sigpending(Call& call) {
  return call.task.signals.rt_sigpending(call.task, call.args[0], call.args[1]);
}

long rt_sigsuspend(Call& call) {
  return call.task.signals.rt_sigsuspend(call.task, call.args[0], call.args[1]);
}

long rt_sigtimedwait(Call& call) {
  return call.task.signals.rt_sigtimedwait(call.task, call.args[0], call.args[1], call.args[2], call.args[3]);
}

long sigaltstack(Call& call) {
  return call.task.signals.sigaltstack(call.task, call.registers, call.args[0], call.args[1]);
}

long rt_sigreturn(Call& call) {
  call.outcome.kind = CallOutcome::Kind::registers;
  // On failure a SIGSEGV waits to be delivered, with the registers as they are.
  call.outcome.fpu_changed = call.task.signals.rt_sigreturn(call.task, call.registers, call.outcome.fpu);
  return 0;
}

long kill(Call& call) {
  const pid_t target = call.fd(0);
  const int signal = call.fd(1);
  if (target == -1) return signal_everybody(call, signal);
  if (target == 0 || (target < 0 && target == -getpgrp())) return signal_own_group(call, signal);
  const Whose of = whose(target);
  if (of == Whose::recorder) return -ESRCH;
  if (of == Whose::other && target > 0) prepare_kill(call, target, signal);
  if (of == Whose::other && target < 0 && signal == SIGKILL)
    prepare_kill(call, others_in_group(-target, call.process.memory.host_thread()), signal);
  if (of == Whose::guest && signal == SIGSTOP) return stop_itself(call);
  if (of == Whose::other || !recorded(signal)) return pass_as_is(call);
  call.process.signals.raise(call.task.signals, signal, user_info(signal, SI_USER));
  return 0;
}

long tkill(Call& call) { return signal_thread(call, getpid(), call.fd(0), call.fd(1)); }
long tgkill(Call& call) { return signal_thread(call, call.fd(0), call.fd(1), call.fd(2)); }

long rt_sigqueueinfo(Call& call) {
  siginfo_t info{};
  if (const long error = queued_info(call, call.args[2], call.fd(1), info)) return error;
  const Whose of = whose(call.fd(0));
  if (of == Whose::recorder) return -ESRCH;
  if (of == Whose::other) prepare_kill(call, call.fd(0), call.fd(1));
  if (of == Whose::other || !recorded(call.fd(1)))
    return host_call(SYS_rt_sigqueueinfo, call.args[0], call.args[1], host_pointer(&info));
  return call.process.signals.raise(call.task.signals, call.fd(1), info);
}

long rt_tgsigqueueinfo(Call& call) {
  siginfo_t info{};
  if (const long error = queued_info(call, call.args[3], call.fd(2), info)) return error;
  const Whose of = whose(call.fd(1));
  if (of == Whose::recorder) return -ESRCH;
  if (of == Whose::other || call.fd(0) != getpid() || !recorded(call.fd(2)))
    return host_call(SYS_rt_tgsigqueueinfo, call.args[0], call.args[1], call.args[2], host_pointer(&info));
  return thread_signals(call, call.fd(1)).raise(call.fd(2), info);
}

// A pidfd of the guest's own process is another way to kill(getpid()).
long pidfd_send_signal(Call& call) {
  // include/uapi/linux/pidfd.h, since Linux 6.9.
  constexpr uint32_t kToThread = 1, kToGroup = 4;
  std::array<uint64_t, 6> args;
  if (!prepare(call, args)) return -EBADF;
  const int signal = call.fd(1);
  const std::optional<pid_t> target = process_of_pidfd(call.fd(0), call.process.memory.host_thread());
  const Whose of = target ? whose(*target) : Whose::other;
  if (of == Whose::recorder) return -ESRCH;
  const auto flags = static_cast<uint32_t>(args[3]);
  if (of == Whose::other && target && flags == 0) prepare_kill(call, *target, signal);
  if (of == Whose::other || !recorded(signal))
    return host_call(SYS_pidfd_send_signal, args[0], args[1], args[2], args[3]);
  // Whether the kernel takes these flags it knows itself; signal 0 does nothing.
  if (const long error = host_call(SYS_pidfd_send_signal, args[0], 0, 0, args[3])) return error;
  siginfo_t info = user_info(signal, SI_USER);
  if (args[2] != 0) {
    if (!call.process.memory.read_object(args[2], info)) return -EFAULT;
    if (info.si_signo != signal) return -EINVAL;
  }
  if (flags & kToGroup) return signal_own_group(call, signal);
  if (flags & kToThread) return thread_signals(call, *target).raise(signal, info);
  return call.process.signals.raise(call.task.signals, signal, info);
}

// What the guest blocks is pending in the host's kernel, so the host's descriptor reads it; but of the host's
// signals some are the recorder's.
long signalfd(Call& call) {
  uint64_t mask = 0;
  if (!call.process.descriptors.allowed(call.fd(0))) return -EBADF;
  if (call.args[2] != sizeof mask) return -EINVAL;
  if (!call.process.memory.read_object(call.args[1], mask)) return -EFAULT;
  mask &= ~kLibcSignals;
  const long fd = host_call(call.row.number, call.args[0], host_pointer(&mask), sizeof mask, call.args[3]);
  const bool is_new = fd != call.fd(0);  // one that the guest has may be beyond its limit of today
  const long result = fd >= 0 && is_new ? within_limit(call.process, fd) : fd;
  if (result >= 0) call.process.signals.keep_blocked_in_host();
  return result;
}

// The signal comes from the kernel, like a timer's.
long mq_notify(Call& call) {
  std::array<uint64_t, 6> args;
  if (!prepare(call, args)) return -EBADF;
  if (args[1] == 0) return host_call(SYS_mq_notify, args[0], 0);
  sigevent notice{};
  if (!call.process.memory.read_object(args[1], notice)) return -EFAULT;
  std::array<std::byte, 32> cookie{};         // NOTIFY_COOKIE_LEN, include/uapi/linux/mqueue.h
  if (notice.sigev_notify == SIGEV_THREAD) {  // sigev_signo is a netlink socket
    if (!call.process.descriptors.allowed(notice.sigev_signo)) return -EBADF;
    if (!call.process.memory.read_object(host_pointer(notice.sigev_value.sival_ptr), cookie)) return -EFAULT;
    notice.sigev_value.sival_ptr = cookie.data();
  }
  return host_call(SYS_mq_notify, args[0], host_pointer(&notice));
}

long timer_create(Call& call) {
  sigevent notice{};
  const bool of_thread = call.args[1] != 0 && call.process.memory.read_object(call.args[1], notice) &&
                         (notice.sigev_notify & SIGEV_THREAD_ID) != 0;
  if (of_thread && whose(notice._sigev_un._tid) == Whose::recorder) return -EINVAL;
  const long result = pass(call);
  int timer = 0;
  if (result == 0 && call.process.memory.read_object(call.args[2], timer)) {
    call.process.timers.insert(timer);
    call.process.signals.timer_created(timer, of_thread);
  }
  return result;
}

long timer_delete(Call& call) {
  const long result = pass(call);
  if (result == 0) call.process.timers.erase(call.fd(0));
  return result;
}

}  // namespace calls
}  // namespace aftercheck
