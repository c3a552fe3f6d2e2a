// Calls that make a process: what they ask for, checked as the kernel does. The process itself is the
// recording loop's to make (process_tree.h).
#include <fmt/format.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <csignal>
#include <string>
#include <vector>

#include "kvm-recorder/guest_threads.h"
#include "kvm-recorder/placement.h"
#include "kvm-recorder/process_tree.h"
#include "kvm-recorder/resource_limits.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

constexpr const char* kByItself = "Record the child's command by itself, where that is what matters";

// What parent and child would both have and either can change.
const Mapping* shared_memory(const AddressSpace& space) {
  for (const auto& [start, mapping] : space.mappings()) {
    if (!mapping.shared || mapping.left_out_of_forks) continue;
    const bool can_change = mapping.backing != Backing::file || mapping.number != 0;
    if (can_change) return &mapping;
  }
  return nullptr;
}

// Flags of a process that are not done, and what a user may do about it.
struct Undone {
  uint64_t flags;
  const char* meaning;
};
constexpr Undone kUndone[] = {
    {CLONE_FILES, "a child process that shares the table of descriptors"},
    {CLONE_FS, "a child process that shares the working directory"},
    {CLONE_PARENT, "a process beside the caller"},
    {CLONE_SYSVSEM, "a child process that shares the undoing of semaphores"},
    {CLONE_INTO_CGROUP, "a child process in another control group"},
};

}  // namespace

bool makes_process(uint64_t flags) {
  if ((flags & (CLONE_THREAD | CLONE_SIGHAND | kNewNamespaces)) != 0) return false;
  return (flags & CLONE_VM) == 0 || (flags & CLONE_VFORK) != 0;
}

long make_process(Call& call, const CloneArgs& wanted) {
  GuestProcess& process = call.process;
  if ((wanted.flags & CLONE_SETTLS) != 0 && wanted.tls >= kUserEnd) return -EPERM;
  if (process.refuses_children)
    return cannot_record(call, fmt::format("{} (a child process)", call.row.name), ENOSYS, kByItself);
  for (const Undone& undone : kUndone)
    if ((wanted.flags & undone.flags) != 0)
      return cannot_record(call, fmt::format("{} ({})", call.row.name, undone.meaning), ENOSYS, kByItself);
  if (wanted.exit_signal != SIGCHLD)
    return cannot_record(
        call, fmt::format("{} (a child process that ends with another signal than SIGCHLD)", call.row.name),
        ENOSYS, kByItself);
  if (!process.children_unrecorded && process.tree != nullptr && !process.tree->child_may_write())
    return cannot_record(
        call,
        fmt::format("{} (a child process as a user who may not write into the recording)", call.row.name),
        EAGAIN, "Record it into a directory, and with a --store, that this user may write into, too");
  if (const Mapping* shared = shared_memory(process.memory.space())) {
    if (process.children_unrecorded || process.threads == nullptr)
      return cannot_record(
          call,
          fmt::format("{} (a child process that is not recorded and would share memory, {:#x}-{:#x})",
                      call.row.name, shared->start, shared->end),
          ENOMEM, "Record the child processes, too (without --children=native)");
    process.threads->share_memory(call.task);
  }
  NewProcess& result = call.outcome.new_process;
  result.flags = wanted.flags;
  result.stack = wanted.stack;
  result.tls = wanted.tls;
  result.parent_tid = wanted.parent_tid;
  result.child_tid = wanted.child_tid;
  result.pidfd = wanted.pidfd;
  if (const auto limit = process.limits.find(RLIMIT_NPROC); limit != process.limits.end())
    if (limit->second.soft != RLIM_INFINITY) result.most_processes = limit->second.soft;
  call.outcome.kind = CallOutcome::Kind::new_process;
  return 0;
}

long execute_natively(Call& call, const std::string& path, const std::vector<std::string>& arguments,
                      const std::vector<std::string>& environment) {
  GuestProcess& process = call.process;
  if (process.memory_is_left) process.memory_is_left();
  std::vector<char*> argv, envp;
  for (const std::string& word : arguments) argv.push_back(const_cast<char*>(word.c_str()));
  for (const std::string& word : environment) envp.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  envp.push_back(nullptr);
  // What was kept for the guest alone is the process's from here on.
  for (const auto& [resource, limit] : process.limits)
    host_call(SYS_prlimit64, 0, static_cast<uint64_t>(resource), host_pointer(&limit));
  host_call(SYS_personality, process.personality);
  for (int signal = 1; signal <= kSignals; ++signal)
    if (process.signals.action(signal).handler == kHandlerIgnore) std::signal(signal, SIG_IGN);
  const uint64_t mask = call.task.signals.blocked();
  host_call(SYS_rt_sigprocmask, SIG_SETMASK, host_pointer(&mask), 0, sizeof mask);
  const long error =
      host_call(SYS_execve, host_pointer(path.c_str()), host_pointer(argv.data()), host_pointer(envp.data()));
  call.task.signals.kill();
  return error;
}

}  // namespace aftercheck
