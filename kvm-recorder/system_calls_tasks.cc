// Calls that make and end threads and processes.
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>

#include "kvm-recorder/guest_threads.h"
#include "kvm-recorder/operations.h"
#include "kvm-recorder/placement.h"
#include "kvm-recorder/process_tree.h"
#include "kvm-recorder/robust_locks.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {

void delete_timers(GuestProcess& process) {
  for (const int timer : process.timers) host_call(SYS_timer_delete, static_cast<uint64_t>(timer));
  process.timers.clear();
}

namespace {

// What the kernel refuses whoever asks (kernel/fork.c, copy_process()).
bool contradict(uint64_t flags) {
  const auto both = [&](uint64_t one, uint64_t other) { return (flags & one) != 0 && (flags & other) != 0; };
  return both(CLONE_NEWNS | CLONE_NEWUSER, CLONE_FS) ||
         ((flags & CLONE_THREAD) && !(flags & CLONE_SIGHAND)) ||
         ((flags & CLONE_SIGHAND) && !(flags & CLONE_VM)) || both(CLONE_SIGHAND, kCloneClearSighand) ||
         both(CLONE_THREAD, CLONE_NEWUSER | CLONE_NEWPID);
}

long refuse_new(Call& call, uint64_t flags) {
  if (contradict(flags)) return -EINVAL;
  if ((flags & kNewNamespaces & ~CLONE_NEWUSER) != 0 && !(flags & CLONE_NEWUSER) && !capable(CAP_SYS_ADMIN))
    return -EPERM;
  const auto task = std::ranges::find_if(
      new_tasks(), [&](const NewTask& row) { return row.flags == 0 || (flags & row.flags) != 0; });
  return cannot_record(call, fmt::format("{} ({})", call.row.name, task->meaning), ENOSYS, task->advice);
}

// A thread of this process: memory, descriptors and signal handlers are shared.
long new_thread(Call& call, const CloneArgs& wanted) {
  if ((wanted.flags & CLONE_SETTLS) != 0 && wanted.tls >= kUserEnd) return -EPERM;
  NewThread thread;
  thread.registers = call.registers;
  thread.registers.rax = 0;
  if (wanted.stack != 0) thread.registers.rsp = wanted.stack;
  if ((wanted.flags & CLONE_SETTLS) != 0) thread.registers.fs_base = wanted.tls;
  thread.own_folders = (wanted.flags & CLONE_FS) == 0;
  thread.own_undoing = (wanted.flags & CLONE_SYSVSEM) == 0;
  if ((wanted.flags & CLONE_CHILD_CLEARTID) != 0) thread.clear_child_tid = wanted.child_tid;
  const long number = call.process.threads->start(call.task, thread);
  if (number < 0) return number;
  // What can't be written the kernel leaves.
  const auto tid = static_cast<pid_t>(number);
  if ((wanted.flags & CLONE_PARENT_SETTID) != 0) call.answer.write_object(wanted.parent_tid, tid);
  if ((wanted.flags & CLONE_CHILD_SETTID) != 0) call.answer.write_object(wanted.child_tid, tid);
  return number;
}

// clone(2), by whichever call; `stack` is the stack's end.
long new_task(Call& call, const CloneArgs& wanted) {
  if (makes_process(wanted.flags) && !contradict(wanted.flags)) return make_process(call, wanted);
  constexpr uint64_t kShared = CLONE_THREAD | CLONE_VM | CLONE_SIGHAND | CLONE_FILES;
  constexpr uint64_t kUndone = CLONE_PIDFD | CLONE_VFORK | CLONE_INTO_CGROUP | kNewNamespaces;
  const bool possible = (wanted.flags & kShared) == kShared && (wanted.flags & kUndone) == 0 &&
                        !contradict(wanted.flags) && call.process.threads != nullptr;
  return possible ? new_thread(call, wanted) : refuse_new(call, wanted.flags);
}

}  // namespace

bool ends_alone(const GuestTask& task) {
  const GuestThreads* threads = task.process.threads;
  return threads != nullptr && threads->count() > 1;
}

CallOutcome end_of_thread(GuestTask& task, long value) {
  leave_robust_locks(task);
  // kernel/fork.c, mm_release().
  if (const uint64_t word = task.clear_child_tid; word != 0) {
    constexpr uint32_t kNone = 0;
    if (task.answer.write_object(word, kNone)) host_call(SYS_futex, word, FUTEX_WAKE, 1);
  }
  return {CallOutcome::Kind::thread_exited, value};
}

