// FUTEX_WAKE_OP: changes a word, wakes those at another, and those at the first where its old value compares.
// flags: -pthread
// native: output
#include "threads.h"

static atomic_uint words[2];

static void* wait_for_it(void* word) {
  const unsigned value = atomic_load((atomic_uint*)word);
  CHECK(futex(word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0) == 0);
  return NULL;
}
// Whether there is one that waits for `word`, without an end to it.
static void until_waited_for(atomic_uint* word) {
  while (futex(word, FUTEX_CMP_REQUEUE_PRIVATE, 0, (void*)1, word, atomic_load(word)) != 1) sched_yield();
}
static long change(int operation, int argument, int comparison, int against) {
  return futex(&words[0], FUTEX_WAKE_OP_PRIVATE, 1, (void*)1, &words[1],
               (unsigned)FUTEX_OP(operation, argument, comparison, against));
}

int main(void) {
  // Nobody waits: what the operations do.
  words[1] = 10;
  CHECK(change(FUTEX_OP_SET, 5, FUTEX_OP_CMP_EQ, 10) == 0 && words[1] == 5);
  CHECK(change(FUTEX_OP_ADD, 7, FUTEX_OP_CMP_NE, 5) == 0 && words[1] == 12);
  CHECK(change(FUTEX_OP_OR, 3, FUTEX_OP_CMP_LT, 5) == 0 && words[1] == 15);
  CHECK(change(FUTEX_OP_ANDN, 6, FUTEX_OP_CMP_LE, 5) == 0 &&
        words[1] == 9);  // the argument is of 12 bits, with a sign
  CHECK(change(FUTEX_OP_XOR, 0xfff, FUTEX_OP_CMP_GT, 5) == 0 && words[1] == 0xfffffff6);
  CHECK(change(FUTEX_OP_SET | FUTEX_OP_OPARG_SHIFT, 20, FUTEX_OP_CMP_GE, 5) == 0 && words[1] == 1u << 20);
  CHECK(change(FUTEX_OP_SET, 0, FUTEX_OP_CMP_EQ, 0) == 0 && words[1] == 0);
  CHECK_ERRNO(change(FUTEX_OP_SET, 0, 9, 0), ENOSYS);
  CHECK(words[1] == 0);
  for (int both = 0; both < 2; ++both) {
    words[0] = words[1] = 0;
    const pthread_t first = started(wait_for_it, &words[0]), second = started(wait_for_it, &words[1]);
    until_waited_for(&words[0]), until_waited_for(&words[1]);
    const long result = change(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_GE, both ? 0 : 1);
    CHECK(result == 1 + both && words[1] == 1);
    joined(first);
    if (!both) CHECK(futex(&words[1], FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) == 1);
    joined(second);
    printf("%ld woken\n", result);
  }
  return 0;
}
