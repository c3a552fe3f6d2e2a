// What a write has taken isn't changed by stores after it, and stores before a waiting write goes on are
// seen: in the order that other threads see.
// flags: -pthread
// native: output
#include <sys/socket.h>

#include "threads.h"

static int ends[2];
static atomic_int turn;
static volatile char text[64];

static void* change(void* unused) {
  (void)unused;
  for (int i = 0; i < 50; ++i) {
    while (atomic_load(&turn) != 2 * i) sched_yield();
    snprintf((char*)text, sizeof text, "line %d", i);
    atomic_fetch_add(&turn, 1);
  }
  return NULL;
}

int main(void) {
  CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
  const pthread_t thread = started(change, NULL);
  for (int i = 0; i < 50; ++i) {
    while (atomic_load(&turn) != 2 * i + 1) sched_yield();
    CHECK(send(ends[0], (const void*)text, strlen((const char*)text), 0) > 0);
    if (i == 49) memset((void*)text, 'x', 8);
    atomic_fetch_add(&turn, 1);
  }
  for (int i = 0; i < 50; ++i) {
    char got[64] = "", wanted[64];
    snprintf(wanted, sizeof wanted, "line %d", i);
    CHECK(recv(ends[1], got, sizeof got, 0) == (ssize_t)strlen(wanted) && strcmp(got, wanted) == 0);
  }
  joined(thread);
  printf("fifty lines\n");
  return 0;
}
