// Prints docs/compatibility.md: what is done with each system call and its operations, as the recorder's
// tables have it. A test compares the page with what this prints.
#include <fmt/format.h>
#include <linux/capability.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "kvm-recorder/operations.h"
#include "kvm-recorder/recorder.h"
#include "kvm-recorder/system_call_table.h"
#include "system-calls/operation_names.h"

namespace aftercheck::tools {
namespace {

struct Family {
  const char* title;
  const char* calls;
};

constexpr Family kFamilies[] = {
    {"Files and directories",
     "open openat openat2 creat stat lstat newfstatat statx access faccessat faccessat2 truncate "
     "getcwd chdir fchdir rename renameat renameat2 mkdir mkdirat rmdir link linkat unlink unlinkat "
     "symlink symlinkat readlink readlinkat chmod fchmodat fchmodat2 chown lchown fchownat umask "
     "utime utimes utimensat futimesat mknod mknodat chroot statfs ustat name_to_handle_at "
     "open_by_handle_at setxattr lsetxattr getxattr lgetxattr listxattr llistxattr removexattr "
     "lremovexattr setxattrat getxattrat listxattrat removexattrat file_getattr file_setattr "
     "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_init fanotify_mark"},
    {"Descriptors, reading and writing",
     "read write close fstat lseek pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2 pipe "
     "pipe2 dup dup2 dup3 close_range fcntl flock fsync fdatasync ftruncate getdents getdents64 "
     "fchmod fchown fstatfs fsetxattr fgetxattr flistxattr fremovexattr sendfile splice tee vmsplice "
     "copy_file_range sync_file_range syncfs sync readahead fadvise64 fallocate ioctl cachestat"},
    {"Waiting for descriptors",
     "poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait "
     "epoll_pwait2 epoll_ctl_old epoll_wait_old eventfd eventfd2 timerfd_create timerfd_settime "
     "timerfd_gettime signalfd signalfd4"},
    {"Asynchronous input and output",
     "io_setup io_destroy io_getevents io_submit io_cancel io_pgetevents io_uring_setup "
     "io_uring_enter io_uring_register"},
    {"Sockets",
     "socket connect accept accept4 sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown bind "
     "listen getsockname getpeername socketpair setsockopt getsockopt"},
    {"Memory",
     "mmap mprotect munmap brk mremap msync mincore madvise mlock mlock2 munlock mlockall munlockall "
     "remap_file_pages memfd_create memfd_secret userfaultfd pkey_mprotect pkey_alloc pkey_free "
     "map_shadow_stack mseal membarrier process_madvise process_mrelease mbind set_mempolicy "
     "get_mempolicy set_mempolicy_home_node migrate_pages move_pages"},
    {"Processes and threads",
     "clone clone3 fork vfork execve execveat exit exit_group wait4 waitid getpid gettid getppid "
     "getpgrp getpgid setpgid getsid setsid set_tid_address set_robust_list get_robust_list futex "
     "futex_waitv futex_wake futex_wait futex_requeue rseq arch_prctl set_thread_area get_thread_area "
     "modify_ldt personality prctl ptrace process_vm_readv process_vm_writev kcmp pidfd_open "
     "pidfd_getfd unshare setns seccomp landlock_create_ruleset landlock_add_rule "
     "landlock_restrict_self lsm_get_self_attr lsm_set_self_attr lsm_list_modules"},
    {"Signals",
     "rt_sigaction rt_sigprocmask rt_sigpending rt_sigsuspend rt_sigtimedwait rt_sigqueueinfo "
     "rt_tgsigqueueinfo rt_sigreturn sigaltstack kill tkill tgkill pidfd_send_signal pause "
     "restart_syscall"},
    {"Time",
     "nanosleep clock_nanosleep getitimer setitimer alarm gettimeofday settimeofday time times "
     "clock_gettime clock_settime clock_getres clock_adjtime adjtimex timer_create timer_settime "
     "timer_gettime timer_getoverrun timer_delete"},
    {"Users and rights",
     "getuid getgid geteuid getegid setuid setgid setreuid setregid getgroups setgroups setresuid "
     "getresuid setresgid getresgid setfsuid setfsgid capget capset add_key request_key keyctl"},
    {"Scheduling and limits",
     "sched_yield sched_setparam sched_getparam sched_setscheduler sched_getscheduler "
     "sched_get_priority_max sched_get_priority_min sched_rr_get_interval sched_setaffinity "
     "sched_getaffinity sched_setattr sched_getattr getpriority setpriority ioprio_set ioprio_get "
     "getrlimit setrlimit prlimit64 getrusage getcpu"},
    {"Messages, semaphores and memory of System V and POSIX",
     "semget semop semctl semtimedop msgget msgsnd msgrcv msgctl shmget shmat shmctl shmdt mq_open "
     "mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr"},
    {"The system",
     "uname sysinfo sethostname setdomainname getrandom syslog sysfs _sysctl acct quotactl "
     "quotactl_fd swapon swapoff reboot vhangup iopl ioperm kexec_load kexec_file_load create_module "
     "init_module delete_module finit_module get_kernel_syms query_module mount umount2 pivot_root "
     "open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr statmount "
     "listmount bpf perf_event_open lookup_dcookie uselib nfsservctl getpmsg putpmsg afs_syscall "
     "tuxcall security vserver"},
};

struct Capability {
  int number;
  const char* name;
};

constexpr Capability kCapabilities[] = {
    {CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},   {CAP_SYS_BOOT, "CAP_SYS_BOOT"},
    {CAP_SYS_MODULE, "CAP_SYS_MODULE"}, {CAP_SYS_PACCT, "CAP_SYS_PACCT"},
    {CAP_SYS_RAWIO, "CAP_SYS_RAWIO"},   {CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"},
};

std::string capability_name(int number) {
  const auto* entry = std::ranges::find(kCapabilities, number, &Capability::number);
  if (entry == std::end(kCapabilities)) fail(ErrorKind::internal, "capability {} has no name here", number);
  return entry->name;
}

constexpr const char* kHead = R"(# What is recorded, and what is not

Made from the recorder's tables by `compatibility_page` (CONTRIBUTING.md says how); a test fails where this page differs from
them. What is done with a system call, or with an operation of one that is many in one:

- **recorded**: made on the host; the log has its result and what the kernel wrote
- **answered by the recorder**, where the host's answer would be the recorder's and not the program's: memory, signals, limits
- **refused without harm**: the error of a kernel that lacks the call, or that does not allow it. Programs probe for such calls and
  have another way. They are told with `record -v`
- **ends the recording**: it can't be recorded, and a program that is told of an error may do something else than it would
  natively. `record` ends the program there, with status {}, and says so; the recording replays up to that call. With
  `record --on-unsupported=continue` the call is answered with an error instead, and `record`, `info`, `replay` and `check`
  tell which calls that were, and how often. Where a capability is named, a program that lacks it gets EPERM as natively,
  and the recording goes on

Calls that are in no list here get ENOSYS, as unknown ones do natively. Numbers of processes: the recorder's own threads are none for
the program (ESRCH). A signal to oneself, whatever the call, is part of the recording. `kill(-1)`, a signal to every
process, is answered with EPERM, noted and told like the calls above, unless `record --allow kill-all` was given.

)";

void list(std::string& page, const char* title, const std::vector<std::string>& entries) {
  if (entries.empty()) return;
  constexpr size_t kWidth = 130;
  std::string line = fmt::format("- **{}**:", title);
  for (size_t i = 0; i < entries.size(); ++i) {
    const std::string word = entries[i] + (i + 1 < entries.size() ? "," : "");
    if (line.size() + 1 + word.size() > kWidth) {
      page += fmt::format("{}\n", line);
      line.assign(1, ' ');
    }
    line += fmt::format(" {}", word);
  }
  page += fmt::format("{}\n", line);
}

std::string ending(const SystemCall& row) {
  return row.capability < 0
             ? fmt::format("`{}` ({})", row.name, row.meaning)
             : fmt::format("`{}` ({}; needs {})", row.name, row.meaning, capability_name(row.capability));
}

void add_family(std::string& page, const Family& family,
                std::map<std::string_view, const SystemCall*>& left) {
  std::vector<std::string> recorded, answered, refused, ends, may_end;
  std::istringstream names(family.calls);
  for (std::string name; names >> name;) {
    const auto found = left.find(name);
    if (found == left.end()) fail(ErrorKind::internal, "{}: no such system call, or named twice", name);
    const SystemCall& row = *found->second;
    left.erase(found);
    if (row.klass == CallClass::refused)
      row.meaning != nullptr ? ends.push_back(ending(row))
                             : refused.push_back(fmt::format("`{}` ({})", name, strerrorname_np(row.error)));
    else
      (row.klass == CallClass::pass ? recorded : answered).push_back(fmt::format("`{}`", name));
    if (row.klass != CallClass::refused && row.meaning != nullptr) may_end.push_back(ending(row));
  }
  page += fmt::format("## {}\n\n", family.title);
  list(page, "recorded", recorded);
  list(page, "answered by the recorder", answered);
  list(page, "refused without harm", refused);
  list(page, "ends the recording", ends);
  list(page, "ends the recording in some cases", may_end);
  page += "\n";
}

void add_operations(std::string& page, const char* title, OperationOf call,
                    const std::vector<Operation>& operations, const char* others) {
  std::array<std::vector<std::string>, 4> by_treatment;
  for (const Operation& operation : operations) {
    const char* name = find_operation_name(call, operation.number);
    if (name == nullptr)
      fail(ErrorKind::internal, "{} {:#x} has no name in system-calls/operation_names.cc", title,
           operation.number);
    by_treatment.at(static_cast<size_t>(operation.treatment)).push_back(fmt::format("`{}`", name));
  }
  page += fmt::format("## Operations of {}\n\n", title);
  constexpr const char* kTitles[] = {"recorded", "answered by the recorder", "refused without harm",
                                     "ends the recording"};
  for (size_t i = 0; i < by_treatment.size(); ++i) list(page, kTitles[i], by_treatment.at(i));
  page += fmt::format("- **others**: {}\n\n", others);
}

std::string compatibility_page() {
  std::string page = fmt::format(fmt::runtime(kHead), kUnsupportedStatus);
  std::map<std::string_view, const SystemCall*> left;
  for (const SystemCall& row : system_call_table()) left.emplace(row.name, &row);
  for (const Family& family : kFamilies) add_family(page, family, left);
  if (!left.empty()) fail(ErrorKind::internal, "{}: in no family", left.begin()->first);
  page +=
      "## New threads and processes\n\nThreads as pthreads make them, and processes as `fork`, `vfork` and "
      "`posix_spawn` make them, are recorded.\n"
      "Of what else `clone` and `clone3` are asked for, by flags; the first line that fits:\n\n";
  for (const NewTask& task : new_tasks())
    page += fmt::format("- `{}`: ends the recording ({})\n", task.flag_names, task.meaning);
  page +=
      "\nCombinations that the kernel refuses (EINVAL), and namespaces without CAP_SYS_ADMIN or "
      "CLONE_NEWUSER (EPERM), are\n"
      "answered as it does. `unshare` of what a process of one thread has for itself succeeds, and of\n"
      "CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNET and CLONE_NEWCGROUP it is recorded.\n\n";
  add_operations(page, "ioctl", OperationOf::ioctl, ioctl_operations(),
                 "where the descriptor is a device (but for terminals and `/dev/null` and its kin), or a "
                 "socket and the request\n"
                 "  one of interfaces (0x89XX): ends the recording; elsewhere refused without harm (ENOTTY)");
  add_operations(page, "fcntl", OperationOf::fcntl, fcntl_operations(), "EINVAL, as natively");
  add_operations(page, "prctl", OperationOf::prctl, prctl_operations(), "refused without harm (EINVAL)");
  add_operations(page, "semctl", OperationOf::semctl, semctl_operations(), "EINVAL, as natively");
  add_operations(page, "msgctl", OperationOf::msgctl, msgctl_operations(), "EINVAL, as natively");
  add_operations(page, "shmctl", OperationOf::shmctl, shmctl_operations(), "EINVAL, as natively");
  add_operations(page, "keyctl", OperationOf::keyctl, keyctl_operations(),
                 "refused without harm (EOPNOTSUPP)");
  page.pop_back();
  return page;
}

}  // namespace
}  // namespace aftercheck::tools

int main() {
  try {
    std::fputs(aftercheck::tools::compatibility_page().c_str(), stdout);
    return std::fflush(stdout) == 0 ? 0 : 1;
  } catch (const aftercheck::Error& error) {
    std::fprintf(stderr, "compatibility_page: %s\n", error.what());
    return 1;
  }
}
