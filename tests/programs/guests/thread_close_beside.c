// Descriptors that another thread closes, shuts down or replaces while a call waits on them.
// flags: -pthread
// native: output
#include <poll.h>
#include <sys/socket.h>

#include "threads.h"

static int pipes[2], sockets[2];
static atomic_int tid;
static void* read_it(void* result) {
  char text[10] = "";
  atomic_store(&tid, gettid());
  const ssize_t size = read(pipes[0], text, sizeof text);
  *(long*)result = size;
  CHECK(size != 3 || strcmp(text, "abc") == 0);
  return NULL;
}
static void* receive(void* result) {
  char text[10] = "";
  atomic_store(&tid, gettid());
  *(long*)result = recv(sockets[0], text, sizeof text, 0);
  return NULL;
}

int main(void) {
  long result = -2;
  CHECK(pipe(pipes) == 0);
  // The pipe is held by the call until it ends.
  pthread_t thread = started(read_it, &result);
  until_asleep(until_set(&tid));
  nap(5);
  const int held = dup(pipes[0]);
  CHECK(close(pipes[0]) == 0 && write(pipes[1], "abc", 3) == 3);
  joined(thread);
  // Where the thread had not come to its call yet, there was no descriptor for it any more.
  CHECK(result == 3 || result == -1);
  close(held);
  // Another one gets the number; the other end closes.
  CHECK(close(pipes[1]) == 0 && pipe(pipes) == 0);
  atomic_store(&tid, 0);
  thread = started(read_it, &result);
  until_asleep(until_set(&tid));
  CHECK(close(pipes[1]) == 0);
  joined(thread);
  printf("end: %ld\n", result);
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
  atomic_store(&tid, 0);
  thread = started(receive, &result);
  until_asleep(until_set(&tid));
  CHECK(shutdown(sockets[0], SHUT_RD) == 0);
  joined(thread);
  printf("shut down: %ld\n", result);
  return 0;
}
