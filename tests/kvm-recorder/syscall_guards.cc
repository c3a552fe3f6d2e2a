// The guest must not reach the recorder: pointers, descriptors, /proc.
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <csignal>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/fd.h"
#include "syscall_fixture.h"

using namespace aftercheck;
using namespace aftercheck::test;

namespace {

std::string read_all(SystemCalls& guest, const std::string& path) {
  const long fd = guest.call(SYS_openat, AT_FDCWD, guest.text(path), O_RDONLY | O_CLOEXEC);
  INFO(path);
  REQUIRE(fd >= 0);
  CHECK((fcntl(static_cast<int>(fd), F_GETFD) & FD_CLOEXEC) != 0);
  std::string all;
  const uint64_t buffer = guest.room(4096);
  for (long size = 0; (size = guest.call(SYS_read, fd, buffer, 4096)) > 0;)
    all += guest.string_at(buffer, static_cast<size_t>(size));
  CHECK(guest.call(SYS_close, fd) == 0);
  return all;
}

struct OwnFd {
  UniqueFd fd = move_out_of_guest_reach(UniqueFd(open("/dev/null", O_RDWR)));
  int get() const { return fd.get(); }
};

}  // namespace

TEST_CASE("pointers outside the windows are EFAULT and the recorder's memory stays as it is", "[guards]") {
  SystemCalls guest;
  std::vector<char> ours(4096, 'r');
  const auto outside = reinterpret_cast<uint64_t>(ours.data());
  const uint64_t pointers[] = {
      outside, 0x1000, ~0ULL, kMainWindow.end - 8, kLowWindow.end + 16 * kPageSize, 0xffff'8000'0000'0000};
  const long zero = guest.call(SYS_open, guest.text("/dev/zero"), O_RDWR);
  const std::string path = guest.directory.write("file", "text");
  const uint64_t name = guest.text(path);
  for (const uint64_t pointer : pointers) {
    INFO(std::hex << pointer);
    CHECK(guest.call(SYS_read, zero, pointer, 64) == -EFAULT);
    CHECK(guest.call(SYS_write, zero, pointer, 64) != 64);
    CHECK(guest.call(SYS_uname, pointer) == -EFAULT);
    CHECK(guest.call(SYS_stat, name, pointer) == -EFAULT);
    CHECK(guest.call(SYS_stat, pointer, guest.room(144)) == -EFAULT);
    CHECK(guest.call(SYS_open, pointer, O_RDONLY) == -EFAULT);
    CHECK(guest.call(SYS_clock_gettime, 0, pointer) == -EFAULT);
    CHECK(guest.call(SYS_pipe2, pointer, 0) == -EFAULT);
    CHECK(guest.call(SYS_poll, pointer, 3, 0) == -EFAULT);
    CHECK(guest.call(SYS_nanosleep, pointer, 0) == -EFAULT);
    CHECK(guest.call(SYS_getrandom, pointer, 16, 0) == -EFAULT);
    CHECK(guest.call(SYS_readv, zero, pointer, 1) == -EFAULT);
    CHECK(guest.call(SYS_sendmsg, zero, pointer, 0) < 0);
    CHECK(guest.call(SYS_execve, pointer, 0, 0) == -EFAULT);
    const iovec inner{reinterpret_cast<void*>(pointer), 16};
    CHECK(guest.call(SYS_readv, zero, guest.put(inner), 1) == -EFAULT);
    CHECK(guest.call(SYS_prctl, 16 /* PR_GET_NAME */, pointer) == -EFAULT);
    CHECK(guest.call(SYS_ioctl, zero, 0x541b /* FIONREAD */, pointer) < 0);
    CHECK(guest.call(SYS_rt_sigprocmask, 0, pointer, 0, 8) == -EFAULT);
    CHECK(guest.call(SYS_getrlimit, 0, pointer) == -EFAULT);
  }
  CHECK(guest.call(SYS_write, zero, outside, 0) == 0);  // nothing to touch, as in the kernel
  CHECK(guest.call(SYS_read, -1, outside, 16) == -EBADF);
  CHECK(std::string(ours.data(), ours.size()) == std::string(4096, 'r'));
}

TEST_CASE("a transfer that goes past its window is cut there", "[guards]") {
  SystemCalls guest;
  const Range last{kLowWindow.end - 2 * kPageSize, kLowWindow.end};
  REQUIRE(guest.memory.map_anonymous(guest.answer, last, PROT_READ | PROT_WRITE, false) == 0);
  const long zero = guest.call(SYS_open, guest.text("/dev/zero"), O_RDONLY);
  CHECK(guest.call(SYS_read, zero, last.start, 0x7fff'0000) == static_cast<long>(last.size()));
  CHECK(guest.call(SYS_read, zero, last.start, ~0ULL >> 1) == static_cast<long>(last.size()));
}

TEST_CASE("the recorder's descriptors are not open to the guest", "[guards]") {
  SystemCalls guest;
  const OwnFd own;
  const auto fd = static_cast<uint64_t>(own.get());
  CHECK(guest.call(SYS_read, fd, guest.room(8), 8) == -EBADF);
  CHECK(guest.call(SYS_write, fd, guest.room(8), 8) == -EBADF);
  CHECK(guest.call(SYS_close, fd) == -EBADF);
  CHECK(guest.call(SYS_dup, fd) == -EBADF);
  CHECK(guest.call(SYS_dup2, 0, fd) == -EBADF);
  CHECK(guest.call(SYS_dup2, fd, 5) == -EBADF);
  CHECK(guest.call(SYS_dup3, 0, fd, 0) == -EBADF);
  CHECK(guest.call(SYS_fcntl, fd, F_GETFD) == -EBADF);
  CHECK(guest.call(SYS_fcntl, 0, F_DUPFD, fd) == -EINVAL);
  CHECK(guest.call(SYS_fstat, fd, guest.room(144)) == -EBADF);
  CHECK(guest.call(SYS_ioctl, fd, 0x541b, guest.room(4)) == -EBADF);
  CHECK(guest.call(SYS_epoll_ctl, guest.call(SYS_epoll_create1, 0), 1, fd, guest.room(12)) == -EBADF);
  CHECK(guest.call(SYS_openat, fd, guest.text("x"), O_RDONLY) == -EBADF);
  CHECK(guest.call(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == -EBADF);
  const pollfd fds[] = {{own.get(), POLLIN, 0}};
  const uint64_t at = guest.put(fds);
  CHECK(guest.call(SYS_poll, at, 1, -1) == 1);
  CHECK(guest.get<pollfd>(at).revents == POLLNVAL);
  CHECK(guest.get<pollfd>(at).fd == own.get());
  const std::string number = std::to_string(own.get());
  for (const std::string directory : {"/proc/self/fd/", "/dev/fd/", "/proc/thread-self/fd/"}) {
    CHECK(guest.call(SYS_open, guest.text(directory + number), O_RDWR) == -ENOENT);
    CHECK(guest.call(SYS_readlink, guest.text(directory + number), guest.room(100), 100) == -ENOENT);
  }
  const long above = fcntl(0, F_DUPFD, own_fd_floor() + 70);
  CHECK(guest.call(SYS_close_range, 100, ~0U, 0) == 0);
  CHECK(fcntl(own.get(), F_GETFD) >= 0);
  if (above >= 0) CHECK(fcntl(static_cast<int>(above), F_GETFD) == -1);
  CHECK(guest.call(SYS_close_range, 100, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */) == 0);
  CHECK(guest.call(SYS_close_range, 5, 4, 0) == -EINVAL);
}

TEST_CASE("listing /proc/self/fd shows the guest's descriptors only", "[guards]") {
  SystemCalls guest;
  const OwnFd own;
  const uint64_t buffer = guest.room(32768);
  for (const std::string path : {"/proc/self/fd", "/proc/thread-self/fdinfo", "/dev/fd/"}) {
    const long directory = guest.call(SYS_open, guest.text(path), O_RDONLY | O_DIRECTORY);
    REQUIRE(directory >= 0);
    std::set<std::string> names;
    for (long size = 0; (size = guest.call(SYS_getdents64, directory, buffer, 200)) > 0;)
      for (long at = 0; at < size;) {
        names.insert(reinterpret_cast<const char*>(buffer + at + 19));
        at += guest.get<uint16_t>(buffer + at + 16);
      }
    CHECK(names.count("0") == 1);
    CHECK(names.count(std::to_string(directory)) == 1);
    CHECK(names.count(std::to_string(own.get())) == 0);
    guest.call(SYS_close, directory);
  }
}

TEST_CASE("/proc/self answers for the guest", "[guards]") {
  SystemCalls guest;
  const std::string program = guest.directory.write("program", "the guest's program");
  guest.process.executable = program;
  guest.process.arguments = {"program", "-x", ""};
  guest.process.environment = {"A=b"};
  guest.process.auxv = {6, 4096, 0, 0};
  const std::string pid = "/proc/" + std::to_string(getpid());
  for (const std::string& base :
       {std::string("/proc/self"), pid, pid + "/task/" + std::to_string(gettid())}) {
    CHECK(read_all(guest, base + "/cmdline") == std::string("program\0-x\0\0", 12));
    CHECK(read_all(guest, base + "/environ") == std::string("A=b\0", 4));
    CHECK(read_all(guest, base + "/auxv").size() == 32);
    CHECK(read_all(guest, base + "/exe") == "the guest's program");
    const std::string maps = read_all(guest, base + "/maps");
    CHECK(maps.find("200004000000-200004100000 rw-p 00000000 00:00 0") == 0);
    CHECK(maps.find("lib") == std::string::npos);
    const uint64_t buffer = guest.room(4096);
    const long size = guest.call(SYS_readlink, guest.text(base + "/exe"), buffer, 4096);
    REQUIRE(size == static_cast<long>(program.size()));
    CHECK(guest.string_at(buffer, program.size()) == program);
    CHECK(guest.call(SYS_open, guest.text(base + "/mem"), O_RDWR) == -EACCES);
  }
  const uint64_t status = guest.room(144);
  REQUIRE(guest.call(SYS_stat, guest.text("/proc/self/exe"), status) == 0);
  CHECK(guest.get<struct stat>(status).st_size == 19);
  CHECK(guest.call(SYS_open, guest.text("/proc/self/pagemap"), O_RDONLY) == -EACCES);
  // What the kernel may answer it answers; so does every other process.
  CHECK(read_all(guest, "/proc/self/status").find("Name:") == 0);
  CHECK(read_all(guest, "/proc/self/comm").size() > 1);
  // Relative to a directory of /proc.
  const long directory = guest.call(SYS_open, guest.text("/proc/self"), O_RDONLY | O_DIRECTORY);
  const long fd = guest.call(SYS_openat, directory, guest.text("cmdline"), O_RDONLY);
  CHECK(guest.call(SYS_read, fd, guest.room(100), 100) == 12);
}

TEST_CASE("standard output is followed through duplicates", "[guards]") {
  SystemCalls guest;
  const long copy = guest.call(SYS_dup, 1);
  REQUIRE(copy >= 0);
  CHECK(guest.descriptors.stream(static_cast<int>(copy)) == 1);
  const long other = guest.call(SYS_fcntl, 2, F_DUPFD_CLOEXEC, 20);
  CHECK(guest.descriptors.stream(static_cast<int>(other)) == 2);
  CHECK(guest.call(SYS_dup2, other, copy) == copy);
  CHECK(guest.descriptors.stream(static_cast<int>(copy)) == 2);
  CHECK(guest.call(SYS_write, copy, guest.room(4), 0) == 0);
  CHECK(guest.call(SYS_close, copy) == 0);
  CHECK(guest.descriptors.stream(static_cast<int>(copy)) == 0);
  CHECK(guest.call(SYS_close_range, other, other, 0) == 0);
  CHECK(guest.descriptors.stream(static_cast<int>(other)) == 0);
}

TEST_CASE("limits that would bind the recorder are the guest's only", "[guards]") {
  SystemCalls guest;
  const uint64_t at = guest.room(16);
  REQUIRE(guest.call(SYS_getrlimit, 7 /* RLIMIT_NOFILE */, at) == 0);
  CHECK(guest.get<ResourceLimit>(at).hard <= static_cast<uint64_t>(own_fd_floor()));
  const ResourceLimit small{100, 200};
  CHECK(guest.call(SYS_prlimit64, 0, 9 /* RLIMIT_AS */, guest.put(small), 0) == 0);
  CHECK(guest.call(SYS_prlimit64, getpid(), 9, 0, at) == 0);
  CHECK(guest.get<ResourceLimit>(at).soft == 100);
  const std::vector<char> still_works(100 << 20);
  CHECK(still_works.size() > 0);
  CHECK(guest.call(SYS_prlimit64, getppid(), 9, 0, at) == -EPERM);
}

TEST_CASE("signals that the guest sends to itself do not reach the recorder", "[guards]") {
  SystemCalls guest;
  CHECK(guest.call(SYS_kill, getpid(), SIGKILL) == 0);
  CHECK(guest.signals.deliverable());
  CHECK(guest.call(SYS_tgkill, getpid(), gettid(), 0) == 0);
  CHECK(guest.call(SYS_tgkill, getpid(), gettid(), 65) == -EINVAL);
}

TEST_CASE("work for the recorder is the caller's until that could have other rights", "[guards]") {
  SystemCalls guest;
  HostThread& host = guest.memory.host_thread();
  const auto worker = [&] {
    pid_t thread = 0;
    host.run([&] { thread = gettid(); });
    return thread;
  };
  const auto throws = [&] { host.run([] { fail(ErrorKind::io, "of the work"); }); };
  CHECK(guest.call(SYS_getuid) == getuid());
  CHECK(worker() == gettid());
  CHECK_THROWS_WITH(throws(), "of the work");
  sigset_t before, during, after;
  pthread_sigmask(SIG_BLOCK, nullptr, &before);
  host.run([&] { pthread_sigmask(SIG_BLOCK, nullptr, &during); });
  pthread_sigmask(SIG_BLOCK, nullptr, &after);
  CHECK(sigismember(&during, SIGUSR1) == 1);
  CHECK(sigismember(&during, SIGSEGV) == sigismember(&before, SIGSEGV));
  CHECK(sigismember(&after, SIGUSR1) == sigismember(&before, SIGUSR1));
  const long mask = guest.call(SYS_umask, 0077);
  CHECK(worker() != gettid());
  CHECK(worker() == worker());
  CHECK_THROWS_WITH(throws(), "of the work");
  mode_t of_host = 0;
  host.run([&] {
    of_host = umask(0);
    umask(of_host);
  });
  CHECK(of_host == static_cast<mode_t>(mask));
  guest.call(SYS_umask, mask);
}

TEST_CASE("the recorder keeps the rights that the guest gives up", "[guards]") {
  SystemCalls guest;
  CHECK(guest.call(SYS_umask, 0777) >= 0);
  const long fd = guest.call(SYS_open, guest.text(guest.directory.write("mapped", "contents")), O_RDONLY);
  CHECK(guest.call(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, fd, 0) > 0);
  guest.call(SYS_umask, 0022);
  if (geteuid() != 0) return;
  // Another thread takes the part of the one that runs the guest: what it gives up is gone.
  const std::string secret = guest.directory.write("secret", "x", 0600);
  bool opened_there = true, opened_by_host = false;
  std::thread guest_thread([&] {
    syscall(SYS_setuid, 65534);
    opened_there = UniqueFd(open(secret.c_str(), O_RDONLY)).get() >= 0;
    guest.memory.host_thread().run(
        [&] { opened_by_host = UniqueFd(open(secret.c_str(), O_RDONLY)).get() >= 0; });
  });
  guest_thread.join();
  CHECK(!opened_there);
  CHECK(opened_by_host);
}
