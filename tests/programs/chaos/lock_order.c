// A deadlock by the order of locks: one thread moves from the first account to the second, the other back.
// Natively the first is done before the second has begun. Ends with 0, or with 3 where each has what the
// other wants.
#include "../guests/threads.h"

static struct account {
  pthread_mutex_t mutex;
  long money;
} accounts[2] = {{PTHREAD_MUTEX_INITIALIZER, 100}, {PTHREAD_MUTEX_INITIALIZER, 100}};
static atomic_int holds[2];

static void* move(void* argument) {
  const intptr_t from = (intptr_t)argument;
  struct account *source = &accounts[from], *target = &accounts[!from];
  CHECK_OK(pthread_mutex_lock(&source->mutex));
  atomic_store(&holds[from], 1);
  compute_for(500);  // what it costs
  source->money -= 10;
  CHECK_OK(pthread_mutex_lock(&target->mutex));
  target->money += 10;
  CHECK_OK(pthread_mutex_unlock(&target->mutex));
  atomic_store(&holds[from], 0);
  CHECK_OK(pthread_mutex_unlock(&source->mutex));
  return NULL;
}

int main(void) {
  pthread_t threads[2];
  for (intptr_t i = 0; i < 2; ++i) {
    threads[i] = started(move, (void*)i);
    compute_for(100000);
  }
  const struct timespec late = from_now(CLOCK_REALTIME, 3000);
  for (int i = 0; i < 2; ++i) {
    const int result = pthread_timedjoin_np(threads[i], NULL, &late);
    if (result == 0) continue;
    CHECK(result == ETIMEDOUT);
    printf("%s\n", atomic_load(&holds[0]) && atomic_load(&holds[1]) ? "deadlock" : "slow");
    return 3;
  }
  printf("%ld %ld\n", accounts[0].money, accounts[1].money);
  return 0;
}
