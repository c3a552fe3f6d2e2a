// Every verdict that a check can end with, and what becomes of its output.
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "vassert.h"

VASSERT_GHOST static int seen = 3;
static int items[100];
static volatile uintptr_t bad_address = 8;
static volatile int zero;

static int sum_of(const int* values, int count) {
  int sum = 0;
  for (int i = 0; i < count; ++i) sum += values[i];
  return sum;
}

__attribute__((noinline)) static int work(int i) {
  VASSERT(i < 7);
  VASSERT_MSG(items[i] >= 0, "item %d is %d", i, items[i]);
  VASSERT_LOG("work on %d, seen %d", i, seen);
  VASSERT_BLOCK {
    ++seen;
    items[i] = -1000;  // gone with the check
    char* text = malloc(1000);
    memset(text, 'x', 999);
    text[999] = 0;
    printf("block %d of %zu\n", i, strlen(text));
    if (seen == 6) VASSERT_FAIL("the third time, sum %d", sum_of(items, 100));
    free(text);
  }
  return items[i] * 2;
}

__attribute__((noinline)) static void broken(void) {
  VASSERT(*(int*)bad_address == 0);
  VASSERT(sum_of(items, 10) % zero == 7);
  VASSERT_BLOCK {
    for (volatile int stop = 0; !stop;) {
    }
  }
  VASSERT_BLOCK {
    FILE* file = fopen("/etc/passwd", "r");
    if (file) fclose(file);
  }
  VASSERT_BLOCK { abort(); }
  VASSERT_BLOCK { syscall(SYS_exit_group, 3); }
  VASSERT_BLOCK { memset(items, 1, 1 << 30); }
}

int main(void) {
  int sum = 0;
  printf("not yet written; ");
  for (int i = 0; i < 10; ++i) {
    items[i] = i == 5 ? -85 : i * 3;
    sum += work(i);
  }
  broken();
  printf("sum %d, items[3] %d\n", sum, items[3]);
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 0;
}
