// A double free by a race: both the reader, at the end of its input, and the first thread, when it has done
// other things, close a connection; each looks whether the other has, and frees its buffer before it says
// that it has. Natively the first thread comes long after the other. Ends with 0; by SIGABRT where the libc
// finds that the buffer is free.
#include "../guests/threads.h"

// Beyond what the libc keeps for a thread alone, where it would not notice.
enum { kSize = 50000 };
static struct {
  char* volatile buffer;
  volatile int closed;
  int log_fd;
} connection;
static int pipes[2];
static atomic_int at_end;

static void close_connection(void) {
  if (connection.closed) return;
  unsigned sum = 0;
  for (int i = 0; i < 5 * kSize; ++i) sum = sum * 31 + (unsigned char)connection.buffer[i % kSize];
  CHECK(write(connection.log_fd, &sum, sizeof sum) == sizeof sum);
  free(connection.buffer);
  connection.closed = 1;
}
static void* read_it(void* unused) {
  (void)unused;
  while (read(pipes[0], connection.buffer, kSize) > 0) continue;
  atomic_store(&at_end, 1);
  close_connection();
  return NULL;
}

int main(void) {
  connection.log_fd = fileno(tmpfile());
  connection.buffer = calloc(1, kSize);
  char* volatile behind = malloc(kSize);  // so that the buffer is not merged with what is free behind it
  CHECK(pipe(pipes) == 0 && connection.buffer && behind);
  const pthread_t reader = started(read_it, NULL);
  CHECK(write(pipes[1], "end", 3) == 3 && close(pipes[1]) == 0);
  until_set(&at_end);
  compute_for(1000000);
  close_connection();
  joined(reader);
  free(behind);
  printf("closed once\n");
  return 0;
}
