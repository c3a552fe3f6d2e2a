// What the table says a call writes, against what the kernel really writes: calls about time, process, files.
// (SystemCalls::call fails the test for every changed byte that nobody noted.)
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>

#include "base/fd.h"
#include "syscall_fixture.h"

using namespace aftercheck;
using namespace aftercheck::test;

TEST_CASE("notes: time", "[writes]") {
  SystemCalls guest;
  const timespec tiny{0, 1000};
  CHECK(guest.call(SYS_clock_gettime, CLOCK_REALTIME, guest.room(16)) == 0);
  CHECK(guest.noted_bytes == 16);
  CHECK(guest.call(SYS_clock_getres, CLOCK_MONOTONIC, guest.room(16)) == 0);
  CHECK(guest.call(SYS_gettimeofday, guest.room(16), guest.room(8)) == 0);
  CHECK(guest.noted_bytes == 24);
  CHECK(guest.call(SYS_gettimeofday, 0, 0) == 0);
  CHECK(guest.noted_bytes == 0);
  CHECK(guest.call(SYS_time, guest.room(8)) > 0);
  CHECK(guest.noted_bytes == 8);
  CHECK(guest.call(SYS_times, guest.room(32)) > 0);
  CHECK(guest.call(SYS_nanosleep, guest.put(tiny), guest.room(16)) == 0);
  CHECK(guest.call(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, guest.put(tiny), guest.room(16)) == 0);
  CHECK(guest.call(SYS_getitimer, ITIMER_VIRTUAL, guest.room(32)) == 0);
  const itimerval off{};
  CHECK(guest.call(SYS_setitimer, ITIMER_VIRTUAL, guest.put(off), guest.room(32)) == 0);
  CHECK(guest.noted_bytes == 32);
  char query[208] = {};
  CHECK(guest.call(SYS_adjtimex, guest.put(query)) >= 0);
  CHECK(guest.call(SYS_clock_adjtime, CLOCK_REALTIME, guest.put(query)) >= 0);
}

TEST_CASE("notes: timers", "[writes]") {
  SystemCalls guest;
  sigevent none{};
  none.sigev_notify = SIGEV_NONE;
  const itimerspec hour{{0, 0}, {3600, 0}};
  const uint64_t id = guest.room(4);
  REQUIRE(guest.call(SYS_timer_create, CLOCK_MONOTONIC, guest.put(none), id) == 0);
  CHECK(guest.noted_bytes == 4);
  const int timer = guest.get<int>(id);
  CHECK(guest.process.timers.count(timer) == 1);
  CHECK(guest.call(SYS_timer_settime, timer, 0, guest.put(hour), guest.room(32)) == 0);
  CHECK(guest.call(SYS_timer_gettime, timer, guest.room(32)) == 0);
  CHECK(guest.call(SYS_timer_delete, timer) == 0);
  CHECK(guest.process.timers.empty());
  const long fd = guest.call(SYS_timerfd_create, CLOCK_MONOTONIC, 0);
  REQUIRE(fd >= 0);
  CHECK(guest.call(SYS_timerfd_settime, fd, 0, guest.put(hour), guest.room(32)) == 0);
  CHECK(guest.call(SYS_timerfd_gettime, fd, guest.room(32)) == 0);
  CHECK(guest.call(SYS_close, fd) == 0);
}

