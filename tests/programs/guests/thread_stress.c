// Threads that do everything at random: locks of all kinds, queues, signals to each other, mappings, faults,
// pipes, short-lived threads, spinning, trapped instructions. What it prints is the same in every order; what
// it says on standard error isn't, and a replay must say it again.
// flags: -pthread
// args: 1 4 60
// native: output
#include <cpuid.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <x86intrin.h>

#include "threads.h"

// Arguments: a seed, threads, rounds for each, microseconds between ticks of an interval timer (0: none), the
// name of a file to make when all handlers are there.
enum { kMost = 64, kLocks = 6, kPlaces = 3 };
static int thread_count, rounds;

static pthread_mutex_t locks[kLocks];
static unsigned long locked_sums[kLocks];
static unsigned order;  // of what happens under the first lock

static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t not_empty = PTHREAD_COND_INITIALIZER, not_full = PTHREAD_COND_INITIALIZER;
static unsigned queue[kPlaces], head, tail;
static unsigned long pushed, popped;

static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static volatile unsigned long guarded[2];
static atomic_flag spin = ATOMIC_FLAG_INIT;
static unsigned long spun;
static sem_t semaphores[kMost];
static pthread_t threads[kMost];
static pthread_barrier_t all_there, all_done;
static int pipes[2];
static atomic_ulong sent, received, faults, from_pipe, from_short, ticks, outside;
static atomic_uint futex_word;

static __thread char* volatile guarded_page;

static void on_value(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  if (info->si_code == SI_QUEUE && info->si_pid == getpid())
    atomic_fetch_add(&received, (unsigned long)info->si_value.sival_int);
}
static void on_tick(int signal) { atomic_fetch_add(signal == SIGALRM ? &ticks : &outside, 1); }
static void on_fault(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  CHECK(info->si_addr == guarded_page + 100);
  CHECK(mprotect(guarded_page, 4096, PROT_READ | PROT_WRITE) == 0);
  atomic_fetch_add(&faults, 1);
}

static void* short_lived(void* argument) {
  unsigned state = (unsigned)(uintptr_t)argument;
  atomic_fetch_add(&from_short, next_random(&state) % 100);
  return NULL;
}

static void with_lock(unsigned which, unsigned value) {
  pthread_mutex_t* lock = &locks[which];
  if (which == 3)
    while (pthread_mutex_trylock(lock) == EBUSY) sched_yield();
  else
    CHECK_OK(pthread_mutex_lock(lock));
  if (which == 2) CHECK_OK(pthread_mutex_lock(lock));  // the recursive one
  const unsigned long sum = locked_sums[which];
  if (value % 8 == 0) sched_yield();
  locked_sums[which] = sum + value % 1000;
  if (which == 0) order = order * 31 + (unsigned)value;
  if (which == 2) CHECK_OK(pthread_mutex_unlock(lock));
  CHECK_OK(pthread_mutex_unlock(lock));
}

static void through_queue(unsigned value) {
  CHECK_OK(pthread_mutex_lock(&queue_lock));
  while (tail - head == kPlaces) CHECK_OK(pthread_cond_wait(&not_full, &queue_lock));
  queue[tail++ % kPlaces] = value, pushed += value;
  CHECK_OK(pthread_cond_signal(&not_empty));
  CHECK_OK(pthread_mutex_unlock(&queue_lock));
  CHECK_OK(pthread_mutex_lock(&queue_lock));
  while (tail == head) {
    struct timespec soon = from_now(CLOCK_REALTIME, 2);
    if (value % 2)
      CHECK_OK(pthread_cond_wait(&not_empty, &queue_lock));
    else
      pthread_cond_timedwait(&not_empty, &queue_lock, &soon);
  }
  popped += queue[head++ % kPlaces];
  CHECK_OK(pthread_cond_signal(&not_full));
  CHECK_OK(pthread_mutex_unlock(&queue_lock));
}

static void map_and_fault(unsigned value) {
  const size_t size = (1 + value % 5) * 4096;
  char* memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  for (size_t i = 0; i < size; i += 256) {
    CHECK(memory[i] == 0);
    memory[i] = (char)(value + i / 256);
  }
  if (value % 3 == 0) {
    guarded_page = memory;
    CHECK(mprotect(memory, 4096, value % 2 ? PROT_READ : PROT_NONE) == 0);
    *(volatile char*)(memory + 100) = (char)value;
    CHECK(memory[100] == (char)value);
  }
  for (size_t i = 0; i < size; i += 256) CHECK(memory[i] == (char)(value + i / 256));
  CHECK(munmap(memory, size) == 0);
}

static unsigned compute(unsigned value) {
  unsigned state = value, sum = 0;
  for (unsigned i = 0; i < value % 3000; ++i) sum += next_random(&state);
  return sum;
}

