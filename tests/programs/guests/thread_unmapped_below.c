// Another thread takes the memory away in which a call that waits is to write: the call fails with EFAULT
// once it would write; where new memory was mapped there meanwhile, that has it.
// flags: -pthread
// native: output
#include <poll.h>
#include <sys/mman.h>

#include "threads.h"

static int pipes[2];
static atomic_int tid;
static char* page;
static ssize_t result;
static int error;

static void* read_it(void* size) {
  atomic_store(&tid, gettid());
  errno = 0;
  result = read(pipes[0], page, (size_t)size);
  error = errno;
  return NULL;
}
static void* poll_it(void* unused) {
  (void)unused;
  struct pollfd* wanted = (struct pollfd*)page;
  *wanted = (struct pollfd){.fd = pipes[0], .events = POLLIN};
  atomic_store(&tid, gettid());
  errno = 0;
  result = poll(wanted, 1, -1);
  error = errno;
  return NULL;
}
static void begin(pthread_t* thread, void* (*function)(void*), void* argument) {
  page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(page != MAP_FAILED);
  memset(page, 1, 8192);
  atomic_store(&tid, 0);
  *thread = started(function, argument);
  until_asleep(until_set(&tid));
}

// Natively the pipe keeps what couldn't be written. A recorder that reads into memory of its own first has
// taken it.
static void take_rest(void) {
  char rest[10];
  struct pollfd left = {.fd = pipes[0], .events = POLLIN};
  if (poll(&left, 1, 0) == 1) CHECK(read(pipes[0], rest, sizeof rest) == 3 && memcmp(rest, "abc", 3) == 0);
}

int main(void) {
  pthread_t thread;
  CHECK(pipe(pipes) == 0);
  // Gone.
  begin(&thread, read_it, (void*)4096);
  CHECK(munmap(page, 8192) == 0 && write(pipes[1], "abc", 3) == 3);
  joined(thread);
  printf("unmapped: %zd %s\n", result, strerror(error));
  take_rest();
  // Not to be written any more.
  begin(&thread, read_it, (void*)4096);
  CHECK(mprotect(page, 8192, PROT_READ) == 0 && write(pipes[1], "abc", 3) == 3);
  joined(thread);
  printf("read-only: %zd %s, %d\n", result, strerror(error), page[0]);
  take_rest();
  // Another piece in its place.
  begin(&thread, read_it, (void*)4096);
  CHECK(mmap(page, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page);
  CHECK(write(pipes[1], "abc", 3) == 3);
  joined(thread);
  printf("new: %zd %.3s\n", result, page);
  // Half of it.
  begin(&thread, read_it, (void*)8192);
  CHECK(munmap(page + 4096, 4096) == 0 && write(pipes[1], "abc", 3) == 3);
  joined(thread);
  printf("half: %zd %.3s\n", result, page);
  // Elsewhere.
  begin(&thread, poll_it, NULL);
  CHECK(munmap(page, 8192) == 0 && write(pipes[1], "a", 1) == 1);
  joined(thread);
  printf("poll: %zd %s\n", result, strerror(error));
  return 0;
}