TEST_CASE("notes: the process and its user", "[writes]") {
  SystemCalls guest;
  CHECK(guest.call(SYS_uname, guest.room(400)) == 0);
  CHECK(guest.noted_bytes == 390);
  CHECK(guest.call(SYS_sysinfo, guest.room(128)) == 0);
  CHECK(guest.call(SYS_getrusage, RUSAGE_SELF, guest.room(160)) == 0);
  CHECK(guest.call(SYS_getresuid, guest.room(4), guest.room(4), guest.room(4)) == 0);
  CHECK(guest.noted_bytes == 12);
  CHECK(guest.call(SYS_getresgid, guest.room(4), guest.room(4), guest.room(4)) == 0);
  const long groups = guest.call(SYS_getgroups, 0, 0);
  CHECK(groups >= 0);
  CHECK(guest.noted_bytes == 0);
  CHECK(guest.call(SYS_getgroups, 64, guest.room(256)) == groups);
  CHECK(guest.noted_bytes == static_cast<uint64_t>(groups) * 4);
  for (const uint32_t version : {_LINUX_CAPABILITY_VERSION_1, _LINUX_CAPABILITY_VERSION_3}) {
    const __user_cap_header_struct header{version, 0};
    const uint64_t at = guest.put(header);
    const uint64_t data = guest.room(24);
    CHECK(guest.call(SYS_capget, at, data) == 0);
    CHECK(guest.call(SYS_capset, at, data) == 0);
  }
  const __user_cap_header_struct unknown{0x12345678, 0};
  CHECK(guest.call(SYS_capget, guest.put(unknown), 0) == 0);
  CHECK(guest.noted_bytes == 8);
  CHECK(guest.call(SYS_sched_getaffinity, 0, 128, guest.room(128)) >= 8);
  CHECK(guest.noted_bytes >= 8);
  CHECK(guest.call(SYS_sched_getparam, 0, guest.room(4)) == 0);
  CHECK(guest.call(SYS_sched_rr_get_interval, 0, guest.room(16)) == 0);
  CHECK(guest.call(SYS_sched_getattr, 0, guest.room(64), 56, 0) == 0);
  std::array<uint32_t, 32> later{128};
  later[20] = 1;  // of which this kernel knows nothing
  CHECK(guest.call(SYS_sched_setattr, 0, guest.put(later), 0) == -E2BIG);
  CHECK(guest.noted_bytes >= 4);
  CHECK(guest.call(SYS_getcpu, guest.room(4), guest.room(4), 0) == 0);
  CHECK(guest.call(SYS_getrandom, guest.room(300), 300, 0) == 300);
  CHECK(guest.noted_bytes == 300);
  CHECK(guest.call(SYS_prctl, PR_GET_NAME, guest.room(16)) == 0);
  CHECK(guest.call(SYS_prctl, PR_GET_PDEATHSIG, guest.room(4)) == 0);
  CHECK(guest.call(SYS_prctl, PR_GET_CHILD_SUBREAPER, guest.room(4)) == 0);
  CHECK(guest.call(SYS_getrlimit, RLIMIT_NOFILE, guest.room(16)) == 0);
  CHECK(guest.call(SYS_prlimit64, 0, RLIMIT_STACK, 0, guest.room(16)) == 0);
  guest.call(SYS_set_robust_list, 0x1234560, 24);
  const uint64_t head = guest.room(8), size = guest.room(8);
  CHECK(guest.call(SYS_get_robust_list, 0, head, size) == 0);
  CHECK(guest.get<uint64_t>(head) == 0x1234560);
  CHECK(guest.call(SYS_arch_prctl, 0x1003 /* ARCH_GET_FS */, guest.room(8)) == 0);
}

TEST_CASE("notes: children", "[writes]") {
  SystemCalls guest;
  const auto child = [] {
    const pid_t pid = fork();
    if (pid == 0) _exit(7);
    return pid;
  };
  const pid_t first = child();
  const uint64_t status = guest.room(4);
  CHECK(guest.call(SYS_wait4, first, status, 0, guest.room(144)) == first);
  CHECK(WEXITSTATUS(guest.get<int>(status)) == 7);
  const pid_t second = child();
  CHECK(guest.call(SYS_waitid, P_PID, second, guest.room(128), WEXITED, guest.room(144)) == 0);
  CHECK(guest.call(SYS_wait4, -1, guest.room(4), 0, 0) == -ECHILD);
  CHECK(guest.noted_bytes == 0);
}

