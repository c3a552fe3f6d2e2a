#include "kvm-recorder/system_call_table.h"

#include <linux/capability.h>
#include <linux/ioprio.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <initializer_list>
#include <string_view>

#include "kvm-recorder/system_calls.h"
#include "system-calls/system_call_list.h"

namespace aftercheck {
namespace {

// The vocabulary of the rows. Structure sizes: its UAPI headers for x86-64 (checked against the kernel by
// tests/kvm-recorder/syscall_writes.cc).
using enum Wait;
constexpr Arg v{};
constexpr Arg fd{ArgKind::fd};
constexpr Arg path{ArgKind::path};
constexpr Arg nested{ArgKind::nested};
constexpr Arg length{ArgKind::length_inout};
constexpr uint8_t n32(uint8_t argument) { return static_cast<uint8_t>(argument | Arg::kInt); }
constexpr Arg in(uint16_t size, uint8_t count = Arg::kOnce, uint8_t extra = 0) {
  return {ArgKind::in, count, size, extra};
}
constexpr Arg out(uint16_t size, uint8_t count = Arg::kOnce) { return {ArgKind::out, count, size}; }
constexpr Arg inout(uint16_t size, uint8_t count = Arg::kOnce) { return {ArgKind::inout, count, size}; }
constexpr Arg remaining(uint16_t size) { return {ArgKind::inout_always, Arg::kOnce, size}; }
// As much as the result says, at most what argument `count` allows.
constexpr Arg got(uint16_t size, uint8_t count, uint8_t extra = 0) {
  return {ArgKind::out_result, count, size, extra};
}
constexpr Arg address(uint8_t length_argument) { return {ArgKind::address_out, length_argument}; }
constexpr Arg iov_in{ArgKind::iovec_in}, iov_out{ArgKind::iovec_out};
constexpr Arg msg_in{ArgKind::message_in}, msg_out{ArgKind::message_out};

using Handler = long (*)(Call&);
using Args = std::initializer_list<Arg>;

constexpr SystemCall row(const char* name, CallClass klass, Args args, Wait wait, Handler handler) {
  SystemCall call{};
  call.name = name;
  call.klass = klass;
  call.wait = wait;
  call.handler = handler;
  std::copy(args.begin(), args.end(), call.args);
  return call;
}
constexpr SystemCall pass(const char* name, Args args = {}, Wait wait = never, Handler handler = nullptr) {
  return row(name, CallClass::pass, args, wait, handler);
}
constexpr SystemCall opens(const char* name, Args args = {}, Wait wait = never, Handler handler = nullptr) {
  SystemCall call = row(name, CallClass::pass, args, wait, handler);
  call.makes_fd = true;
  return call;
}
constexpr SystemCall own(const char* name, Handler handler, Args args = {}, Wait wait = never) {
  return row(name, CallClass::own, args, wait, handler);
}
constexpr SystemCall space(const char* name, Handler handler) {
  return row(name, CallClass::space, {}, never, handler);
}
constexpr SystemCall refused(const char* name, int error = ENOSYS, bool quiet = false) {
  SystemCall call = row(name, CallClass::refused, {}, never, nullptr);
  call.error = static_cast<int16_t>(error);
  call.quiet = quiet;
  return call;
}
constexpr bool kQuiet = true;
// A program would go on wrongly if it were told that there is no such call.
constexpr SystemCall ends(const char* name, const char* meaning, int capability = -1) {
  SystemCall call = refused(name);
  call.meaning = meaning;
  call.capability = static_cast<int8_t>(capability);
  return call;
}
// It has a handler, which ends the recording for some arguments.
constexpr SystemCall may_end(SystemCall call, const char* meaning) {
  call.meaning = meaning;
  return call;
}
// `pids`: a bit for each argument that is the number of a process or thread.
constexpr SystemCall aimed(SystemCall call, uint8_t pids = 1, int8_t only_if = -1) {
  call.pids = pids;
  call.pids_if = only_if;
  return call;
}
constexpr SystemCall changes_rights(SystemCall call) {
  call.changes_rights = true;
  return call;
}
constexpr uint8_t kSecond = 2, kFirstTwo = 3;

// In the order of the list of system calls.
constexpr SystemCall kRows[] = {
    pass("read", {fd, got(1, 2), v}, restarts),
    pass("write", {fd, in(1, 2), v}, restarts, calls::write),
    opens("open", {path, v, v}, restarts, calls::open),
    pass("close", {fd}, never, calls::close),
    pass("stat", {path, out(144)}, never, calls::stat),
    pass("fstat", {fd, out(144)}),
    pass("lstat", {path, out(144)}, never, calls::stat),
    pass("poll", {nested, v, v}, unless_handled, calls::poll),
    pass("lseek", {fd, v, v}, never, calls::lseek),
    space("mmap", calls::mmap),
    space("mprotect", calls::mprotect),
    space("munmap", calls::munmap),
    space("brk", calls::brk),
    own("rt_sigaction", calls::rt_sigaction),
    own("rt_sigprocmask", calls::rt_sigprocmask),
    own("rt_sigreturn", calls::rt_sigreturn),
    may_end(pass("ioctl", {fd, v, nested}, restarts, calls::ioctl),
            "a request to a device or an interface that is not listed"),
    pass("pread64", {fd, got(1, 2), v, v}, restarts),
    pass("pwrite64", {fd, in(1, 2), v, v}, restarts, calls::write),
    pass("readv", {fd, iov_out, v}, restarts, calls::readv),
    pass("writev", {fd, iov_in, v}, restarts, calls::writev),
    pass("access", {path, v}),
    pass("pipe", {out(8)}, never, calls::two_descriptors),
    pass("select", {v, nested, nested, nested, remaining(16)}, unless_handled, calls::select),
    own("sched_yield", calls::sched_yield),
    space("mremap", calls::mremap),
    pass("msync", {in(1, 1), v, v}, never, calls::msync),
    pass("mincore", {in(1, 1), v, nested}, never, calls::mincore),
    space("madvise", calls::madvise),
    pass("shmget", {v, v, v}, never, calls::shmget),
    may_end(space("shmat", calls::shmat), "a segment of huge pages"),
    pass("shmctl", {v, v, nested}, never, calls::shmctl),
    opens("dup", {fd}, never, calls::dup),
    pass("dup2", {fd, fd}, never, calls::dup2),
    pass("pause", {}, unless_handled, calls::pause),
    pass("nanosleep", {in(16), out(16)}, unless_handled, calls::nanosleep),
    pass("getitimer", {v, out(32)}),
    pass("alarm", {v}),
    pass("setitimer", {v, in(32), out(32)}),
    pass("getpid"),
    pass("sendfile", {fd, fd, inout(8), v}, restarts, calls::copy_to_fd),
    opens("socket", {v, v, v}),
    pass("connect", {fd, in(1, n32(2)), v}, restarts),
    opens("accept", {fd, address(2), length}, restarts),
    pass("sendto", {fd, in(1, 2), v, v, in(1, n32(5)), v}, restarts, calls::write),
    pass("recvfrom", {fd, got(1, 2), v, v, address(5), length}, restarts),
    pass("sendmsg", {fd, msg_in, v}, restarts, calls::sendmsg),
    pass("recvmsg", {fd, msg_out, v}, restarts, calls::recvmsg),
    pass("shutdown", {fd, v}),
    pass("bind", {fd, in(1, n32(2)), v}),
    pass("listen", {fd, v}),
    pass("getsockname", {fd, address(2), length}),
    pass("getpeername", {fd, address(2), length}),
    pass("socketpair", {v, v, v, out(8)}, never, calls::two_descriptors),
    pass("setsockopt", {fd, v, v, nested, v}, never, calls::setsockopt),
    pass("getsockopt", {fd, v, v, nested, length}, never, calls::getsockopt),
    may_end(own("clone", calls::clone), "some threads and processes, see below"),
    may_end(own("fork", calls::fork),
            "while memory is shared that --children=native would not record, or as a user who may not write "
            "into the recording"),
    may_end(own("vfork", calls::fork),
            "while memory is shared that --children=native would not record, or as a user who may not write "
            "into the recording"),
    may_end(own("execve", calls::execve), "a 32-bit program, or one that has no room"),
    own("exit", calls::exit),
    pass("wait4", {v, out(4), v, out(144)}, restarts),
    own("kill", calls::kill),
    pass("uname", {out(390)}),
    pass("semget", {v, v, v}),
    pass("semop", {v, in(6, n32(2)), v}, interrupted),
    pass("semctl", {v, v, v, nested}, never, calls::semctl),
    space("shmdt", calls::shmdt),
    pass("msgget", {v, v}),
    pass("msgsnd", {v, in(1, 2, 8), v, v}, unless_handled, calls::send_queued),
    pass("msgrcv", {v, got(1, 2, 8), v, v, v}, unless_handled),
    pass("msgctl", {v, v, nested}, never, calls::msgctl),
    pass("fcntl", {fd, v, nested}, restarts, calls::fcntl),
    pass("flock", {fd, v}, restarts),
    pass("fsync", {fd}),
    pass("fdatasync", {fd}),
    pass("truncate", {path, v}, never, calls::truncate),
    pass("ftruncate", {fd, v}, never, calls::file_changed),
    pass("getdents", {fd, got(1, n32(2)), v}, never, calls::getdents),
    pass("getcwd", {got(1, 1), v}),
    pass("chdir", {path}),
    pass("fchdir", {fd}),
    pass("rename", {path, path}),
    pass("mkdir", {path, v}),
    pass("rmdir", {path}),
    opens("creat", {path, v}, restarts, calls::open),
    pass("link", {path, path}),
    pass("unlink", {path}),
    pass("symlink", {path, path}),
    pass("readlink", {path, got(1, n32(2)), v}, never, calls::readlink),
    pass("chmod", {path, v}),
    pass("fchmod", {fd, v}),
    pass("chown", {path, v, v}),
    pass("fchown", {fd, v, v}),
    pass("lchown", {path, v, v}),
    changes_rights(pass("umask", {v})),
    pass("gettimeofday", {out(16), out(8)}),
    own("getrlimit", calls::getrlimit),
    pass("getrusage", {v, out(144)}),
    pass("sysinfo", {out(112)}),
    pass("times", {out(32)}),
    ends("ptrace", "tracing another process, or being traced"),
    pass("getuid"),
    refused("syslog", EPERM),
    pass("getgid"),
    changes_rights(pass("setuid", {v})),
    changes_rights(pass("setgid", {v})),
    pass("geteuid"),
    pass("getegid"),
    aimed(pass("setpgid", {v, v})),
    pass("getppid"),
    pass("getpgrp"),
    pass("setsid"),
    changes_rights(pass("setreuid", {v, v})),
    changes_rights(pass("setregid", {v, v})),
    pass("getgroups", {v, got(4, n32(0))}),
    changes_rights(pass("setgroups", {v, in(4, n32(0))})),
    changes_rights(pass("setresuid", {v, v, v})),
    pass("getresuid", {out(4), out(4), out(4)}),
    changes_rights(pass("setresgid", {v, v, v})),
    pass("getresgid", {out(4), out(4), out(4)}),
    aimed(pass("getpgid", {v})),
    changes_rights(pass("setfsuid", {v})),
    changes_rights(pass("setfsgid", {v})),
    aimed(pass("getsid", {v})),
    pass("capget", {inout(8), out(24)}, never, calls::capget),
    changes_rights(pass("capset", {inout(8), in(24)})),
    own("rt_sigpending", calls::rt_sigpending),
    own("rt_sigtimedwait", calls::rt_sigtimedwait),
    own("rt_sigqueueinfo", calls::rt_sigqueueinfo),
    own("rt_sigsuspend", calls::rt_sigsuspend),
    own("sigaltstack", calls::sigaltstack),
    pass("utime", {path, in(16)}),
    pass("mknod", {path, v, v}),
    refused("uselib", ENOSYS, kQuiet),  // as most kernels
    own("personality", calls::personality),
    pass("ustat", {v, out(32)}),
    pass("statfs", {path, out(120)}),
    pass("fstatfs", {fd, out(120)}),
    refused("sysfs"),
    aimed(pass("getpriority", {v, v}), kSecond, PRIO_PROCESS),
    aimed(pass("setpriority", {v, v, v}), kSecond, PRIO_PROCESS),
    aimed(pass("sched_setparam", {v, in(4)})),
    aimed(pass("sched_getparam", {v, out(4)})),
    aimed(pass("sched_setscheduler", {v, v, in(4)})),
    aimed(pass("sched_getscheduler", {v})),
    pass("sched_get_priority_max", {v}),
    pass("sched_get_priority_min", {v}),
    aimed(pass("sched_rr_get_interval", {v, out(16)})),
    pass("mlock", {in(1, 1), v}, never, calls::mlock),
    pass("munlock", {in(1, 1), v}, never, calls::munlock),
    own("mlockall", calls::mlockall),
    own("munlockall", calls::munlockall),
    pass("vhangup"),
    ends("modify_ldt", "segments of its own"),
    ends("pivot_root", "another root directory", CAP_SYS_ADMIN),
    refused("_sysctl", ENOSYS, kQuiet),
    changes_rights(own("prctl", calls::prctl)),
    own("arch_prctl", calls::arch_prctl),
    pass("adjtimex", {inout(208)}, never, calls::set_clock),
    own("setrlimit", calls::setrlimit),
    changes_rights(pass("chroot", {path})),
    pass("sync"),
    ends("acct", "process accounting", CAP_SYS_PACCT),
    pass("settimeofday", {in(16), in(8)}, never, calls::set_clock),
    ends("mount", "mounting", CAP_SYS_ADMIN),
    ends("umount2", "unmounting", CAP_SYS_ADMIN),
    ends("swapon", "swap space", CAP_SYS_ADMIN),
    ends("swapoff", "swap space", CAP_SYS_ADMIN),
    ends("reboot", "rebooting", CAP_SYS_BOOT),
    pass("sethostname", {in(1, n32(1)), v}),
    pass("setdomainname", {in(1, n32(1)), v}),
    ends("iopl", "access to ports", CAP_SYS_RAWIO),
    ends("ioperm", "access to ports", CAP_SYS_RAWIO),
    refused("create_module", ENOSYS, kQuiet),
    ends("init_module", "loading a kernel module", CAP_SYS_MODULE),
    ends("delete_module", "removing a kernel module", CAP_SYS_MODULE),
    refused("get_kernel_syms", ENOSYS, kQuiet),
    refused("query_module", ENOSYS, kQuiet),
    ends("quotactl", "disk quotas", CAP_SYS_ADMIN),
    refused("nfsservctl", ENOSYS, kQuiet),
    refused("getpmsg", ENOSYS, kQuiet),
    refused("putpmsg", ENOSYS, kQuiet),
    refused("afs_syscall", ENOSYS, kQuiet),
    refused("tuxcall", ENOSYS, kQuiet),
    refused("security", ENOSYS, kQuiet),
    pass("gettid"),
    pass("readahead", {fd, v, v}),
    pass("setxattr", {path, path, in(1, 3), v, v}),
    pass("lsetxattr", {path, path, in(1, 3), v, v}),
    pass("fsetxattr", {fd, path, in(1, 3), v, v}),
    pass("getxattr", {path, path, got(1, 3), v}),
    pass("lgetxattr", {path, path, got(1, 3), v}),
    pass("fgetxattr", {fd, path, got(1, 3), v}),
    pass("listxattr", {path, got(1, 2), v}),
    pass("llistxattr", {path, got(1, 2), v}),
    pass("flistxattr", {fd, got(1, 2), v}),
    pass("removexattr", {path, path}),
    pass("lremovexattr", {path, path}),
    pass("fremovexattr", {fd, path}),
    own("tkill", calls::tkill),
    pass("time", {out(8)}),
    pass("futex", {nested, v, v, nested, nested, v}, restarts, calls::futex),
    aimed(pass("sched_setaffinity", {v, v, in(1, n32(1))}, never, calls::affinity)),
    aimed(pass("sched_getaffinity", {v, v, got(1, n32(1))}, never, calls::affinity)),
    refused("set_thread_area", ENOSYS, kQuiet),  // as the 64-bit kernel
    refused("io_setup"),                         // the kernel maps its ring where it likes
    refused("io_destroy"),
    refused("io_getevents"),
    refused("io_submit"),
    refused("io_cancel"),
    refused("get_thread_area", ENOSYS, kQuiet),
    refused("lookup_dcookie"),
    opens("epoll_create", {v}),
    refused("epoll_ctl_old", ENOSYS, kQuiet),
    refused("epoll_wait_old", ENOSYS, kQuiet),
    ends("remap_file_pages", "pages of a file in another order"),
    pass("getdents64", {fd, got(1, n32(2)), v}, never, calls::getdents),
    own("set_tid_address", calls::set_tid_address),
    own("restart_syscall", calls::interrupted),
    pass("semtimedop", {v, in(6, n32(2)), v, in(16)}, interrupted),
    pass("fadvise64", {fd, v, v, v}),
    own("timer_create", calls::timer_create, {v, in(64), out(4)}),
    pass("timer_settime", {v, v, in(32), out(32)}),
    pass("timer_gettime", {v, out(32)}),
    pass("timer_getoverrun", {v}),
    own("timer_delete", calls::timer_delete, {v}),
    pass("clock_settime", {v, in(16)}, never, calls::set_clock),
    pass("clock_gettime", {v, out(16)}),
    pass("clock_getres", {v, out(16)}),
    pass("clock_nanosleep", {v, v, in(16), out(16)}, unless_handled, calls::clock_nanosleep),
    own("exit_group", calls::exit),
    pass("epoll_wait", {fd, nested, v, v}, interrupted, calls::epoll_wait),
    pass("epoll_ctl", {fd, v, fd, in(12)}),
    own("tgkill", calls::tgkill),
    pass("utimes", {path, in(32)}),
    refused("vserver", ENOSYS, kQuiet),
    refused("mbind", ENOSYS, kQuiet),
    refused("set_mempolicy", ENOSYS, kQuiet),
    refused("get_mempolicy", ENOSYS, kQuiet),
    opens("mq_open", {path, v, v, in(64)}),
    pass("mq_unlink", {path}),
    pass("mq_timedsend", {fd, in(1, 2), v, v, in(16)}, restarts, calls::send_queued),
    pass("mq_timedreceive", {fd, got(1, 2), v, out(4), in(16)}, restarts),
    pass("mq_notify", {fd, nested}, never, calls::mq_notify),
    pass("mq_getsetattr", {fd, in(64), out(64)}),
    ends("kexec_load", "another kernel", CAP_SYS_BOOT),
    pass("waitid", {v, v, out(128), v, out(144)}, restarts),
    pass("add_key", {path, path, in(1, 3), v, v}),
    pass("request_key", {path, path, path, v}),
    changes_rights(pass("keyctl", {}, never, calls::keyctl)),
    aimed(pass("ioprio_set", {v, v, v}), kSecond, IOPRIO_WHO_PROCESS),
    aimed(pass("ioprio_get", {v, v}), kSecond, IOPRIO_WHO_PROCESS),
    opens("inotify_init"),
    pass("inotify_add_watch", {fd, path, v}),
    pass("inotify_rm_watch", {fd, v}),
    refused("migrate_pages", ENOSYS, kQuiet),
    opens("openat", {fd, path, v, v}, restarts, calls::open),
    pass("mkdirat", {fd, path, v}),
    pass("mknodat", {fd, path, v, v}),
    pass("fchownat", {fd, path, v, v, v}),
    pass("futimesat", {fd, path, in(32)}),
    pass("newfstatat", {fd, path, out(144), v}, never, calls::stat),
    pass("unlinkat", {fd, path, v}),
    pass("renameat", {fd, path, fd, path}),
    pass("linkat", {fd, path, fd, path, v}),
    pass("symlinkat", {path, fd, path}),
    pass("readlinkat", {fd, path, got(1, n32(3)), v}, never, calls::readlink),
    pass("fchmodat", {fd, path, v}),
    pass("faccessat", {fd, path, v}),
    pass("pselect6", {v, nested, nested, nested, remaining(16), nested}, unless_handled, calls::select),
    pass("ppoll", {nested, v, remaining(16), nested, v}, unless_handled, calls::poll),
    changes_rights(may_end(own("unshare", calls::unshare), "namespaces of its own")),
    own("set_robust_list", calls::set_robust_list),
    aimed(own("get_robust_list", calls::get_robust_list)),
    pass("splice", {fd, inout(8), fd, inout(8), v, v}, restarts, calls::copy_to_fd),
    pass("tee", {fd, fd, v, v}, restarts, calls::copy_to_fd),
    pass("sync_file_range", {fd, v, v, v}),
    pass("vmsplice", {fd, iov_in, v, v}, restarts, calls::vmsplice),
    refused("move_pages", ENOSYS, kQuiet),
    pass("utimensat", {fd, path, in(32), v}),
    pass("epoll_pwait", {fd, nested, v, v, nested, v}, interrupted, calls::epoll_wait),
    opens("signalfd", {fd, in(1, 2), v}, never, calls::signalfd),
    opens("timerfd_create", {v, v}),
    opens("eventfd", {v}),
    pass("fallocate", {fd, v, v, v}, never, calls::file_changed),
    pass("timerfd_settime", {fd, v, in(32), out(32)}),
    pass("timerfd_gettime", {fd, out(32)}),
    opens("accept4", {fd, address(2), length, v}, restarts),
    opens("signalfd4", {fd, in(1, 2), v, v}, never, calls::signalfd),
    opens("eventfd2", {v, v}),
    opens("epoll_create1", {v}),
    pass("dup3", {fd, fd, v}, never, calls::dup2),
    pass("pipe2", {out(8), v}, never, calls::two_descriptors),
    opens("inotify_init1", {v}),
    pass("preadv", {fd, iov_out, v, v, v}, restarts, calls::readv),
    pass("pwritev", {fd, iov_in, v, v, v}, restarts, calls::writev),
    own("rt_tgsigqueueinfo", calls::rt_tgsigqueueinfo),
    refused("perf_event_open"),
    pass("recvmmsg", {fd, nested, v, v, remaining(16)}, restarts, calls::recvmmsg),
    ends("fanotify_init", "watching a file system", CAP_SYS_ADMIN),
    ends("fanotify_mark", "watching a file system", CAP_SYS_ADMIN),
    aimed(own("prlimit64", calls::prlimit64)),
    pass("name_to_handle_at", {fd, path, nested, out(4), v}, never, calls::name_to_handle_at),
    ends("open_by_handle_at", "opening a file by its handle", CAP_DAC_READ_SEARCH),
    pass("clock_adjtime", {v, inout(208)}, never, calls::set_clock),
    pass("syncfs", {fd}),
    pass("sendmmsg", {fd, nested, v, v}, restarts, calls::sendmmsg),
    ends("setns", "entering another process's namespace"),
    pass("getcpu", {out(4), out(4), v}),
    aimed(own("process_vm_readv", calls::process_vm)),
    aimed(own("process_vm_writev", calls::process_vm)),
    aimed(pass("kcmp", {v, v, v, v, v}, never, calls::kcmp), kFirstTwo),
    ends("finit_module", "loading a kernel module", CAP_SYS_MODULE),
    aimed(pass("sched_setattr", {v, inout(56), v})),  // E2BIG: the size that the kernel knows
    aimed(pass("sched_getattr", {v, out(1, n32(2)), v, v})),
    pass("renameat2", {fd, path, fd, path, v}),
    own("seccomp", calls::seccomp),
    pass("getrandom", {got(1, 1), v, v}, restarts),
    opens("memfd_create", {path, v}),
    ends("kexec_file_load", "another kernel", CAP_SYS_BOOT),
    refused("bpf"),
    may_end(own("execveat", calls::execveat), "a 32-bit program, or one that has no room"),
    refused("userfaultfd"),
    own("membarrier", calls::membarrier),
    pass("mlock2", {in(1, 1), v, v}, never, calls::mlock),
    pass("copy_file_range", {fd, inout(8), fd, inout(8), v, v}, restarts, calls::copy_to_fd),
    pass("preadv2", {fd, iov_out, v, v, v, v}, restarts, calls::readv),
    pass("pwritev2", {fd, iov_in, v, v, v, v}, restarts, calls::writev),
    refused("pkey_mprotect", ENOSYS, kQuiet),
    refused("pkey_alloc", ENOSYS, kQuiet),
    refused("pkey_free", ENOSYS, kQuiet),
    pass("statx", {fd, path, v, v, out(256)}, never, calls::stat),
    refused("io_pgetevents"),
    refused("rseq", ENOSYS, kQuiet),
    pass("pidfd_send_signal", {fd, v, in(128), v}, never, calls::pidfd_send_signal),
    refused("io_uring_setup"),
    refused("io_uring_enter"),
    refused("io_uring_register"),
    refused("open_tree"),
    refused("move_mount"),
    refused("fsopen"),
    refused("fsconfig"),
    refused("fsmount"),
    refused("fspick"),
    aimed(opens("pidfd_open", {v, v})),
    may_end(own("clone3", calls::clone3), "some threads and processes, see below"),
    pass("close_range", {v, v, v}, never, calls::close_range),
    opens("openat2", {fd, path, in(1, 3), v}, restarts, calls::open),
    opens("pidfd_getfd", {fd, v, v}, never, calls::pidfd_getfd),
    pass("faccessat2", {fd, path, v, v}),
    refused("process_madvise", ENOSYS, kQuiet),
    pass("epoll_pwait2", {fd, nested, v, in(16), nested, v}, interrupted, calls::epoll_wait),
    refused("mount_setattr"),
    refused("quotactl_fd"),
    refused("landlock_create_ruleset", ENOSYS, kQuiet),
    refused("landlock_add_rule", ENOSYS, kQuiet),
    refused("landlock_restrict_self", ENOSYS, kQuiet),
    refused("memfd_secret"),
    refused("process_mrelease"),
    refused("futex_waitv"),
    refused("set_mempolicy_home_node", ENOSYS, kQuiet),
    refused("cachestat", ENOSYS, kQuiet),
    pass("fchmodat2", {fd, path, v, v}),
    refused("map_shadow_stack", ENOSYS, kQuiet),
    refused("futex_wake"),
    refused("futex_wait"),
    refused("futex_requeue"),
    refused("statmount", ENOSYS, kQuiet),
    refused("listmount", ENOSYS, kQuiet),
    refused("lsm_get_self_attr", ENOSYS, kQuiet),
    refused("lsm_set_self_attr", ENOSYS, kQuiet),
    refused("lsm_list_modules", ENOSYS, kQuiet),
    refused("mseal", ENOSYS, kQuiet),
    refused("setxattrat", ENOSYS, kQuiet),
    refused("getxattrat", ENOSYS, kQuiet),
    refused("listxattrat", ENOSYS, kQuiet),
    refused("removexattrat", ENOSYS, kQuiet),
    refused("open_tree_attr"),
    refused("file_getattr", ENOSYS, kQuiet),
    refused("file_setattr", ENOSYS, kQuiet),
};

// What the list shows of an argument must be what the row says of it. Of calls that the recorder answers by
// itself the rows may say nothing.
constexpr bool agree(const SystemCall& row, const SystemCallEntry& entry) {
  const std::string_view letters = entry.arguments;
  for (size_t i = 0; i < std::size(row.args); ++i) {
    const ArgKind kind = row.args[i].kind;
    const char letter = kind == ArgKind::value ? 'v' : kind == ArgKind::fd ? 'f' : 'p';
    if (letter != (i < letters.size() ? letters[i] : 'v')) return false;
  }
  return row.name == std::string_view(entry.name);
}

// A row that is missing, in the wrong place or in disagreement does not compile.
static_assert(std::size(kRows) == std::size(kSystemCallList));
constexpr auto kTable = [] {
  std::array<SystemCall, std::size(kRows)> table{};
  for (size_t i = 0; i < table.size(); ++i) {
    if (!agree(kRows[i], kSystemCallList[i])) throw kRows[i].name;
    table[i] = kRows[i];
    table[i].number = kSystemCallList[i].number;
  }
  return table;
}();

constexpr size_t kNumbers = kTable.back().number + 1;
constexpr auto kIndex = [] {
  std::array<int16_t, kNumbers> index{};
  index.fill(-1);
  int16_t position = 0;
  for (const SystemCall& call : kTable) index.at(call.number) = position++;
  return index;
}();

}  // namespace

const SystemCall* find_system_call(uint64_t number) {
  if (number >= kNumbers || kIndex[number] < 0) return nullptr;
  return &kTable[kIndex[number]];
}

std::span<const SystemCall> system_call_table() { return kTable; }

}  // namespace aftercheck
