// Waits on System V semaphores and message queues, between threads.
// flags: -pthread
// native: output
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

#include "threads.h"

enum { kRounds = 30 };
static int semaphores, queue;
static void change(unsigned short which, short by) {
  struct sembuf operation = {.sem_num = which, .sem_op = by};
  CHECK(semop(semaphores, &operation, 1) == 0);
}
struct message {
  long type;
  int number;
};
static void* answer(void* unused) {
  (void)unused;
  for (int i = 0; i < kRounds; ++i) {
    change(0, -1);
    change(1, 1);
    struct message message;
    CHECK(msgrcv(queue, &message, sizeof message.number, 1, 0) == sizeof message.number);
    message.type = 2, message.number *= 2;
    CHECK(msgsnd(queue, &message, sizeof message.number, 0) == 0);
  }
  return NULL;
}
static void remove_them(void) {
  semctl(semaphores, 0, IPC_RMID);
  msgctl(queue, IPC_RMID, NULL);
}

int main(void) {
  semaphores = semget(IPC_PRIVATE, 2, 0600), queue = msgget(IPC_PRIVATE, 0600);
  if (semaphores == -1 && errno == ENOSYS) return printf("none here\n"), 0;
  CHECK(semaphores >= 0 && queue >= 0);
  before_failure = remove_them;
  const pthread_t thread = started(answer, NULL);
  int sum = 0;
  for (int i = 0; i < kRounds; ++i) {
    change(0, 1);
    change(1, -1);
    struct message message = {1, i};
    CHECK(msgsnd(queue, &message, sizeof message.number, 0) == 0);
    CHECK(msgrcv(queue, &message, sizeof message.number, 2, 0) == sizeof message.number);
    sum += message.number;
  }
  joined(thread);
  struct sembuf operation = {.sem_num = 0, .sem_op = -1};
  const struct timespec soon = {0, 3000000};
  CHECK_ERRNO(semtimedop(semaphores, &operation, 1, &soon), EAGAIN);
  remove_them();
  printf("%d\n", sum);
  return 0;
}
