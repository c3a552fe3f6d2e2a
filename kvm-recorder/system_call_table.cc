#include "kvm-recorder/system_call_table.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <initializer_list>
#include <string>

#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

// The vocabulary of the rows. Numbers and arguments: arch/x86/entry/syscalls/syscall_64.tbl of the kernel;
// structure sizes: its UAPI headers for x86-64 (checked against the kernel by
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

constexpr SystemCall row(uint16_t number, const char* name, CallClass klass, Args args, Wait wait,
                         Handler handler) {
  SystemCall call{};
  call.number = number;
  call.name = name;
  call.klass = klass;
  call.wait = wait;
  call.handler = handler;
  std::copy(args.begin(), args.end(), call.args);
  return call;
}
constexpr SystemCall pass(uint16_t number, const char* name, Args args = {}, Wait wait = never,
                          Handler handler = nullptr) {
  return row(number, name, CallClass::pass, args, wait, handler);
}
constexpr SystemCall opens(uint16_t number, const char* name, Args args = {}, Wait wait = never,
                           Handler handler = nullptr) {
  SystemCall call = row(number, name, CallClass::pass, args, wait, handler);
  call.makes_fd = true;
  return call;
}
constexpr SystemCall own(uint16_t number, const char* name, Handler handler, Args args = {},
                         Wait wait = never) {
  return row(number, name, CallClass::own, args, wait, handler);
}
constexpr SystemCall space(uint16_t number, const char* name, Handler handler) {
  return row(number, name, CallClass::space, {}, never, handler);
}
constexpr SystemCall refused(uint16_t number, const char* name, int error = ENOSYS, bool quiet = false) {
  SystemCall call = row(number, name, CallClass::refused, {}, never, nullptr);
  call.error = static_cast<int16_t>(error);
  call.quiet = quiet;
  return call;
}
constexpr bool kQuiet = true;

