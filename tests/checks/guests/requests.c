// Requests of different lengths, some with a system call behind them: hits of the sites lie unevenly.
#include <stdio.h>
#include <unistd.h>

#include "vassert.h"

static unsigned state = 1;
static unsigned next(void) { return (state = state * 1103515245 + 12345) >> 16; }

static long sum;
static int depth;

static __attribute__((noinline)) void item(unsigned value) {
  VASSERT_MSG(value < 32700, "the value is %u", value);
  sum += value;
}

static __attribute__((noinline)) void rare(int request) {
  VASSERT(request % 2 == 0);
  sum ^= request;
}

static __attribute__((noinline)) void descend(int levels) {
  VASSERT_MSG(depth == 0, "depth %d", depth);
  if (levels > 0) descend(levels - 1);
  sum++;
}

int main(void) {
  for (int request = 0; request < 300; ++request) {
    const unsigned items = next() % 400;
    for (unsigned i = 0; i < items; ++i) item(next() % 32768);
    if (next() % 7 == 0) rare(request);
    if (request % 31 == 5) descend(request / 31);
    if (request % 50 == 49) dprintf(STDOUT_FILENO, "%d\n", request);
  }
  printf("%ld\n", sum);
  return 0;
}