static void one_round(unsigned what, unsigned value) {
  uint64_t start;
  unsigned char byte = (unsigned char)value;
  unsigned a, b, c, d;
  switch (what) {
    case 0:
    case 1:
      with_lock(value % kLocks, value / 7);
      break;
    case 2:
      through_queue(value);
      break;
    case 3:
      atomic_fetch_add(&sent, value % 1000);
      while ((errno = pthread_sigqueue(threads[value % (unsigned)thread_count], SIGRTMIN + (int)(value % 3),
                                       (union sigval){.sival_int = (int)(value % 1000)})) != 0) {
        CHECK(errno == EAGAIN);
        sched_yield();
      }
      break;
    case 4:
      map_and_fault(value);
      break;
    case 5:
      while (atomic_flag_test_and_set(&spin)) __builtin_ia32_pause();
      spun += value % 1000;
      if (value % 16 == 0) sched_yield();
      atomic_flag_clear(&spin);
      break;
    case 6:
      if (value % 2)
        CHECK_OK(pthread_rwlock_wrlock(&rwlock));
      else
        CHECK_OK(pthread_rwlock_rdlock(&rwlock));
      CHECK(guarded[0] == guarded[1]);
      if (value % 2) guarded[0] += value % 100, guarded[1] += value % 100;
      CHECK_OK(pthread_rwlock_unlock(&rwlock));
      break;
    case 7:
      // Whoever posted one takes one, though not always the same.
      CHECK(sem_post(&semaphores[value % (unsigned)thread_count]) == 0);
      while (sem_wait(&semaphores[value % (unsigned)thread_count]) == -1) CHECK(errno == EINTR);
      break;
    case 8:
      joined(started(short_lived, (void*)(uintptr_t)value));
      break;
    case 9:
      CHECK(write(pipes[1], &byte, 1) == 1 && read(pipes[0], &byte, 1) == 1);
      atomic_fetch_add(&from_pipe, byte);
      break;
    case 10:
      start = __rdtsc();
      __cpuid(0, a, b, c, d);
      CHECK(__rdtsc() >= start && a != 0);
      free(malloc(value % 5000));
      break;
    case 11: {
      const struct timespec soon = {0, value % 200 * 1000};
      atomic_fetch_add(&futex_word, 1);
      futex(&futex_word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
      futex(&futex_word, FUTEX_WAIT_PRIVATE, atomic_load(&futex_word), &soon, NULL, 0);
      break;
    }
    case 12:
      sched_yield();
      break;
    default:
      break;
  }
}

static void* work(void* argument) {
  unsigned state = (unsigned)(uintptr_t)argument * 7919 + order * 104729;
  pthread_barrier_wait(&all_there);
  unsigned sum = 0;
  for (int round = 0; round < rounds; ++round) {
    const unsigned what = next_random(&state) % 15, value = next_random(&state);
    sum = sum * 31 + compute(what > 12 ? value : value % 300);
    one_round(what, value);
  }
  pthread_barrier_wait(&all_done);
  return (void*)(uintptr_t)sum;
}

int main(int argc, char** argv) {
  CHECK(argc >= 4);
  const unsigned seed = (unsigned)atoi(argv[1]);
  thread_count = atoi(argv[2]), rounds = atoi(argv[3]);
  const long microseconds = argc > 4 ? atol(argv[4]) : 0;
  CHECK(thread_count > 0 && thread_count <= kMost && pipe(pipes) == 0);
  struct sigaction action = {.sa_flags = SA_RESTART | SA_SIGINFO, .sa_sigaction = on_value};
  for (int i = 0; i < 3; ++i) CHECK(sigaction(SIGRTMIN + i, &action, NULL) == 0);
  action.sa_sigaction = on_fault;
  CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
  const struct sigaction tick = {.sa_flags = SA_RESTART, .sa_handler = on_tick};
  CHECK(sigaction(SIGALRM, &tick, NULL) == 0 && sigaction(SIGUSR1, &tick, NULL) == 0);
  CHECK(sigaction(SIGUSR2, &tick, NULL) == 0 && sigaction(SIGINT, &tick, NULL) == 0);
  if (argc > 5) CHECK(fclose(fopen(argv[5], "w")) == 0);
  pthread_mutexattr_t recursive, robust;
  CHECK_OK(pthread_mutexattr_init(&recursive));
  CHECK_OK(pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE));
  CHECK_OK(pthread_mutexattr_init(&robust));
  CHECK_OK(pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST));
  for (int i = 0; i < kLocks; ++i)
    CHECK_OK(pthread_mutex_init(&locks[i], i == 2 ? &recursive : i == 4 ? &robust : NULL));
  for (int i = 0; i < thread_count; ++i) CHECK(sem_init(&semaphores[i], 0, 0) == 0);
  CHECK_OK(pthread_barrier_init(&all_there, NULL, (unsigned)thread_count + 1));
  CHECK_OK(pthread_barrier_init(&all_done, NULL, (unsigned)thread_count + 1));
  order = seed;  // until the first lock is taken
  for (intptr_t i = 0; i < thread_count; ++i) threads[i] = started(work, (void*)i);
  const struct itimerval every = {{0, microseconds}, {0, microseconds}}, never = {{0, 0}, {0, 0}};
  CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
  pthread_barrier_wait(&all_there);
  pthread_barrier_wait(&all_done);
  unsigned sum = 0;
  for (int i = 0; i < thread_count; ++i) sum = sum * 31 + (unsigned)(uintptr_t)joined(threads[i]);
  CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
  CHECK(pushed == popped && head == tail);
  CHECK(atomic_load(&sent) == atomic_load(&received));
  for (int i = 0; i < kLocks; ++i) sum = sum * 31 + (unsigned)locked_sums[i];
  const unsigned long others[] = {pushed, sent, faults, guarded[0], spun, from_pipe, from_short};
  for (size_t i = 0; i < sizeof others / sizeof *others; ++i) sum = sum * 31 + (unsigned)others[i];
  printf("%u\n", sum);
  fprintf(stderr, "order %u, %lu ticks, %lu from outside\n", order, atomic_load(&ticks),
          atomic_load(&outside));
  return 0;
}
