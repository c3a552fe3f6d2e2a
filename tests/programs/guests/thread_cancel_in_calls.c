// Threads are cancelled in calls that wait: accept, poll, select, sem_wait, waitpid, nanosleep, sigwait, a
// write to a pipe that is full; each while it sleeps there and while it is about to.
// flags: -pthread
// native: output
#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "threads.h"

static int hold[2], full[2], listening;
static sem_t semaphore;
static atomic_int tid;

static void in_accept(void) { accept(listening, NULL, NULL); }
static void in_poll(void) { poll(&(struct pollfd){hold[0], POLLIN, 0}, 1, -1); }
static void in_select(void) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(hold[0], &set);
  select(hold[0] + 1, &set, NULL, NULL, NULL);
}
static void in_semaphore(void) { sem_wait(&semaphore); }
static void in_wait(void) { wait(NULL); }
static void in_sleep(void) { nanosleep(&(struct timespec){1000, 0}, NULL); }
static void in_sigwait(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  int signal;
  sigwait(&set, &signal);
}
static void in_write(void) {
  static char page[4096];
  CHECK(write(full[1], page, sizeof page) != 0);
}

static const struct {
  const char* name;
  void (*call)(void);
} kCalls[] = {{"accept", in_accept}, {"poll", in_poll},   {"select", in_select},   {"sem_wait", in_semaphore},
              {"wait", in_wait},     {"sleep", in_sleep}, {"sigwait", in_sigwait}, {"write", in_write}};

static void cleaned(void* name) { printf("cancelled in %s\n", (const char*)name); }
static void* waiting(void* number) {
  const int call = (int)(intptr_t)number;
  pthread_cleanup_push(cleaned, (void*)kCalls[call].name);
  atomic_store(&tid, gettid());
  for (;;) kCalls[call].call();
  pthread_cleanup_pop(0);
  return NULL;
}

int main(void) {
  CHECK(pipe(hold) == 0 && pipe(full) == 0 && sem_init(&semaphore, 0, 0) == 0);
  CHECK(fcntl(full[1], F_SETPIPE_SZ, 4096) == 4096);
  in_write();
  listening = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK(listening >= 0 && bind(listening, &(struct sockaddr){AF_UNIX, ""}, sizeof(sa_family_t)) == 0);
  CHECK(listen(listening, 1) == 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0)
    for (;;) pause();
  for (int asleep = 0; asleep < 2; ++asleep)
    for (size_t i = 0; i < sizeof kCalls / sizeof *kCalls; ++i) {
      atomic_store(&tid, 0);
      const pthread_t thread = started(waiting, (void*)(intptr_t)i);
      const int number = until_set(&tid);
      if (asleep) until_asleep(number);
      CHECK_OK(pthread_cancel(thread));
      CHECK(joined(thread) == PTHREAD_CANCELED);
    }
  CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
  return 0;
}
