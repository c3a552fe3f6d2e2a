// Semaphores, private and shared: turns, counts, waiting for a time, a wait that a handler interrupts.
// flags: -pthread
// native: output
#include <semaphore.h>
#include <sys/mman.h>

#include "threads.h"

static sem_t turns[2];
static char text[201];
static int length;
static atomic_int tid;
static sem_t never;

static void* write_letters(void* argument) {
  const intptr_t me = (intptr_t)argument;
  for (int i = 0; i < 100; ++i) {
    CHECK(sem_wait(&turns[me]) == 0);
    text[length++] = (char)((me ? 'A' : 'a') + i % 26);
    CHECK(sem_post(&turns[!me]) == 0);
  }
  return NULL;
}
static void handler(int signal) { (void)signal; }
static void* interrupted(void* unused) {
  (void)unused;
  atomic_store(&tid, (int)syscall(SYS_gettid));
  CHECK_ERRNO(sem_wait(&never), EINTR);
  atomic_store(&tid, 0);
  return NULL;
}

int main(void) {
  CHECK(sem_init(&turns[0], 0, 1) == 0 && sem_init(&turns[1], 0, 0) == 0 && sem_init(&never, 0, 0) == 0);
  const pthread_t first = started(write_letters, (void*)0), second = started(write_letters, (void*)1);
  joined(first), joined(second);
  printf("%s\n", text);
  sem_t* shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(shared != MAP_FAILED && sem_init(shared, 1, 2) == 0);
  CHECK(sem_trywait(shared) == 0 && sem_wait(shared) == 0);
  CHECK_ERRNO(sem_trywait(shared), EAGAIN);
  const struct timespec soon = from_now(CLOCK_REALTIME, 3);
  CHECK_ERRNO(sem_timedwait(shared, &soon), ETIMEDOUT);
  int value = -1;
  CHECK(sem_getvalue(shared, &value) == 0 && value == 0);
  const struct sigaction action = {.sa_handler = handler};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  const pthread_t thread = started(interrupted, NULL);
  until_asleep(until_set(&tid));
  // Once more where the first came before the wait.
  while (atomic_load(&tid)) pthread_kill(thread, SIGUSR1), nap(1);
  joined(thread);
  printf("interrupted\n");
  return 0;
}