TEST_CASE("notes: file names and status", "[writes]") {
  SystemCalls guest;
  const std::string path = guest.directory.write("file", "contents");
  const std::string link = guest.directory.file("link");
  REQUIRE(symlink("file", link.c_str()) == 0);
  const uint64_t name = guest.text(path), link_name = guest.text(link);
  CHECK(guest.call(SYS_stat, name, guest.room(160)) == 0);
  CHECK(guest.noted_bytes == 144);
  CHECK(guest.call(SYS_lstat, link_name, guest.room(160)) == 0);
  const long fd = guest.call(SYS_open, name, O_RDWR);
  REQUIRE(fd >= 0);
  CHECK(guest.call(SYS_fstat, fd, guest.room(160)) == 0);
  CHECK(guest.call(SYS_newfstatat, AT_FDCWD, name, guest.room(160), 0) == 0);
  CHECK(guest.call(SYS_statx, AT_FDCWD, name, 0, 0xfff, guest.room(256)) == 0);
  CHECK(guest.call(SYS_statfs, name, guest.room(128)) == 0);
  CHECK(guest.call(SYS_fstatfs, fd, guest.room(128)) == 0);
  CHECK(guest.call(SYS_readlink, link_name, guest.room(100), 100) == 4);
  CHECK(guest.noted_bytes == 4);
  CHECK(guest.call(SYS_readlinkat, AT_FDCWD, link_name, guest.room(2), 2) == 2);
  CHECK(guest.noted_bytes == 2);
  CHECK(guest.call(SYS_readlink, name, guest.room(100), 100) == -EINVAL);
  CHECK(guest.noted_bytes == 0);
  CHECK(guest.call(SYS_getcwd, guest.room(4096), 4096) > 0);
  CHECK(guest.call(SYS_getcwd, guest.room(1), 1) == -ERANGE);
  const long directory =
      guest.call(SYS_open, guest.text(guest.directory.path().string()), O_RDONLY | O_DIRECTORY);
  REQUIRE(directory >= 0);
  CHECK(guest.call(SYS_getdents64, directory, guest.room(4096), 4096) > 0);
  CHECK(guest.call(SYS_lseek, directory, 0, SEEK_SET) == 0);
  CHECK(guest.call(SYS_getdents, directory, guest.room(4096), 4096) > 0);
  const uint64_t value = guest.text("value"), attribute = guest.text("user.test");
  if (guest.call(SYS_setxattr, name, attribute, value, 5, 0) == 0) {
    CHECK(guest.call(SYS_getxattr, name, attribute, guest.room(64), 64) == 5);
    CHECK(guest.noted_bytes == 5);
    CHECK(guest.call(SYS_getxattr, name, attribute, guest.room(64), 0) == 5);
    CHECK(guest.noted_bytes == 0);
    CHECK(guest.call(SYS_lgetxattr, name, attribute, guest.room(64), 64) == 5);
    CHECK(guest.call(SYS_fgetxattr, fd, attribute, guest.room(64), 64) == 5);
    CHECK(guest.call(SYS_listxattr, name, guest.room(64), 64) >= 10);
    CHECK(guest.call(SYS_llistxattr, name, guest.room(64), 64) >= 10);
    CHECK(guest.call(SYS_flistxattr, fd, guest.room(64), 64) >= 10);
  }
  struct {
    uint32_t room = 0;
    int type = 0;
    char bytes[128] = {};
  } handle;
  const uint64_t at = guest.put(handle);
  CHECK(guest.call(SYS_name_to_handle_at, AT_FDCWD, name, at, guest.room(4), 0) < 0);
  handle.room = 128;
  guest.call(SYS_name_to_handle_at, AT_FDCWD, name, guest.put(handle), guest.room(4), 0);
}

TEST_CASE("notes: fcntl and ioctl", "[writes]") {
  SystemCalls guest;
  const std::string path = guest.directory.write("file", "contents");
  const long fd = guest.call(SYS_open, guest.text(path), O_RDWR);
  REQUIRE(fd >= 0);
  const struct flock all { F_WRLCK, SEEK_SET, 0, 0, 0 };
  CHECK(guest.call(SYS_fcntl, fd, F_GETLK, guest.put(all)) == 0);
  CHECK(guest.noted_bytes == 32);
  CHECK(guest.call(SYS_fcntl, fd, F_OFD_GETLK, guest.put(all)) == 0);
  CHECK(guest.call(SYS_fcntl, fd, F_SETLK, guest.put(all)) == 0);
  CHECK(guest.noted_bytes == 0);
  CHECK(guest.call(SYS_fcntl, fd, F_GETOWN_EX, guest.room(8)) == 0);
  CHECK(guest.call(SYS_fcntl, fd, 17 /* F_GETOWNER_UIDS */, guest.room(8)) <= 0);
  CHECK(guest.call(SYS_fcntl, fd, 1037 /* F_GET_FILE_RW_HINT */, guest.room(8)) <= 0);
  int master = -1, terminal = -1;
  REQUIRE(openpty(&master, &terminal, nullptr, nullptr, nullptr) == 0);
  const UniqueFd close_master(master), close_terminal(terminal);
  struct Get {
    uint64_t request, size;
    int fd;
  };
  for (const Get& get :
       {Get{TCGETS, 36, terminal}, Get{0x802c542a /* TCGETS2 */, 44, terminal}, Get{TIOCGWINSZ, 8, terminal},
        Get{TIOCGETD, 4, terminal}, Get{FIONREAD, 4, terminal}, Get{TIOCOUTQ, 4, terminal},
        Get{TIOCGPTN, 4, master}, Get{0x5405 /* TCGETA */, 18, terminal}}) {
    INFO(std::hex << get.request);
    CHECK(guest.call(SYS_ioctl, get.fd, get.request, guest.room(64)) == 0);
    CHECK(guest.noted_bytes == get.size);
  }
  CHECK(guest.call(SYS_ioctl, fd, FIONREAD, guest.room(4)) == 0);
  CHECK(guest.call(SYS_ioctl, fd, TCGETS, guest.room(64)) == -ENOTTY);
  CHECK(guest.messages.empty());
  CHECK(guest.call(SYS_ioctl, fd, 0xdeadbeef, guest.room(64)) == -ENOTTY);
  CHECK(guest.call(SYS_ioctl, fd, 0xdeadbeef, guest.room(64)) == -ENOTTY);
  REQUIRE(guest.messages.size() == 1);
  CHECK(guest.messages[0] == "the program called ioctl 0xdeadbeef: not supported, answered ENOTTY");
}

