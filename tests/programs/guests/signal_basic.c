// Handlers run by raise, kill, tgkill and sigqueue; what siginfo says; SIG_IGN; the saved context.
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include "check.h"

static volatile int count;
static void handler(int signal, siginfo_t* info, void* context) {
  const ucontext_t* c = context;
  ++count;
  CHECK(info->si_signo == signal && info->si_pid == getpid());
  printf("%d: code %d pid %d uid %u value %d rip %llx rsp %llx\n", signal, info->si_code, info->si_pid,
         info->si_uid, info->si_value.sival_int, c->uc_mcontext.gregs[REG_RIP],
         c->uc_mcontext.gregs[REG_RSP]);
}

int main(void) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO}, old;
  CHECK(sigaction(SIGUSR1, &action, &old) == 0 && old.sa_handler == SIG_DFL);
  CHECK(sigaction(SIGRTMIN + 3, &action, NULL) == 0);
  CHECK(sigaction(SIGUSR1, NULL, &old) == 0 && old.sa_sigaction == handler);
  CHECK(raise(SIGUSR1) == 0 && count == 1);
  CHECK(kill(getpid(), SIGUSR1) == 0 && count == 2);
  CHECK(kill(0, 0) == 0 && syscall(SYS_tgkill, getpid(), getpid(), SIGUSR1) == 0 && count == 3);
  CHECK(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = 77}) == 0 && count == 4);
  signal(SIGUSR1, SIG_IGN);
  CHECK(raise(SIGUSR1) == 0 && count == 4);
  CHECK_ERRNO(kill(getpid(), 100), EINVAL);
  CHECK_ERRNO(sigaction(SIGKILL, &action, NULL), EINVAL);
  CHECK(raise(SIGCHLD) == 0 && raise(SIGWINCH) == 0);  // ignored by default
  return 0;
}
