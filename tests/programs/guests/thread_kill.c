// Signals to one thread, by tgkill, tkill, pthread_kill and pthread_sigqueue: its handler runs on it,
// whatever it does then.
// flags: -pthread
// native: output
#include "threads.h"

static atomic_int tids[3], handled[3], values, ends;
static __thread int me = -1;
static int pipes[2];

static void handler(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  CHECK(me >= 0 && syscall(SYS_gettid) == tids[me]);
  CHECK(info->si_pid == getpid() && (info->si_code == SI_TKILL || info->si_code == SI_QUEUE));
  if (info->si_code == SI_QUEUE) atomic_fetch_add(&values, info->si_value.sival_int);
  atomic_fetch_add(&handled[me], 1);
}
static void* compute(void* argument) {
  me = (int)(intptr_t)argument;
  unsigned state = 1;
  atomic_store(&tids[me], gettid());
  while (!atomic_load(&ends)) next_random(&state);
  return NULL;
}
static void* read_pipe(void* argument) {
  me = (int)(intptr_t)argument;
  atomic_store(&tids[me], gettid());
  char byte;
  ssize_t result;
  while ((result = read(pipes[0], &byte, 1)) == -1) CHECK(errno == EINTR);
  CHECK(result == 0);
  return NULL;
}

int main(void) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  action.sa_flags |= SA_RESTART;
  CHECK(sigaction(SIGUSR2, &action, NULL) == 0 && sigaction(SIGRTMIN + 2, &action, NULL) == 0);
  CHECK(pipe(pipes) == 0);
  const pthread_t computing = started(compute, (void*)1), reading = started(read_pipe, (void*)2);
  me = 0;
  atomic_store(&tids[0], gettid());
  until_set(&tids[1]), until_asleep(until_set(&tids[2]));
  for (int i = 0; i < 20; ++i) {
    const int to = i % 3, before = atomic_load(&handled[to]);
    const pthread_t thread = to == 0 ? pthread_self() : to == 1 ? computing : reading;
    if (i < 6) CHECK(syscall(SYS_tgkill, getpid(), tids[to], i % 2 ? SIGUSR1 : SIGUSR2) == 0);
    if (i >= 6 && i < 10) CHECK(syscall(SYS_tkill, tids[to], SIGUSR2) == 0);
    if (i >= 10 && i < 14) CHECK_OK(pthread_kill(thread, SIGUSR1));
    if (i >= 14) CHECK_OK(pthread_sigqueue(thread, SIGRTMIN + 2, (union sigval){.sival_int = i}));
    if (to == 0) CHECK(atomic_load(&handled[0]) == before + 1);  // before the call returns
    while (atomic_load(&handled[to]) != before + 1) sched_yield();
  }
  CHECK_ERRNO(syscall(SYS_tgkill, getpid() + 1, tids[1], SIGUSR1), ESRCH);
  CHECK_ERRNO(syscall(SYS_tgkill, getpid(), tids[1], 65), EINVAL);
  CHECK(syscall(SYS_tgkill, getpid(), tids[1], 0) == 0);
  atomic_store(&ends, 1);
  close(pipes[1]);
  joined(computing), joined(reading);
  printf("%d %d %d, %d\n", handled[0], handled[1], handled[2], values);
  return 0;
}
