// Calls about the process itself: its end, execve, limits, prctl.
#include <asm/prctl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <linux/membarrier.h>
#include <linux/prctl.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <csignal>

#include "base/error.h"
#include "base/fd.h"
#include "kvm-recorder/loader.h"
#include "kvm-recorder/proc_files.h"
#include "kvm-recorder/reach.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

// Limits of the kernel for one string and for all of them (include/uapi/linux/binfmts.h, fs/exec.c).
constexpr size_t kMaxString = 128 * 1024;
constexpr size_t kMaxStrings = 6 * 1024 * 1024;

// argv or envp. 0 or -errno; `total` counts bytes over both.
long read_strings(GuestProcess& process, uint64_t address, std::vector<std::string>& strings, size_t& total) {
  if (address == 0) return 0;  // Linux takes NULL as an empty list
  for (;; address += sizeof(uint64_t)) {
    uint64_t pointer = 0;
    if (!process.memory.read_object(address, pointer)) return -EFAULT;
    if (pointer == 0) return 0;
    std::string text;
    if (!process.memory.read_string(pointer, text, kMaxString)) {
      char first = 0;
      return process.memory.read(pointer, &first, 1) ? -E2BIG : -EFAULT;
    }
    total += text.size() + 1 + sizeof(uint64_t);
    if (total > kMaxStrings) return -E2BIG;
    strings.push_back(std::move(text));
  }
}

void close_on_exec(GuestProcess& process) {
  for (const int fd : open_descriptors()) {
    const long flags =
        process.descriptors.allowed(fd) ? host_call(SYS_fcntl, static_cast<uint64_t>(fd), F_GETFD) : -1;
    if (flags < 0 || !(flags & FD_CLOEXEC)) continue;
    host_call(SYS_close, static_cast<uint64_t>(fd));
    process.descriptors.closed(fd);
  }
}

void delete_timers(GuestProcess& process) {
  for (const int timer : process.timers) host_call(SYS_timer_delete, static_cast<uint64_t>(timer));
  process.timers.clear();
}

// The new image takes the old one's place. What find_program could not see ends the process, as in the kernel
// after its point of no return.
void replace_image(Call& call, const Program& program, const std::vector<std::string>& environment) {
  GuestProcess& process = call.process;
  delete_timers(process);
  call.task.robust_list = 0;
  process.signals.reset_for_exec(call.task.signals);
  close_on_exec(process);
  call.outcome.kind = CallOutcome::Kind::registers;
  call.outcome.fpu_changed = true;
  call.outcome.fpu = FpuState::initial();
  try {
    load_program(call.task, program, environment);
    call.registers = process.entry;
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::io) throw;
    tell_once(process, "execve", fmt::format("execve: {}; the guest is killed", error.what()));
    siginfo_t info{};
    info.si_signo = SIGKILL;
    info.si_code = SI_KERNEL;
    call.task.signals.raise(SIGKILL, info);
  }
}

long execute(Call& call, std::string path, const std::string& shown, uint64_t argv, uint64_t envp) {
  std::vector<std::string> arguments, environment;
  size_t total = 0;
  if (const long error = read_strings(call.process, argv, arguments, total)) return error;
  if (const long error = read_strings(call.process, envp, environment, total)) return error;
  if (arguments.empty()) arguments.emplace_back();  // as the kernel since 5.18
  Reached reached = reach(call.process, {AT_FDCWD, path});
  if (reached.error != 0) return -reached.error;
  if (!reached.instead.empty()) path = std::move(reached.instead);
  int cause = ENOEXEC;
  try {
    Program program = find_program(path, arguments, environment, &cause);
    program.execfn = shown;
    replace_image(call, program, environment);
    return 0;
  } catch (const Error& error) {
    if (call.outcome.kind == CallOutcome::Kind::registers || error.kind() == ErrorKind::io) throw;
    return -cause;
  }
}

void refuse_new(Call& call, const char* what) {
  tell_once(
      call.process, what,
      fmt::format("the guest called {} (a {}): not supported yet, answered ENOSYS", call.row.name, what));
}

}  // namespace

