// Calls about the process itself: its end, execve, limits, prctl.
#include <asm/prctl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/kcmp.h>
#include <linux/membarrier.h>
#include <linux/prctl.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <csignal>
#include <cstring>

#include "base/error.h"
#include "base/fd.h"
#include "kvm-recorder/guest_threads.h"
#include "kvm-recorder/loader.h"
#include "kvm-recorder/operations.h"
#include "kvm-recorder/placement.h"
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

// The new image takes the old one's place. What find_program could not see ends the process, as in the kernel
// after its point of no return.
void replace_image(Call& call, const Program& program, const std::vector<std::string>& environment) {
  GuestProcess& process = call.process;
  if (process.memory_is_left) process.memory_is_left();
  if (process.threads != nullptr) process.threads->end_others(call.task);
  delete_timers(process);
  call.task.robust_list = 0;
  process.personality &= ~uint32_t{READ_IMPLIES_EXEC};  // set_personality_64bit()
  process.dumpable = 1;
  call.task.clear_child_tid = 0;
  process.signals.reset_for_exec(call.task.signals);
  close_on_exec(process);
  call.outcome.kind = CallOutcome::Kind::registers;
  call.outcome.fpu_changed = true;
  call.outcome.fpu = FpuState::initial();
  try {
    load_program(call.task, program, environment,
                 {.randomize = (process.personality & ADDR_NO_RANDOMIZE) == 0});
    call.registers = process.entry;
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::io) throw;
    const bool valid = error.kind() == ErrorKind::unsupported;
    if (valid) cannot_record(call, fmt::format("{} ({})", call.row.name, error.what()), ENOMEM);
    if (call.outcome.kind == CallOutcome::Kind::refused) return;
    if (!valid) tell_once(process, "execve", fmt::format("execve: {}; the guest is killed", error.what()));
    call.task.signals.kill();
  }
}

// `lost`: the name leads through a descriptor that exec closes, so no interpreter of a script could open it.
long execute(Call& call, std::string path, const std::string& shown, uint64_t argv, uint64_t envp,
             bool lost = false) {
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
    // Files may name others (an interpreter).
    const ProgramFiles& files = *program.files;
    for (const UniqueFd* fd : {&files.program.fd, files.interpreter ? &files.interpreter->fd : nullptr})
      if (const int error = fd != nullptr ? refusal(call.process, fd->get()) : 0) return -error;
    if (lost && program.script) return -ENOENT;
    if (call.process.unrecorded) return execute_natively(call, path, arguments, environment);
    program.execfn = shown;
    replace_image(call, program, environment);
    return 0;
  } catch (const Error& error) {
    if (call.outcome.kind == CallOutcome::Kind::registers || error.kind() == ErrorKind::io) throw;
    if (error.kind() == ErrorKind::unsupported)
      return cannot_record(call, fmt::format("{} ({})", call.row.name, error.what()), cause);
    return -cause;
  }
}

// A name as execve reads it. 0 or -errno.
long read_name(GuestProcess& process, uint64_t address, std::string& name) {
  if (process.memory.read_string(address, name, PATH_MAX)) return 0;
  std::array<char, PATH_MAX> whole;  // readable and without an end
  return process.memory.read(address, whole.data(), whole.size()) ? -ENAMETOOLONG : -EFAULT;
}

}  // namespace

