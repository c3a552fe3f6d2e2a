// Signals that wait together: the frame of each lies on that of the one before, so the last one's handler
// runs first, and returns to the next. From a mask, from sigsuspend, between processes, and with floating
// point under way.
// native: output
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static char order[16];
static volatile int count;
static void handler(int signal) {
  volatile double product = 1.5;
  product *= signal;
  order[count++] = (char)(signal == SIGUSR1 ? '1' : signal == SIGUSR2 ? '2' : signal == SIGHUP ? 'H' : 'R');
}

static void expect(const char* wanted) {
  CHECK(strcmp(order, wanted) == 0);
  memset(order, 0, sizeof order);
  count = 0;
}

static void all(void) {
  raise(SIGUSR2);
  raise(SIGRTMIN);
  raise(SIGHUP);
  raise(SIGUSR1);
}

int main(void) {
  struct sigaction action = {.sa_handler = handler};
  const int signals[] = {SIGUSR1, SIGUSR2, SIGHUP, SIGRTMIN};
  sigset_t set, before;
  sigemptyset(&set);
  for (int i = 0; i < 4; ++i) {
    sigaction(signals[i], &action, NULL);
    sigaddset(&set, signals[i]);
  }
  sigprocmask(SIG_BLOCK, &set, &before);
  all();
  long double x = 1.25L;
  sigprocmask(SIG_SETMASK, &before, NULL);
  expect("R21H");
  CHECK(x * 4 == 5);

  sigprocmask(SIG_BLOCK, &set, NULL);
  all();
  sigsuspend(&before);
  expect("R21H");

  // One that blocks the others comes first: they wait for its end.
  action.sa_mask = set;
  sigaction(SIGHUP, &action, NULL);
  all();
  sigprocmask(SIG_SETMASK, &before, NULL);
  expect("HR21");

  sigprocmask(SIG_BLOCK, &set, NULL);
  const pid_t child = fork();
  if (child == 0) {
    for (int i = 0; i < 3; ++i) kill(getppid(), signals[i]);
    _exit(0);
  }
  CHECK(waitpid(child, NULL, 0) == child);
  sigprocmask(SIG_SETMASK, &before, NULL);
  expect("H21");

  // A deadly one behind a handler's: the handler never runs.
  const pid_t dies = fork();
  if (dies == 0) {
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGHUP);
    signal(SIGUSR2, SIG_DFL);
    raise(SIGUSR2);
    sigprocmask(SIG_SETMASK, &before, NULL);
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(dies, &status, 0) == dies && WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR2);
  return 0;
}
