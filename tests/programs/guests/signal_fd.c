// Signals read from descriptors: sent by the program itself, by timers and by others, while it waits and
// before.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "check.h"

static struct signalfd_siginfo next(int fd) {
  struct signalfd_siginfo info;
  CHECK(read(fd, &info, sizeof info) == sizeof info);
  return info;
}

static volatile sig_atomic_t handled;
static void count(int signal) {
  (void)signal;
  ++handled;
}

// What waits for no handler is counted once.
static void queue_limit(int fd) {
  enum { kMost = 20 };
  struct rlimit limit, low;
  CHECK(getrlimit(RLIMIT_SIGPENDING, &limit) == 0 && limit.rlim_cur >= kMost);
  low = (struct rlimit){kMost, limit.rlim_max};
  CHECK(setrlimit(RLIMIT_SIGPENDING, &low) == 0);
  int queued = 0;  // fewer where the user's other processes have some
  while (queued <= kMost && sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = queued}) == 0)
    ++queued;
  CHECK(errno == EAGAIN && queued <= kMost);
  CHECK(setrlimit(RLIMIT_SIGPENDING, &limit) == 0);
  CHECK(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = queued}) == 0);
  for (int i = 0; i <= queued; ++i) CHECK(next(fd).ssi_int == i);
  struct signalfd_siginfo info;
  CHECK_ERRNO(read(fd, &info, sizeof info), EAGAIN);
}

int main(void) {
  sigset_t set;
  sigemptyset(&set);
  for (int i = 0; i < 3; ++i) sigaddset(&set, (int[]){SIGUSR1, SIGALRM, SIGRTMIN + 3}[i]);
  CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
  raise(SIGUSR1);  // before there is a descriptor
  const int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  CHECK(fd >= 0);
  struct signalfd_siginfo info = next(fd);
  CHECK(info.ssi_signo == SIGUSR1 && info.ssi_pid == (uint32_t)getpid() && info.ssi_code == SI_TKILL);
  CHECK_ERRNO(read(fd, &info, sizeof info), EAGAIN);
  CHECK_ERRNO(read(fd, &info, sizeof info - 1), EINVAL);

  // Queued ones in their order, several with one call; kill's once.
  CHECK(kill(getpid(), SIGUSR1) == 0 && kill(getpid(), SIGUSR1) == 0);
  for (int i = 0; i < 5; ++i) CHECK(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = i}) == 0);
  struct signalfd_siginfo many[8];
  CHECK(read(fd, many, sizeof many) == 6 * sizeof many[0]);
  CHECK(many[0].ssi_signo == SIGUSR1 && many[0].ssi_code == SI_USER);
  for (int i = 0; i < 5; ++i) CHECK(many[i + 1].ssi_code == SI_QUEUE && many[i + 1].ssi_int == i);

  // Waited for in poll, epoll and read.
  const struct itimerval soon = {{0, 0}, {0, 3000}};
  CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
  struct pollfd wanted = {.fd = fd, .events = POLLIN};
  CHECK(poll(&wanted, 1, 5000) == 1 && wanted.revents == POLLIN);
  CHECK(next(fd).ssi_signo == SIGALRM);
  const int epoll = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN};
  CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0 && epoll_wait(epoll, &event, 1, 0) == 0);
  CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
  CHECK(epoll_wait(epoll, &event, 1, 5000) == 1);
  CHECK(next(fd).ssi_code == SI_KERNEL);
  raise(SIGUSR1);
  CHECK(epoll_wait(epoll, &event, 1, 0) == 1 && next(fd).ssi_signo == SIGUSR1);

  // A new mask for the same descriptor; what it leaves out stays pending and is delivered when unblocked.
  sigset_t alone;
  sigemptyset(&alone);
  sigaddset(&alone, SIGALRM);
  CHECK(signalfd(fd, &alone, 0) == fd);
  raise(SIGUSR1);
  CHECK_ERRNO(read(fd, &info, sizeof info), EAGAIN);
  sigset_t pending;
  CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1) == 1 &&
        sigismember(&pending, SIGALRM) == 0);
  const struct sigaction action = {.sa_handler = count};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  CHECK(sigprocmask(SIG_UNBLOCK, &set, NULL) == 0 && handled == 1);
  // However low the limit of descriptors is by now.
  struct rlimit limit, low;
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  low = (struct rlimit){(rlim_t)fd, limit.rlim_max};
  CHECK(setrlimit(RLIMIT_NOFILE, &low) == 0 && signalfd(fd, &alone, 0) == fd);
  CHECK_ERRNO(signalfd(-1, &alone, 0), EMFILE);
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
  // What isn't blocked goes to its handler.
  CHECK(signalfd(fd, &set, 0) == fd);
  raise(SIGUSR1);
  CHECK(handled == 2);
  CHECK_ERRNO(read(fd, &info, sizeof info), EAGAIN);
  // sigwait takes what a descriptor could have read.
  CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
  raise(SIGUSR1);
  int signal = 0;
  CHECK(sigwait(&set, &signal) == 0 && signal == SIGUSR1);
  // Ignored: gone.
  raise(SIGUSR1);
  CHECK(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = SIG_IGN}, NULL) == 0);
  CHECK_ERRNO(read(fd, &info, sizeof info), EAGAIN);

  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  queue_limit(fd);

  // All signals, those of the libc among them.
  const uint64_t all = ~0ull;
  CHECK(syscall(SYS_signalfd4, fd, &all, 8, 0) == fd);
  raise(SIGUSR1);
  CHECK(next(fd).ssi_signo == SIGUSR1);
  CHECK_ERRNO(read(fd, &info, sizeof info), EAGAIN);
  CHECK_ERRNO(syscall(SYS_signalfd4, fd, &all, 4, 0), EINVAL);
  CHECK_ERRNO(syscall(SYS_signalfd4, fd, 8, 8, 0), EFAULT);
  CHECK_ERRNO(signalfd(-1, &set, 0xffff), EINVAL);
  CHECK_ERRNO(signalfd(0x7fff, &set, 0), EBADF);
  CHECK_ERRNO(signalfd(0, &set, 0), EINVAL);
  printf("from the descriptor, %d from the handler\n", (int)handled);
  return 0;
}
