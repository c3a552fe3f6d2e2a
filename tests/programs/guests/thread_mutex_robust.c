// Threads that die with robust mutexes: who waits is told so, who comes later too; several at once; what is
// not made consistent can't be had any more; one that was about to lock.
// flags: -pthread
// native: output
#include "threads.h"

enum { kMutexes = 5 };
static pthread_mutex_t mutexes[kMutexes];
static atomic_int locked, waiting;

static void* die(void* asleep) {
  for (int i = 0; i < kMutexes; ++i) CHECK_OK(pthread_mutex_lock(&mutexes[i]));
  atomic_store(&locked, 1);
  if (asleep) until_asleep(until_set(&waiting));
  return NULL;
}
static void* wait_for_it(void* mutex) {
  atomic_store(&waiting, (int)syscall(SYS_gettid));
  const int result = pthread_mutex_lock(mutex);
  if (result == EOWNERDEAD) CHECK_OK(pthread_mutex_consistent(mutex));
  CHECK_OK(pthread_mutex_unlock(mutex));
  return (void*)(intptr_t)result;
}

// The kernel's part alone: the list, its pending entry, and the waiters' bit.
static struct {
  struct {
    void* next;
    long offset;
    void* pending;
  } head;
  struct {
    void* next;
    atomic_uint word;
  } entries[2];
} list;
static void* raw_death(void* unused) {
  (void)unused;
  const unsigned tid = (unsigned)syscall(SYS_gettid);
  list.head.next = &list.entries[0];
  list.head.offset = (char*)&list.entries[0].word - (char*)&list.entries[0];
  list.head.pending = &list.entries[1];
  list.entries[0].next = &list.head;
  atomic_store(&list.entries[0].word, tid | FUTEX_WAITERS);
  atomic_store(&list.entries[1].word, tid);
  CHECK(syscall(SYS_set_robust_list, &list.head, sizeof list.head) == 0);
  void* own[2];
  CHECK(syscall(SYS_get_robust_list, 0, &own[0], &own[1]) == 0);
  CHECK(own[0] == &list.head && (size_t)own[1] == sizeof list.head);
  CHECK_ERRNO(syscall(SYS_set_robust_list, &list.head, 8), EINVAL);
  return NULL;
}

int main(void) {
  pthread_mutexattr_t attributes;
  CHECK_OK(pthread_mutexattr_init(&attributes));
  CHECK_OK(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST));
  for (int i = 0; i < kMutexes; ++i) {
    CHECK_OK(pthread_mutexattr_setpshared(&attributes, i % 2));
    CHECK_OK(pthread_mutex_init(&mutexes[i], &attributes));
  }
  // Waited for, private and shared.
  for (int i = 0; i < 2; ++i) {
    atomic_store(&locked, 0), atomic_store(&waiting, 0);
    const pthread_t dying = started(die, &locked);
    until_set(&locked);
    const pthread_t waits = started(wait_for_it, &mutexes[i]);
    joined(dying);
    CHECK((intptr_t)joined(waits) == EOWNERDEAD);
    for (int j = 0; j < kMutexes; ++j) {
      const int result = pthread_mutex_lock(&mutexes[j]);
      CHECK(result == (j == i ? 0 : EOWNERDEAD));
      if (result) CHECK_OK(pthread_mutex_consistent(&mutexes[j]));
      CHECK_OK(pthread_mutex_unlock(&mutexes[j]));
    }
  }
  // Nobody waited.
  joined(started(die, NULL));
  CHECK(pthread_mutex_trylock(&mutexes[0]) == EOWNERDEAD);
  CHECK_OK(pthread_mutex_unlock(&mutexes[0]));
  CHECK(pthread_mutex_lock(&mutexes[0]) == ENOTRECOVERABLE);
  struct timespec soon = from_now(CLOCK_REALTIME, 1000);
  CHECK(pthread_mutex_timedlock(&mutexes[1], &soon) == EOWNERDEAD);
  joined(started(raw_death, NULL));
  printf("%#x %#x\n", atomic_load(&list.entries[0].word), atomic_load(&list.entries[1].word));
  return 0;
}