namespace calls {

long exit(Call& call) {
  if (call.row.number == SYS_exit && ends_alone(call.task)) {
    call.outcome = end_of_thread(call.task, static_cast<long>(call.args[0] & 0xff));
    return 0;
  }
  delete_timers(call.process);  // or they would go on for the recorder
  call.outcome.kind = CallOutcome::Kind::exited;
  call.outcome.value = static_cast<long>(call.args[0] & 0xff);
  return 0;
}

long sched_yield(Call& call) {
  call.task.yields = true;
  return call.task.waits != nullptr ? 0 : host_call(SYS_sched_yield);
}

long clone(Call& call) {
  CloneArgs wanted;
  wanted.flags = static_cast<uint32_t>(call.args[0]) & ~uint64_t{CSIGNAL};
  wanted.exit_signal = call.args[0] & CSIGNAL;
  wanted.stack = call.args[1];  // its end
  wanted.parent_tid = wanted.pidfd = call.args[2];
  wanted.child_tid = call.args[3];
  wanted.tls = call.args[4];
  // kernel/fork.c, kernel_clone(): both would be stored in one place.
  if ((wanted.flags & CLONE_PIDFD) != 0 && (wanted.flags & (CLONE_PARENT_SETTID | CLONE_DETACHED)) != 0)
    return -EINVAL;
  return new_task(call, wanted);
}

// Programs probe for it with nothing in their hands.
long clone3(Call& call) {
  constexpr uint64_t kFirstSize = 64, kSecondSize = 80;  // CLONE_ARGS_SIZE_VER0, _VER1
  const uint64_t size = call.args[1];
  if (size > kPageSize) return -E2BIG;
  if (size < kFirstSize) return -EINVAL;
  std::array<std::byte, kPageSize> bytes{};
  if (!call.process.memory.read(call.args[0], bytes.data(), size)) return -EFAULT;
  CloneArgs wanted;
  std::memcpy(&wanted, bytes.data(), sizeof wanted);
  if (std::any_of(bytes.begin() + sizeof wanted, bytes.end(), [](std::byte b) { return b != std::byte{0}; }))
    return -E2BIG;
  constexpr uint64_t kKnown = 0x3ffffffff;  // CLONE_LEGACY_FLAGS, CLONE_CLEAR_SIGHAND, CLONE_INTO_CGROUP
  if ((wanted.flags & ~kKnown) != 0 || (wanted.flags & (CLONE_DETACHED | (CSIGNAL & ~CLONE_NEWTIME))) != 0)
    return -EINVAL;
  // kernel/fork.c, copy_clone_args_from_user(), clone3_args_valid().
  if (wanted.exit_signal > kSignals) return -EINVAL;
  const bool sets_tid = size >= kSecondSize && wanted.set_tid_size != 0;
  if ((wanted.stack == 0) != (wanted.stack_size == 0)) return -EINVAL;
  if ((wanted.flags & (CLONE_THREAD | CLONE_PARENT)) != 0 && wanted.exit_signal != 0) return -EINVAL;
  if (sets_tid)
    return capable(CAP_SYS_ADMIN) ? cannot_record(call, "clone3 (a number of its own choice)", ENOSYS)
                                  : -EPERM;
  wanted.stack += wanted.stack_size;
  return new_task(call, wanted);
}

long fork(Call& call) {
  CloneArgs wanted;
  if (call.row.number == SYS_vfork) wanted.flags = CLONE_VFORK | CLONE_VM;
  wanted.exit_signal = SIGCHLD;
  return new_task(call, wanted);
}

long set_tid_address(Call& call) {
  call.task.clear_child_tid = call.args[0];
  return gettid();
}

long set_robust_list(Call& call) {
  constexpr uint64_t kHeadSize = 24;  // struct robust_list_head
  if (call.args[1] != kHeadSize) return -EINVAL;
  call.task.robust_list = call.args[0];
  return 0;
}

long get_robust_list(Call& call) {
  const int thread = call.fd(0);
  GuestThreads* const threads = call.process.threads;
  const GuestTask* task = &call.task;
  if (thread != 0 && thread != gettid()) task = threads != nullptr ? threads->find(thread) : nullptr;
  if (task == nullptr) return -EPERM;
  const uint64_t size = 24;
  const bool stored = call.answer.write_object(call.args[1], task->robust_list) &&
                      call.answer.write_object(call.args[2], size);
  return stored ? 0 : -EFAULT;
}

}  // namespace calls

const std::vector<NewTask>& new_tasks() {
  constexpr const char* kByItself = "Record the child's command by itself, where that is what matters";
  static const std::vector<NewTask> rows = {
      {CLONE_THREAD,
       "CLONE_THREAD with CLONE_VFORK, CLONE_PIDFD, CLONE_INTO_CGROUP or CLONE_NEW*, or without CLONE_FILES",
       "a new thread", "Run it with one thread, where it has an option for that"},
      {kNewNamespaces, "CLONE_NEW*", "a child process in namespaces of its own", kByItself},
      // sanitizer_stoptheworld_linux_libcdep.cpp
      {CLONE_UNTRACED, "CLONE_UNTRACED", "a child process that stops its parent, as LeakSanitizer does",
       "Set ASAN_OPTIONS=detect_leaks=0, where it is LeakSanitizer"},
      {CLONE_VM, "CLONE_VM", "a child process that shares the memory", kByItself},
      {CLONE_FILES | CLONE_FS | CLONE_SYSVSEM, "CLONE_FILES, CLONE_FS, CLONE_SYSVSEM without CLONE_THREAD",
       "a child process that shares descriptors, folders or the undoing of semaphores", kByItself},
      {CLONE_PARENT, "CLONE_PARENT", "a process beside the caller", kByItself},
      {0, "another signal than SIGCHLD at its end", "a child process that is not waited for as others are",
       kByItself},
  };
  return rows;
}

}  // namespace aftercheck
