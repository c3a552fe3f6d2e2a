// The hot loops of the hot-path test: compiled with and without HOT_VASSERT, they differ by a NOP a turn.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef HOT_VASSERT
#include "vassert.h"
#define CHECKED(...) VASSERT(__VA_ARGS__)
#define CHECKED_MSG(...) VASSERT_MSG(__VA_ARGS__)
#else
#define CHECKED(...)
#define CHECKED_MSG(...)
#endif
#ifdef __clang__
#define NOT_UNROLLED _Pragma("clang loop unroll(disable)")
#else
#define NOT_UNROLLED
#endif

// A chain of dependences, which is not vectorized with or without the site. (clang unrolls loops without
// one.)
__attribute__((noinline)) uint32_t mix(uint32_t state, uint32_t turns) {
  NOT_UNROLLED
  do {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    CHECKED(state != 17);
  } while (--turns);
  return state;
}

struct node {
  struct node* next;
  uint64_t value;
};

__attribute__((noinline)) uint64_t walk(const struct node* at, uint64_t limit) {
  uint64_t sum = 0;
  NOT_UNROLLED
  do {
    sum += at->value;
    CHECKED(sum <= limit);
    at = at->next;
  } while (at);
  return sum;
}

// A leaf that lives in the red zone and registers, called in a loop.
__attribute__((noinline)) int element(const int* table, int size, int index) {
  CHECKED(index < size);
  return table[index];
}

// Memory that stays in a register: the check must not make the compiler reload or store it each turn.
__attribute__((noinline)) void count_to(uint64_t* counter, const uint64_t* step, uint64_t turns) {
  NOT_UNROLLED
  do {
    *counter += *step ^ turns;
    CHECKED(turns != 0);
  } while (--turns);
}

__attribute__((noinline)) uint32_t mix_with_message(uint32_t state, uint32_t turns) {
  NOT_UNROLLED
  do {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    CHECKED_MSG(state != 17, "state %u after %u turns", state, turns);
  } while (--turns);
  return state;
}

// Which loops run: all, or one by its name.
enum loop { mix_loop, walk_loop, element_loop, count_to_loop, mix_with_message_loop, all_loops };
#define PASTE2(a, b) a##b
#define PASTE(a, b) PASTE2(a, b)
#ifndef HOT_ONLY
static const enum loop only = all_loops;
#else
static const enum loop only = PASTE(HOT_ONLY, _loop);
#endif
static int wanted(enum loop loop) { return only == loop || only == all_loops; }

int main(int argc, char** argv) {
  uint32_t turns = argc > 1 ? (uint32_t)atol(argv[1]) : 1000;
  enum { NODES = 64 };
  struct node nodes[NODES];
  int table[NODES];
  for (int i = 0; i < NODES; i++) {
    nodes[i].next = i + 1 < NODES ? &nodes[i + 1] : NULL;
    nodes[i].value = (uint64_t)i;
    table[i] = i;
  }
  uint64_t total = 0, step = 3;
  if (wanted(mix_loop)) total += mix(1, turns);
  if (wanted(mix_with_message_loop)) total += mix_with_message(2, turns);
  for (uint32_t i = 0; wanted(walk_loop) && i < turns / NODES; i++) {
    nodes[0].value = total;  // else it is computed once
    total += walk(nodes, UINT64_MAX);
  }
  for (uint32_t i = 0; wanted(element_loop) && i < turns; i++) {
    total += (uint64_t)element(table, NODES, (int)(i % NODES));
  }
  if (wanted(count_to_loop)) count_to(&total, &step, turns);
  printf("%llu\n", (unsigned long long)total);
  return 0;
}