TEST_CASE("notes: System V semaphores, messages and shared memory", "[writes]") {
  SystemCalls guest;
  const long set = guest.call(SYS_semget, IPC_PRIVATE, 5, 0600);
  if (set >= 0) {
    CHECK(guest.call(SYS_semctl, set, 0, GETALL, guest.room(16)) == 0);
    CHECK(guest.noted_bytes == 10);
    CHECK(guest.call(SYS_semctl, set, 0, IPC_STAT, guest.room(128)) == 0);
    const sembuf up{0, 1, 0};
    CHECK(guest.call(SYS_semop, set, guest.put(up), 1) == 0);
    CHECK(guest.call(SYS_semctl, set, 0, IPC_RMID, 0) == 0);
  }
  const long queue = guest.call(SYS_msgget, IPC_PRIVATE, 0600);
  if (queue >= 0) {
    const struct {
      long type = 1;
      char text[8] = {'m', 'e', 's', 's', 'a', 'g', 'e', 0};
    } message;
    CHECK(guest.call(SYS_msgsnd, queue, guest.put(message), 8, 0) == 0);
    REQUIRE(guest.outputs.size() == 1);
    CHECK(guest.call(SYS_msgctl, queue, IPC_STAT, guest.room(128)) == 0);
    CHECK(guest.call(SYS_msgrcv, queue, guest.room(64), 56, 0, 0) == 8);
    CHECK(guest.noted_bytes == 16);
    CHECK(guest.call(SYS_msgctl, queue, IPC_RMID, 0) == 0);
  }
  const long segment = guest.call(SYS_shmget, IPC_PRIVATE, 4096, 0600);
  if (segment >= 0) {
    CHECK(guest.call(SYS_shmctl, segment, IPC_STAT, guest.room(112)) == 0);
    CHECK(guest.noted_bytes == 112);
    CHECK(guest.call(SYS_shmctl, segment, IPC_RMID, 0) == 0);
  }
}

TEST_CASE("notes: what goes to another process's memory leaves the guest", "[writes]") {
  SystemCalls guest;
  static char target[8];
  const pid_t child = fork();
  REQUIRE(child >= 0);  // below, -1 would be everybody
  if (child == 0) {
    pause();
    _exit(0);
  }
  const iovec local{reinterpret_cast<void*>(guest.text("message")), 8}, remote{target, sizeof target};
  const long written = guest.call(SYS_process_vm_writev, child, guest.put(local), 1, guest.put(remote), 1, 0);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  if (written != -EPERM) {  // kernel.yama.ptrace_scope
    CHECK(written == 8);
    REQUIRE(guest.outputs.size() == 1);
    CHECK(guest.outputs[0].pieces.size() == 1);
  }
}

TEST_CASE("notes: signals", "[writes]") {
  SystemCalls guest;
  CHECK(guest.call(SYS_rt_sigaction, SIGUSR1, 0, guest.room(32), 8) == 0);
  CHECK(guest.call(SYS_rt_sigprocmask, SIG_BLOCK, 0, guest.room(8), 8) == 0);
  CHECK(guest.call(SYS_rt_sigpending, guest.room(8), 8) == 0);
  CHECK(guest.call(SYS_sigaltstack, 0, guest.room(24)) == 0);
}