namespace calls {

long execve(Call& call) {
  std::string path;
  if (const long error = read_name(call.process, call.args[0], path)) return error;
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
  if (const long error = read_name(call.process, call.args[1], path)) return error;
  if (path.empty() && !(flags & AT_EMPTY_PATH)) return -ENOENT;
  if (!call.process.descriptors.allowed(directory)) return -EBADF;
  struct stat status {};
  if ((flags & AT_SYMLINK_NOFOLLOW) && fstatat(directory, path.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
      S_ISLNK(status.st_mode))
    return -ELOOP;
  std::string file = path, shown = path;
  bool lost = false;
  if (directory != AT_FDCWD && (path.empty() || path[0] != '/')) {
    const long descriptor_flags = host_call(SYS_fcntl, static_cast<uint64_t>(directory), F_GETFD);
    if (descriptor_flags < 0) return -EBADF;
    lost = (descriptor_flags & FD_CLOEXEC) != 0;
    file = fmt::format("/proc/self/fd/{}{}{}", directory, path.empty() ? "" : "/", path);
    shown = fmt::format("/dev/fd/{}{}{}", directory, path.empty() ? "" : "/", path);
  } else if (path.find('/') == std::string::npos) {
    file = "./" + path;
  }
  return execute(call, file, shown, call.args[2], call.args[3], lost);
}

// What a process of one thread shares with nobody: it has it for itself already (kernel/fork.c,
// ksys_unshare()). Of namespaces the host thread can have its own where the recorder has nothing in them;
// mounts, users and process numbers are the recorder's as well.
long unshare(Call& call) {
  constexpr uint64_t kOwn = CLONE_THREAD | CLONE_FS | CLONE_SIGHAND | CLONE_VM | CLONE_FILES | CLONE_SYSVSEM;
  const uint64_t flags = call.args[0];
  if ((flags & ~(kOwn | kNewNamespaces)) != 0) return -EINVAL;
  if (call.process.threads != nullptr && call.process.threads->count() > 1) {
    if ((flags & (CLONE_THREAD | CLONE_SIGHAND | CLONE_VM)) != 0) return -EINVAL;
    if ((flags & CLONE_FILES) != 0)
      return cannot_record(call, "unshare (descriptors of a thread's own)", EPERM);
    if ((flags & CLONE_FS) != 0 && host_call(SYS_unshare, CLONE_FS) != 0) return -ENOMEM;
  }
  if ((flags & kNewNamespaces) == 0) return 0;
  if (!(flags & CLONE_NEWUSER) && !capable(CAP_SYS_ADMIN)) return -EPERM;
  constexpr uint64_t kHarmless = CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP;
  if ((flags & kNewNamespaces & ~kHarmless) == 0) {
    const long result = host_call(SYS_unshare, flags & kHarmless);
    if (result == 0 && (flags & CLONE_NEWIPC) != 0) ++call.process.ipc_namespace;
    return result;
  }
  return cannot_record(call, "unshare (namespaces of its own)", EPERM);
}

long arch_prctl(Call& call) {
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
    // CPUID never faults, and can't be made to: as on a processor without that.
    case ARCH_GET_CPUID:
      return 1;
    case ARCH_SET_CPUID:
      return -ENODEV;
    default:
      return -EINVAL;
  }
}

long membarrier(Call& call) { return call.args[0] == MEMBARRIER_CMD_QUERY ? 0 : -EINVAL; }

long set_clock(Call& call) {
  const long result = pass(call);
  if (result >= 0) call.process.own_files.distrust_times();
  return result;
}

long kcmp(Call& call) {
  const uint64_t type = call.args[2];
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

long interrupted(Call&) { return -EINTR; }

// What it changes is done here (addresses of the next program, READ_IMPLIES_EXEC) or nowhere; only the name
// and version that uname(2) tells are the kernel's to change, and they don't matter to the recorder.
long personality(Call& call) {
  constexpr uint32_t kQuery = 0xffff'ffff, kOfNames = uint32_t{PER_MASK} | uint32_t{UNAME26};
  const auto wanted = static_cast<uint32_t>(call.args[0]);
  const uint32_t old = call.process.personality;
  if (wanted == kQuery) return old;
  call.process.personality = wanted;
  const auto own = static_cast<uint32_t>(host_call(SYS_personality, kQuery));
  host_call(SYS_personality, (own & ~kOfNames) | (wanted & kOfNames));
  return old;
}

}  // namespace calls

}  // namespace aftercheck