namespace calls {

long exit(Call& call) {
  delete_timers(call.process);  // or they would go on for the recorder
  call.outcome.kind = CallOutcome::Kind::exited;
  call.outcome.value = static_cast<long>(call.args[0] & 0xff);
  return 0;
}

long execve(Call& call) {
  std::string path;
  if (!call.process.memory.read_string(call.args[0], path, PATH_MAX)) return -EFAULT;
  if (path.empty()) return -ENOENT;
  // A name without '/' is a file of the working directory here; find_program would search PATH.
  const std::string file = path.find('/') == std::string::npos ? "./" + path : path;
  return execute(call, file, path, call.args[1], call.args[2]);
}

long execveat(Call& call) {
  const auto flags = static_cast<int>(call.args[4]);
  const int directory = call.fd(0);
  if (flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)) return -EINVAL;
  std::string path;
  if (!call.process.memory.read_string(call.args[1], path, PATH_MAX)) return -EFAULT;
  if (path.empty() && !(flags & AT_EMPTY_PATH)) return -ENOENT;
  if (!call.process.descriptors.allowed(directory)) return -EBADF;
  struct stat status {};
  if ((flags & AT_SYMLINK_NOFOLLOW) && fstatat(directory, path.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
      S_ISLNK(status.st_mode))
    return -ELOOP;
  std::string file = path, shown = path;
  if (directory != AT_FDCWD && (path.empty() || path[0] != '/')) {
    if (host_call(SYS_fcntl, static_cast<uint64_t>(directory), F_GETFD) < 0) return -EBADF;
    file = fmt::format("/proc/self/fd/{}{}{}", directory, path.empty() ? "" : "/", path);
    shown = fmt::format("/dev/fd/{}{}{}", directory, path.empty() ? "" : "/", path);
  } else if (path.find('/') == std::string::npos) {
    file = "./" + path;
  }
  return execute(call, file, shown, call.args[2], call.args[3]);
}

long clone(Call& call) {
  refuse_new(call, call.args[0] & CLONE_THREAD ? "new thread" : "child process");
  return -ENOSYS;
}

long clone3(Call& call) {
  uint64_t flags = 0;
  call.process.memory.read_object(call.args[0], flags);  // the first member of struct clone_args
  refuse_new(call, flags & CLONE_THREAD ? "new thread" : "child process");
  return -ENOSYS;
}

long fork(Call& call) {
  refuse_new(call, "child process");
  return -ENOSYS;
}

long arch_prctl(Call& call) {
  constexpr uint64_t kUserEnd = 0x7fff'ffff'f000;  // TASK_SIZE_MAX
  const uint64_t address = call.args[1];
  switch (static_cast<int>(call.args[0])) {
    case ARCH_SET_FS:
    case ARCH_SET_GS:
      if (address >= kUserEnd) return -EPERM;
      (static_cast<int>(call.args[0]) == ARCH_SET_FS ? call.registers.fs_base : call.registers.gs_base) =
          address;
      return 0;
    case ARCH_GET_FS:
      return call.answer.write_object(address, call.registers.fs_base) ? 0 : -EFAULT;
    case ARCH_GET_GS:
      return call.answer.write_object(address, call.registers.gs_base) ? 0 : -EFAULT;
    default:
      return -EINVAL;
  }
}

long set_tid_address(Call&) { return gettid(); }

long set_robust_list(Call& call) {
  constexpr uint64_t kHeadSize = 24;  // struct robust_list_head
  if (call.args[1] != kHeadSize) return -EINVAL;
  call.task.robust_list = call.args[0];
  return 0;
}

long get_robust_list(Call& call) {
  const int thread = call.fd(0);
  if (thread != 0 && thread != gettid()) return -EPERM;
  const uint64_t size = 24;
  const bool stored = call.answer.write_object(call.args[1], call.task.robust_list) &&
                      call.answer.write_object(call.args[2], size);
  return stored ? 0 : -EFAULT;
}

long membarrier(Call& call) { return call.args[0] == MEMBARRIER_CMD_QUERY ? 0 : -EINVAL; }

long set_clock(Call& call) {
  const long result = pass(call);
  if (result >= 0) call.process.own_files.distrust_times();
  return result;
}

long kcmp(Call& call) {
  const uint64_t type = call.args[2];
  if (is_recorder_thread(call.fd(0)) || is_recorder_thread(call.fd(1))) return -ESRCH;
  const auto open_to_guest = [&](size_t index) { return call.process.descriptors.allowed(call.fd(index)); };
  if ((type == KCMP_FILE || type == KCMP_EPOLL_TFD) && !open_to_guest(3)) return -EBADF;
  if (type == KCMP_FILE && !open_to_guest(4)) return -EBADF;
  uint64_t last = call.args[4];
  kcmp_epoll_slot slot{};
  if (type == KCMP_EPOLL_TFD) {
    if (!call.process.memory.read_object(last, slot)) return -EFAULT;
    if (!call.process.descriptors.allowed(static_cast<int>(slot.efd)) ||
        !call.process.descriptors.allowed(static_cast<int>(slot.tfd)))
      return -EBADF;
    last = host_pointer(&slot);
  }
  return host_call(SYS_kcmp, call.args[0], call.args[1], type, call.args[3], last);
}

long io_priority(Call& call) {
  constexpr int kProcess = 1;  // IOPRIO_WHO_PROCESS, include/uapi/linux/ioprio.h
  if (call.fd(0) == kProcess && is_recorder_thread(call.fd(1))) return -ESRCH;
  return pass(call);
}

long succeed(Call&) { return 0; }

long interrupted(Call&) { return -EINTR; }

long personality(Call&) { return 0; }  // PER_LINUX; what it would change the recorder must not inherit

}  // namespace calls
}  // namespace aftercheck
