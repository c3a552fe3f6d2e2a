// Every clock, by C library and by bare system call.
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "check.h"

int main(void) {
  for (int clock = 0; clock < 12; ++clock) {
    struct timespec now = {0, 0}, resolution = {0, 0};
    const int result = clock_gettime(clock, &now), result2 = clock_getres(clock, &resolution);
    printf("clock %d: %d %ld.%09ld, %d %ld.%09ld\n", clock, result, now.tv_sec, now.tv_nsec, result2,
           resolution.tv_sec, resolution.tv_nsec);
  }
  struct timeval tv;
  struct timezone tz;
  CHECK(gettimeofday(&tv, &tz) == 0);
  printf("%ld.%06ld %d\n", tv.tv_sec, tv.tv_usec, tz.tz_minuteswest);
  time_t stored;
  const time_t t = time(&stored);
  CHECK(t == stored && t - tv.tv_sec <= 5);
  printf("%ld %ld\n", syscall(SYS_time, NULL), clock());
  struct timespec a, b, pause = {0, 2000000}, left = {7, 7};
  clock_gettime(CLOCK_MONOTONIC, &a);
  CHECK(nanosleep(&pause, &left) == 0 && left.tv_sec == 7);
  CHECK(clock_nanosleep(CLOCK_REALTIME, 0, &pause, NULL) == 0);
  clock_gettime(CLOCK_MONOTONIC, &b);
  const long slept = (b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec;
  CHECK(slept >= 4000000);
  printf("slept %ld\n", slept);
  pause.tv_nsec = 1000000000;
  CHECK_ERRNO(nanosleep(&pause, NULL), EINVAL);
  struct tm local;
  localtime_r(&t, &local);
  printf("%s", asctime(&local));
  return 0;
}
