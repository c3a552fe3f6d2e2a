// A thread reads signals from a descriptor, waits for them in poll, and sees the process's and its own, not
// those of another thread.
// flags: -pthread
// native: output
#include <poll.h>
#include <sys/signalfd.h>

#include "threads.h"

static int fd;
static atomic_int taken;
static void* take(void* unused) {
  (void)unused;
  struct pollfd wanted = {.fd = fd, .events = POLLIN};
  for (;;) {
    struct signalfd_siginfo info;
    CHECK(poll(&wanted, 1, -1) == 1 && wanted.revents == POLLIN);
    CHECK(read(fd, &info, sizeof info) == sizeof info);
    CHECK(info.ssi_pid == (unsigned)getpid());
    if (info.ssi_signo == (unsigned)SIGTERM) return NULL;
    printf("%d: %d\n", (int)info.ssi_signo - SIGRTMIN, info.ssi_int);
    atomic_fetch_add(&taken, 1);
  }
}

int main(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM), sigaddset(&set, SIGUSR2), sigaddset(&set, SIGRTMIN),
      sigaddset(&set, SIGRTMIN + 1);
  CHECK_OK(pthread_sigmask(SIG_BLOCK, &set, NULL));
  fd = signalfd(-1, &set, SFD_CLOEXEC);
  CHECK(fd >= 0);
  CHECK_OK(pthread_kill(pthread_self(), SIGUSR2));  // the first thread's
  const pthread_t thread = started(take, NULL);
  for (int i = 0; i < 6; ++i) {
    if (i % 2)
      CHECK(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = i}) == 0);
    else
      CHECK_OK(pthread_sigqueue(thread, SIGRTMIN + 1, (union sigval){.sival_int = i}));
    // The thread may be in poll for its own signals only if that is told of them: sent to the process, it is.
    if (i % 2 == 0) CHECK(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 100 + i}) == 0);
    while (atomic_load(&taken) < i + 1 + (i + 2) / 2) sched_yield();
  }
  CHECK(kill(getpid(), SIGTERM) == 0);
  joined(thread);
  struct signalfd_siginfo info;
  CHECK(read(fd, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR2);
  CHECK(info.ssi_code == SI_TKILL);
  printf("one's own\n");
  return 0;
}
