// A lost wake-up: whether there is work is looked at without the lock, and the wake-up that comes between the
// look and the wait wakes nobody. Natively the maker is slower than that by far. Ends with 0, or with 3 where
// the wake-up is lost.
#include "../guests/threads.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t there_is_work = PTHREAD_COND_INITIALIZER;
static volatile int work;
static int log_fd;

static void* take(void* unused) {
  (void)unused;
  if (!work) {
    compute_for(20000);  // what it says is put together first
    CHECK(write(log_fd, "no work yet\n", 12) == 12);
    CHECK_OK(pthread_mutex_lock(&mutex));
    CHECK_OK(pthread_cond_wait(&there_is_work, &mutex));
    CHECK_OK(pthread_mutex_unlock(&mutex));
  }
  return NULL;
}
static void* make(void* unused) {
  (void)unused;
  compute_for(300000);
  CHECK(write(log_fd, "work\n", 5) == 5);
  CHECK_OK(pthread_mutex_lock(&mutex));
  work = 1;
  CHECK_OK(pthread_cond_signal(&there_is_work));
  CHECK_OK(pthread_mutex_unlock(&mutex));
  return NULL;
}

int main(void) {
  log_fd = fileno(tmpfile());
  const pthread_t taker = started(take, NULL), maker = started(make, NULL);
  joined(maker);
  // Whoever was waiting has been woken; whoever comes now waits for ever.
  const struct timespec late = from_now(CLOCK_REALTIME, 3000);
  const int result = pthread_timedjoin_np(taker, NULL, &late);
  CHECK(result == 0 || result == ETIMEDOUT);
  printf("%s\n", result ? "the wake-up is lost" : "woken");
  return result ? 3 : 0;
}
