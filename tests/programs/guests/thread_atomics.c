// Atomic operations of all widths on the same words, a list without locks, and string instructions beside
// them.
// flags: -pthread -mcx16
// native: output
#include "threads.h"

enum { kThreads = 4, kRounds = 1500 };
static unsigned char byte;
static unsigned short half;
static unsigned word;
static unsigned long wide;
static struct { unsigned long low, high; } __attribute__((aligned(16))) both;
static struct node {
  struct node* next;
  int value;
} * list, nodes[kThreads][kRounds];

static void add_to_both(unsigned long low, unsigned long high) {
  unsigned long seen_low = both.low, seen_high = both.high;
  unsigned char done;
  do
    asm volatile("lock cmpxchg16b %1"
                 : "=@ccz"(done), "+m"(both), "+a"(seen_low), "+d"(seen_high)
                 : "b"(seen_low + low), "c"(seen_high + high)
                 : "memory");
  while (!done);
}
static void* work(void* argument) {
  const int me = (int)(intptr_t)argument;
  static char text[kThreads][3000];
  for (int i = 0; i < kRounds; ++i) {
    __atomic_fetch_add(&byte, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_sub(&half, 3, __ATOMIC_SEQ_CST);
    __atomic_fetch_xor(&word, (unsigned)(i * 4 + me), __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&wide, 1ul << (me * 8), __ATOMIC_SEQ_CST);
    add_to_both(1, (unsigned long)me);
    struct node* node = &nodes[me][i];
    node->value = i;
    do node->next = __atomic_load_n(&list, __ATOMIC_SEQ_CST);
    while (!__sync_bool_compare_and_swap(&list, node->next, node));
    if (i % 10 == 0) {
      char* to = text[me];
      size_t count = sizeof text[me];
      asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(i) : "memory");
      CHECK(text[me][0] == (char)i && text[me][2999] == (char)i);
    }
  }
  return NULL;
}

int main(void) {
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) threads[i] = started(work, (void*)i);
  for (int i = 0; i < kThreads; ++i) joined(threads[i]);
  long sum = 0, count = 0;
  for (const struct node* node = list; node; node = node->next) sum += node->value, ++count;
  printf("%d %d %u %lx %lu %lu, %ld of %ld\n", byte, half, word, wide, both.low, both.high, sum, count);
  return 0;
}
