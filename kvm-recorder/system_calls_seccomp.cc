// seccomp(2), prctl(PR_SET_SECCOMP), and what becomes of calls that a filter stops (kernel/seccomp.c).
#include <fmt/format.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <csignal>
#include <optional>
#include <vector>

#include "kvm-recorder/guest_threads.h"
#include "kvm-recorder/system_calls.h"
#include "recording/event.h"

namespace aftercheck {
namespace {

siginfo_t filtered_info(const seccomp_data& call, uint32_t decision) {
  siginfo_t info{};
  info.si_signo = SIGSYS;
  info.si_code = 1;  // SYS_SECCOMP, include/uapi/asm-generic/siginfo.h
  info.si_errno = static_cast<int>(decision & SECCOMP_RET_DATA);
  info.si_call_addr = reinterpret_cast<void*>(call.instruction_pointer);
  info.si_syscall = call.nr;
  info.si_arch = call.arch;
  return info;
}

// The first other thread whose filters aren't the beginning of the caller's; null: all can be given those.
const GuestTask* with_others(Call& call) {
  for (const GuestTask* task : call.process.threads->all())
    if (task != &call.task && !task->seccomp.leads_to(call.task.seccomp)) return task;
  return nullptr;
}

long set_filter(Call& call, uint64_t flags, uint64_t address) {
  constexpr uint64_t kKnown = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_LOG |
                              SECCOMP_FILTER_FLAG_SPEC_ALLOW | SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
  if ((flags & SECCOMP_FILTER_FLAG_NEW_LISTENER) != 0)
    tell_once(call.process, "seccomp listener",
              "the program called seccomp to have another process decide about its calls: not supported, "
              "answered EINVAL");
  if ((flags & ~kKnown) != 0) return -EINVAL;
  sock_fprog program{};
  if (!call.process.memory.read_object(address, program)) return -EFAULT;
  if (program.len == 0 || program.len > BPF_MAXINSNS) return -EINVAL;
  if (host_call(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1 && !capable(CAP_SYS_ADMIN)) return -EACCES;
  if (program.filter == nullptr) return -EINVAL;
  std::vector<sock_filter> filter(program.len);
  if (!call.process.memory.read(host_pointer(program.filter), filter.data(),
                                filter.size() * sizeof filter[0]))
    return -EFAULT;
  const bool for_all = (flags & SECCOMP_FILTER_FLAG_TSYNC) != 0 && call.process.threads != nullptr;
  if (for_all)
    if (const GuestTask* other = with_others(call))
      return (flags & SECCOMP_FILTER_FLAG_TSYNC_ESRCH) != 0 ? -ESRCH : other->signals.host_thread();
  if (const long error = call.task.seccomp.add_filter(filter)) return error;
  if (for_all)
    for (GuestTask* task : call.process.threads->all()) task->seccomp = call.task.seccomp;
  return 0;
}

long set_strict(Call& call) {
  const long result = call.task.seccomp.set_strict();
  if (result == 0) call.process.forbids_tsc = true;
  return result;
}

long knows_action(Call& call, uint64_t address) {
  constexpr uint32_t kActions[] = {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_TRAP,
                                   SECCOMP_RET_ERRNO,        SECCOMP_RET_TRACE,       SECCOMP_RET_LOG,
                                   SECCOMP_RET_ALLOW};
  uint32_t action = 0;
  if (!call.process.memory.read_object(address, action)) return -EFAULT;
  return std::ranges::find(kActions, action) != std::end(kActions) ? 0 : -EOPNOTSUPP;
}

}  // namespace

std::optional<CallOutcome> stopped_by_filter(GuestTask& task, Registers& registers, uint64_t number) {
  const seccomp_data call{
      .nr = static_cast<int>(number),
      .arch = AUDIT_ARCH_X86_64,
      .instruction_pointer = registers.rip,
      .args = {registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9}};
  const uint32_t decision = task.seccomp.decide(call);
  // No CallOutcome::Kind::result: a filter's error may be any number, kRestartSys too.
  const CallOutcome stopped{CallOutcome::Kind::registers};
  const auto answer = [&](long result) {
    registers.rax = static_cast<uint64_t>(result);
    return stopped;
  };
  const auto end_alone = [&](int signal) {
    return end_of_thread(task, static_cast<long>(recording::kThreadKilled) + signal);
  };
  switch (decision & SECCOMP_RET_ACTION_FULL) {
    case SECCOMP_RET_ALLOW:
    case SECCOMP_RET_LOG:
      return std::nullopt;
    case SECCOMP_RET_ERRNO: {
      constexpr uint32_t kMost = 4095;  // MAX_ERRNO
      return answer(-long{std::min(decision & SECCOMP_RET_DATA, kMost)});
    }
    case SECCOMP_RET_TRACE:
    case SECCOMP_RET_USER_NOTIF:  // nobody listens
      return answer(-ENOSYS);
    case SECCOMP_RET_TRAP:
      registers.rax = number;  // as if the call had not been made; a handler may give it a result
      task.signals.raise_filtered(filtered_info(call, decision), false);
      return stopped;
    case SECCOMP_RET_KILL_THREAD: {
      const bool is_strict = task.seccomp.mode() == SECCOMP_MODE_STRICT;
      if (ends_alone(task)) return end_alone(is_strict ? SIGKILL : SIGSYS);
      if (is_strict) {
        task.signals.kill();
        return stopped;
      }
      [[fallthrough]];
    }
    default:
      registers.rax = number;
      task.signals.raise_filtered(filtered_info(call, decision), true);
      return stopped;
  }
}

long set_seccomp_mode(Call& call, uint64_t mode, uint64_t filter) {
  if (mode == SECCOMP_MODE_STRICT) return set_strict(call);
  if (mode == SECCOMP_MODE_FILTER) return set_filter(call, 0, filter);
  return -EINVAL;
}

namespace calls {

long seccomp(Call& call) {
  const uint64_t flags = static_cast<uint32_t>(call.args[1]), address = call.args[2];
  switch (static_cast<uint32_t>(call.args[0])) {
    case SECCOMP_SET_MODE_STRICT:
      return flags != 0 || address != 0 ? -EINVAL : set_strict(call);
    case SECCOMP_SET_MODE_FILTER:
      return set_filter(call, flags, address);
    case SECCOMP_GET_ACTION_AVAIL:
      return flags != 0 ? -EINVAL : knows_action(call, address);
    default:
      return -EINVAL;
  }
}

}  // namespace calls
}  // namespace aftercheck