constexpr SystemCall kTable[] = {
    pass(0, "read", {fd, got(1, 2), v}, restarts),
    pass(1, "write", {fd, in(1, 2), v}, restarts, calls::write),
    opens(2, "open", {path, v, v}, restarts, calls::open),
    pass(3, "close", {fd}, never, calls::close),
    pass(4, "stat", {path, out(144)}, never, calls::stat),
    pass(5, "fstat", {fd, out(144)}),
    pass(6, "lstat", {path, out(144)}),
    pass(7, "poll", {nested, v, v}, unless_handled, calls::poll),
    pass(8, "lseek", {fd, v, v}),
    space(9, "mmap", calls::mmap),
    space(10, "mprotect", calls::mprotect),
    space(11, "munmap", calls::munmap),
    space(12, "brk", calls::brk),
    own(13, "rt_sigaction", calls::rt_sigaction),
    own(14, "rt_sigprocmask", calls::rt_sigprocmask),
    own(15, "rt_sigreturn", calls::rt_sigreturn),
    pass(16, "ioctl", {fd, v, nested}, restarts, calls::ioctl),
    pass(17, "pread64", {fd, got(1, 2), v, v}, restarts),
    pass(18, "pwrite64", {fd, in(1, 2), v, v}, restarts, calls::write),
    pass(19, "readv", {fd, iov_out, v}, restarts, calls::readv),
    pass(20, "writev", {fd, iov_in, v}, restarts, calls::writev),
    pass(21, "access", {path, v}),
    pass(22, "pipe", {out(8)}),
    pass(23, "select", {v, nested, nested, nested, remaining(16)}, unless_handled, calls::select),
    pass(24, "sched_yield"),
    space(25, "mremap", calls::mremap),
    pass(26, "msync", {in(1, 1), v, v}),
    pass(27, "mincore", {in(1, 1), v, nested}, never, calls::mincore),
    space(28, "madvise", calls::madvise),
    refused(29, "shmget"),
    refused(30, "shmat"),
    refused(31, "shmctl"),
    opens(32, "dup", {fd}, never, calls::dup),
    pass(33, "dup2", {fd, fd}, never, calls::dup2),
    pass(34, "pause", {}, unless_handled, calls::pause),
    pass(35, "nanosleep", {in(16), out(16)}, unless_handled, calls::nanosleep),
    pass(36, "getitimer", {v, out(32)}),
    pass(37, "alarm", {v}),
    pass(38, "setitimer", {v, in(32), out(32)}),
    pass(39, "getpid"),
    pass(40, "sendfile", {fd, fd, inout(8), v}, restarts, calls::copy_to_fd),
    opens(41, "socket", {v, v, v}),
    pass(42, "connect", {fd, in(1, n32(2)), v}, restarts),
    opens(43, "accept", {fd, address(2), length}, restarts),
    pass(44, "sendto", {fd, in(1, 2), v, v, in(1, n32(5)), v}, restarts, calls::write),
    pass(45, "recvfrom", {fd, got(1, 2), v, v, address(5), length}, restarts),
    pass(46, "sendmsg", {fd, msg_in, v}, restarts, calls::sendmsg),
    pass(47, "recvmsg", {fd, msg_out, v}, restarts, calls::recvmsg),
    pass(48, "shutdown", {fd, v}),
    pass(49, "bind", {fd, in(1, n32(2)), v}),
    pass(50, "listen", {fd, v}),
    pass(51, "getsockname", {fd, address(2), length}),
    pass(52, "getpeername", {fd, address(2), length}),
    pass(53, "socketpair", {v, v, v, out(8)}),
    pass(54, "setsockopt", {fd, v, v, nested, v}, never, calls::setsockopt),
    pass(55, "getsockopt", {fd, v, v, nested, length}, never, calls::getsockopt),
    own(56, "clone", calls::clone),
    own(57, "fork", calls::fork),
    own(58, "vfork", calls::fork),
    own(59, "execve", calls::execve),
    own(60, "exit", calls::exit),
    pass(61, "wait4", {v, out(4), v, out(144)}, restarts),
    own(62, "kill", calls::kill),
    pass(63, "uname", {out(390)}),
    pass(64, "semget", {v, v, v}),
    pass(65, "semop", {v, in(6, n32(2)), v}, interrupted),
    pass(66, "semctl", {v, v, v, nested}, never, calls::semctl),
    refused(67, "shmdt"),
    pass(68, "msgget", {v, v}),
    pass(69, "msgsnd", {v, in(1, 2, 8), v, v}, unless_handled, calls::send_queued),
    pass(70, "msgrcv", {v, got(1, 2, 8), v, v, v}, unless_handled),
    pass(71, "msgctl", {v, v, nested}, never, calls::msgctl),
    pass(72, "fcntl", {fd, v, nested}, restarts, calls::fcntl),
    pass(73, "flock", {fd, v}, restarts),
    pass(74, "fsync", {fd}),
    pass(75, "fdatasync", {fd}),
    pass(76, "truncate", {path, v}),
    pass(77, "ftruncate", {fd, v}, never, calls::file_changed),
    pass(78, "getdents", {fd, got(1, n32(2)), v}, never, calls::getdents),
    pass(79, "getcwd", {got(1, 1), v}),
    pass(80, "chdir", {path}),
    pass(81, "fchdir", {fd}),
    pass(82, "rename", {path, path}),
    pass(83, "mkdir", {path, v}),
    pass(84, "rmdir", {path}),
    opens(85, "creat", {path, v}, restarts, calls::open),
    pass(86, "link", {path, path}),
    pass(87, "unlink", {path}),
    pass(88, "symlink", {path, path}),
    pass(89, "readlink", {path, got(1, n32(2)), v}, never, calls::readlink),
    pass(90, "chmod", {path, v}),
    pass(91, "fchmod", {fd, v}),
    pass(92, "chown", {path, v, v}),
    pass(93, "fchown", {fd, v, v}),
    pass(94, "lchown", {path, v, v}),
    pass(95, "umask", {v}),
    pass(96, "gettimeofday", {out(16), out(8)}),
    own(97, "getrlimit", calls::getrlimit),
    pass(98, "getrusage", {v, out(144)}),
    pass(99, "sysinfo", {out(112)}),
    pass(100, "times", {out(32)}),
    refused(101, "ptrace"),
    pass(102, "getuid"),
    refused(103, "syslog", EPERM),
    pass(104, "getgid"),
    pass(105, "setuid", {v}),
    pass(106, "setgid", {v}),
    pass(107, "geteuid"),
    pass(108, "getegid"),
    pass(109, "setpgid", {v, v}),
    pass(110, "getppid"),
    pass(111, "getpgrp"),
    pass(112, "setsid"),
    pass(113, "setreuid", {v, v}),
    pass(114, "setregid", {v, v}),
    pass(115, "getgroups", {v, got(4, n32(0))}),
    pass(116, "setgroups", {v, in(4, n32(0))}),
    pass(117, "setresuid", {v, v, v}),
    pass(118, "getresuid", {out(4), out(4), out(4)}),
    pass(119, "setresgid", {v, v, v}),
    pass(120, "getresgid", {out(4), out(4), out(4)}),
    pass(121, "getpgid", {v}),
    pass(122, "setfsuid", {v}),
    pass(123, "setfsgid", {v}),
    pass(124, "getsid", {v}),
    pass(125, "capget", {inout(8), out(24)}, never, calls::capget),
    pass(126, "capset", {inout(8), in(24)}),
    own(127, "rt_sigpending", calls::rt_sigpending),
    own(128, "rt_sigtimedwait", calls::rt_sigtimedwait),
    own(129, "rt_sigqueueinfo", calls::rt_sigqueueinfo),
    own(130, "rt_sigsuspend", calls::rt_sigsuspend),
    own(131, "sigaltstack", calls::sigaltstack),
    pass(132, "utime", {path, in(16)}),
    pass(133, "mknod", {path, v, v}),
    refused(134, "uselib"),
    own(135, "personality", calls::personality),
    pass(136, "ustat", {v, out(32)}),
    pass(137, "statfs", {path, out(120)}),
    pass(138, "fstatfs", {fd, out(120)}),
    refused(139, "sysfs"),
    pass(140, "getpriority", {v, v}),
    pass(141, "setpriority", {v, v, v}),
    pass(142, "sched_setparam", {v, in(4)}),
    pass(143, "sched_getparam", {v, out(4)}),
    pass(144, "sched_setscheduler", {v, v, in(4)}),
    pass(145, "sched_getscheduler", {v}),
    pass(146, "sched_get_priority_max", {v}),
    pass(147, "sched_get_priority_min", {v}),
    pass(148, "sched_rr_get_interval", {v, out(16)}),
    pass(149, "mlock", {in(1, 1), v}),
    pass(150, "munlock", {in(1, 1), v}),
    own(151, "mlockall", calls::succeed),  // would lock the recorder and its windows
    own(152, "munlockall", calls::succeed),
    pass(153, "vhangup"),
    refused(154, "modify_ldt"),
    refused(155, "pivot_root"),
    refused(156, "_sysctl", ENOSYS, kQuiet),
    own(157, "prctl", calls::prctl),
    own(158, "arch_prctl", calls::arch_prctl),
    pass(159, "adjtimex", {inout(208)}),
    own(160, "setrlimit", calls::setrlimit),
    pass(161, "chroot", {path}),
    pass(162, "sync"),
    refused(163, "acct"),
    pass(164, "settimeofday", {in(16), in(8)}),
    refused(165, "mount"),
    refused(166, "umount2"),
    refused(167, "swapon"),
    refused(168, "swapoff"),
    refused(169, "reboot"),
    pass(170, "sethostname", {in(1, n32(1)), v}),
    pass(171, "setdomainname", {in(1, n32(1)), v}),
    refused(172, "iopl"),
    refused(173, "ioperm"),
    refused(174, "create_module", ENOSYS, kQuiet),
    refused(175, "init_module"),
    refused(176, "delete_module"),
    refused(177, "get_kernel_syms", ENOSYS, kQuiet),
    refused(178, "query_module", ENOSYS, kQuiet),
    refused(179, "quotactl"),
    refused(180, "nfsservctl", ENOSYS, kQuiet),
    refused(181, "getpmsg", ENOSYS, kQuiet),
    refused(182, "putpmsg", ENOSYS, kQuiet),
    refused(183, "afs_syscall", ENOSYS, kQuiet),
    refused(184, "tuxcall", ENOSYS, kQuiet),
    refused(185, "security", ENOSYS, kQuiet),
    pass(186, "gettid"),
    pass(187, "readahead", {fd, v, v}),
    pass(188, "setxattr", {path, path, in(1, 3), v, v}),
    pass(189, "lsetxattr", {path, path, in(1, 3), v, v}),
    pass(190, "fsetxattr", {fd, path, in(1, 3), v, v}),
    pass(191, "getxattr", {path, path, got(1, 3), v}),
    pass(192, "lgetxattr", {path, path, got(1, 3), v}),
    pass(193, "fgetxattr", {fd, path, got(1, 3), v}),
    pass(194, "listxattr", {path, got(1, 2), v}),
    pass(195, "llistxattr", {path, got(1, 2), v}),
    pass(196, "flistxattr", {fd, got(1, 2), v}),
    pass(197, "removexattr", {path, path}),
    pass(198, "lremovexattr", {path, path}),
    pass(199, "fremovexattr", {fd, path}),
    own(200, "tkill", calls::tkill),
    pass(201, "time", {out(8)}),
    pass(202, "futex", {nested, v, v, nested, nested, v}, restarts, calls::futex),
    pass(203, "sched_setaffinity", {v, v, in(1, n32(1))}),
    pass(204, "sched_getaffinity", {v, v, got(1, n32(1))}),
    refused(205, "set_thread_area", ENOSYS, kQuiet),  // as the 64-bit kernel
    refused(206, "io_setup"),                         // the kernel maps its ring where it likes
    refused(207, "io_destroy"),
    refused(208, "io_getevents"),
    refused(209, "io_submit"),
    refused(210, "io_cancel"),
    refused(211, "get_thread_area", ENOSYS, kQuiet),
    refused(212, "lookup_dcookie"),
    opens(213, "epoll_create", {v}),
    refused(214, "epoll_ctl_old", ENOSYS, kQuiet),
    refused(215, "epoll_wait_old", ENOSYS, kQuiet),
    refused(216, "remap_file_pages"),
    pass(217, "getdents64", {fd, got(1, n32(2)), v}, never, calls::getdents),
    own(218, "set_tid_address", calls::set_tid_address),
    own(219, "restart_syscall", calls::interrupted),
    pass(220, "semtimedop", {v, in(6, n32(2)), v, in(16)}, interrupted),
    pass(221, "fadvise64", {fd, v, v, v}),
    own(222, "timer_create", calls::timer_create, {v, in(64), out(4)}),
    pass(223, "timer_settime", {v, v, in(32), out(32)}),
    pass(224, "timer_gettime", {v, out(32)}),
    pass(225, "timer_getoverrun", {v}),
    own(226, "timer_delete", calls::timer_delete, {v}),
    pass(227, "clock_settime", {v, in(16)}),
    pass(228, "clock_gettime", {v, out(16)}),
    pass(229, "clock_getres", {v, out(16)}),
    pass(230, "clock_nanosleep", {v, v, in(16), out(16)}, unless_handled, calls::clock_nanosleep),
    own(231, "exit_group", calls::exit),
    pass(232, "epoll_wait", {fd, nested, v, v}, interrupted, calls::epoll_wait),
    pass(233, "epoll_ctl", {fd, v, fd, in(12)}),
    own(234, "tgkill", calls::tgkill),
    pass(235, "utimes", {path, in(32)}),
    refused(236, "vserver", ENOSYS, kQuiet),
    refused(237, "mbind", ENOSYS, kQuiet),
    refused(238, "set_mempolicy", ENOSYS, kQuiet),
    refused(239, "get_mempolicy", ENOSYS, kQuiet),
    opens(240, "mq_open", {path, v, v, in(64)}),
    pass(241, "mq_unlink", {path}),
    pass(242, "mq_timedsend", {fd, in(1, 2), v, v, in(16)}, restarts, calls::send_queued),
    pass(243, "mq_timedreceive", {fd, got(1, 2), v, out(4), in(16)}, restarts),
    refused(244, "mq_notify"),
    pass(245, "mq_getsetattr", {fd, in(64), out(64)}),
    refused(246, "kexec_load"),
    pass(247, "waitid", {v, v, out(128), v, out(144)}, restarts),
    refused(248, "add_key"),
    refused(249, "request_key"),
    refused(250, "keyctl"),
    pass(251, "ioprio_set", {v, v, v}),
    pass(252, "ioprio_get", {v, v}),
    opens(253, "inotify_init"),
    pass(254, "inotify_add_watch", {fd, path, v}),
    pass(255, "inotify_rm_watch", {fd, v}),
    refused(256, "migrate_pages", ENOSYS, kQuiet),
    opens(257, "openat", {fd, path, v, v}, restarts, calls::open),
    pass(258, "mkdirat", {fd, path, v}),
    pass(259, "mknodat", {fd, path, v, v}),
    pass(260, "fchownat", {fd, path, v, v, v}),
    pass(261, "futimesat", {fd, path, in(32)}),
    pass(262, "newfstatat", {fd, path, out(144), v}, never, calls::stat),
    pass(263, "unlinkat", {fd, path, v}),
    pass(264, "renameat", {fd, path, fd, path}),
    pass(265, "linkat", {fd, path, fd, path, v}),
    pass(266, "symlinkat", {path, fd, path}),
    pass(267, "readlinkat", {fd, path, got(1, n32(3)), v}, never, calls::readlink),
    pass(268, "fchmodat", {fd, path, v}),
    pass(269, "faccessat", {fd, path, v}),
    pass(270, "pselect6", {v, nested, nested, nested, remaining(16), nested}, unless_handled, calls::select),
    pass(271, "ppoll", {nested, v, remaining(16), nested, v}, unless_handled, calls::poll),
    refused(272, "unshare"),
    own(273, "set_robust_list", calls::set_robust_list),
    own(274, "get_robust_list", calls::get_robust_list),
    pass(275, "splice", {fd, inout(8), fd, inout(8), v, v}, restarts, calls::copy_to_fd),
    pass(276, "tee", {fd, fd, v, v}, restarts, calls::copy_to_fd),
    pass(277, "sync_file_range", {fd, v, v, v}),
    refused(278, "vmsplice", EINVAL, kQuiet),  // would let the guest change bytes after they left
    refused(279, "move_pages", ENOSYS, kQuiet),
    pass(280, "utimensat", {fd, path, in(32), v}),
    pass(281, "epoll_pwait", {fd, nested, v, v, nested, v}, interrupted, calls::epoll_wait),
    refused(282, "signalfd"),
    opens(283, "timerfd_create", {v, v}),
    opens(284, "eventfd", {v}),
    pass(285, "fallocate", {fd, v, v, v}, never, calls::file_changed),
    pass(286, "timerfd_settime", {fd, v, in(32), out(32)}),
    pass(287, "timerfd_gettime", {fd, out(32)}),
    opens(288, "accept4", {fd, address(2), length, v}, restarts),
    refused(289, "signalfd4"),
    opens(290, "eventfd2", {v, v}),
    opens(291, "epoll_create1", {v}),
    pass(292, "dup3", {fd, fd, v}, never, calls::dup2),
    pass(293, "pipe2", {out(8), v}),
    opens(294, "inotify_init1", {v}),
    pass(295, "preadv", {fd, iov_out, v, v, v}, restarts, calls::readv),
    pass(296, "pwritev", {fd, iov_in, v, v, v}, restarts, calls::writev),
    own(297, "rt_tgsigqueueinfo", calls::rt_tgsigqueueinfo),
    refused(298, "perf_event_open"),
    pass(299, "recvmmsg", {fd, nested, v, v, remaining(16)}, restarts, calls::recvmmsg),
    refused(300, "fanotify_init"),
    refused(301, "fanotify_mark"),
    own(302, "prlimit64", calls::prlimit64),
    pass(303, "name_to_handle_at", {fd, path, nested, out(4), v}, never, calls::name_to_handle_at),
    refused(304, "open_by_handle_at"),
    pass(305, "clock_adjtime", {v, inout(208)}),
    pass(306, "syncfs", {fd}),
    pass(307, "sendmmsg", {fd, nested, v, v}, restarts, calls::sendmmsg),
    refused(308, "setns"),
    pass(309, "getcpu", {out(4), out(4), v}),
    refused(310, "process_vm_readv"),
    refused(311, "process_vm_writev"),
    pass(312, "kcmp", {v, v, v, v, v}),
    refused(313, "finit_module"),
    pass(314, "sched_setattr", {v, in(56), v}),
    pass(315, "sched_getattr", {v, out(1, n32(2)), v, v}),
    pass(316, "renameat2", {fd, path, fd, path, v}),
    refused(317, "seccomp", EINVAL),
    pass(318, "getrandom", {got(1, 1), v, v}, restarts),
    opens(319, "memfd_create", {path, v}),
    refused(320, "kexec_file_load"),
    refused(321, "bpf"),
    own(322, "execveat", calls::execveat),
    refused(323, "userfaultfd"),
    own(324, "membarrier", calls::membarrier),
    pass(325, "mlock2", {in(1, 1), v, v}),
    pass(326, "copy_file_range", {fd, inout(8), fd, inout(8), v, v}, restarts, calls::copy_to_fd),
    pass(327, "preadv2", {fd, iov_out, v, v, v, v}, restarts, calls::readv),
    pass(328, "pwritev2", {fd, iov_in, v, v, v, v}, restarts, calls::writev),
    refused(329, "pkey_mprotect", ENOSYS, kQuiet),
    refused(330, "pkey_alloc", ENOSYS, kQuiet),
    refused(331, "pkey_free", ENOSYS, kQuiet),
    pass(332, "statx", {fd, path, v, v, out(256)}, never, calls::stat),
    refused(333, "io_pgetevents"),
    refused(334, "rseq", ENOSYS, kQuiet),
    pass(424, "pidfd_send_signal", {fd, v, in(128), v}),
    refused(425, "io_uring_setup"),
    refused(426, "io_uring_enter"),
    refused(427, "io_uring_register"),
    refused(428, "open_tree"),
    refused(429, "move_mount"),
    refused(430, "fsopen"),
    refused(431, "fsconfig"),
    refused(432, "fsmount"),
    refused(433, "fspick"),
    opens(434, "pidfd_open", {v, v}),
    own(435, "clone3", calls::clone3),
    pass(436, "close_range", {v, v, v}, never, calls::close_range),
    opens(437, "openat2", {fd, path, in(1, 3), v}, restarts, calls::open),
    refused(438, "pidfd_getfd"),
    pass(439, "faccessat2", {fd, path, v, v}),
    refused(440, "process_madvise", ENOSYS, kQuiet),
    pass(441, "epoll_pwait2", {fd, nested, v, in(16), nested, v}, interrupted, calls::epoll_wait),
    refused(442, "mount_setattr"),
    refused(443, "quotactl_fd"),
    refused(444, "landlock_create_ruleset", ENOSYS, kQuiet),
    refused(445, "landlock_add_rule", ENOSYS, kQuiet),
    refused(446, "landlock_restrict_self", ENOSYS, kQuiet),
    refused(447, "memfd_secret"),
    refused(448, "process_mrelease"),
    refused(449, "futex_waitv"),
    refused(450, "set_mempolicy_home_node", ENOSYS, kQuiet),
    refused(451, "cachestat", ENOSYS, kQuiet),
    pass(452, "fchmodat2", {fd, path, v, v}),
    refused(453, "map_shadow_stack", ENOSYS, kQuiet),
    refused(454, "futex_wake"),
    refused(455, "futex_wait"),
    refused(456, "futex_requeue"),
    refused(457, "statmount", ENOSYS, kQuiet),
    refused(458, "listmount", ENOSYS, kQuiet),
    refused(459, "lsm_get_self_attr", ENOSYS, kQuiet),
    refused(460, "lsm_set_self_attr", ENOSYS, kQuiet),
    refused(461, "lsm_list_modules", ENOSYS, kQuiet),
    refused(462, "mseal", ENOSYS, kQuiet),
    refused(463, "setxattrat", ENOSYS, kQuiet),
    refused(464, "getxattrat", ENOSYS, kQuiet),
    refused(465, "listxattrat", ENOSYS, kQuiet),
    refused(466, "removexattrat", ENOSYS, kQuiet),
    refused(467, "open_tree_attr"),
    refused(468, "file_getattr", ENOSYS, kQuiet),
    refused(469, "file_setattr", ENOSYS, kQuiet),
};

constexpr size_t kNumbers = 470;
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

std::string system_call_name(uint64_t number) {
  const SystemCall* call = find_system_call(number);
  return call ? call->name : "system call " + std::to_string(number);
}

std::span<const SystemCall> system_call_table() { return kTable; }

}  // namespace aftercheck
