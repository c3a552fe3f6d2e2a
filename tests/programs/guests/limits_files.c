// Limits of files: their size, and how many descriptors.
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include "check.h"

static volatile sig_atomic_t signals;
static void on_signal(int signal) { signals += signal == SIGXFSZ; }
#define TOO_LARGE(call)           \
  do {                            \
    const int before = signals;   \
    CHECK_ERRNO(call, EFBIG);     \
    CHECK(signals == before + 1); \
  } while (0)

int main(void) {
  static char bytes[4096];
  struct rlimit old, limit = {1000, 1000};
  signal(SIGXFSZ, on_signal);
  const int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600),
            source = open("source", O_RDWR | O_CREAT, 0600);
  CHECK(write(source, bytes, sizeof bytes) == sizeof bytes);
  CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0 && getrlimit(RLIMIT_FSIZE, &old) == 0 && old.rlim_cur == 1000);
  CHECK(write(fd, bytes, 600) == 600);
  CHECK(write(fd, bytes, sizeof bytes) == 400);
  TOO_LARGE(write(fd, bytes, 1));
  CHECK(write(fd, bytes, 0) == 0);
  TOO_LARGE(pwrite(fd, bytes, 1, 1000));
  CHECK(pwrite(fd, bytes, 10, 995) == 5);
  struct iovec pieces[2] = {{bytes, 5}, {bytes, 100}};
  CHECK(pwritev(fd, pieces, 2, 990) == 10);
  TOO_LARGE(pwritev(fd, pieces, 2, 2000));
  TOO_LARGE(writev(fd, pieces, 2));
  TOO_LARGE(ftruncate(fd, 1001));
  TOO_LARGE(truncate("file", 5000));
  CHECK(ftruncate(fd, 500) == 0 && ftruncate(fd, 1000) == 0);
  CHECK(truncate("source", 3000) == 0);  // smaller than it is
  CHECK(lseek(fd, 900, SEEK_SET) == 900);
  off_t offset = 0;
  CHECK(sendfile(fd, source, &offset, 500) == 100 && offset == 100);
  CHECK(write(1, "", 0) == 0);
  signal(SIGXFSZ, SIG_IGN);
  CHECK_ERRNO(write(fd, bytes, 1), EFBIG);

  CHECK(close(fd) == 0 && close(source) == 0);
  CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
  limit = (struct rlimit){16, old.rlim_max};
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  int last = -1, next;
  while ((next = open("/dev/null", O_RDONLY)) >= 0 && next < 100) last = next;
  CHECK(errno == EMFILE && last == 15);
  CHECK_ERRNO(dup(0), EMFILE);
  CHECK_ERRNO(dup2(0, 16), EBADF);
  CHECK_ERRNO(fcntl(0, F_DUPFD, 16), EINVAL);
  CHECK_ERRNO(fcntl(0, F_DUPFD, 3), EMFILE);
  CHECK_ERRNO(eventfd(0, 0), EMFILE);
  CHECK(close(15) == 0 && dup2(0, 15) == 15);
  limit.rlim_cur = limit.rlim_max + 1;
  if (limit.rlim_max != RLIM_INFINITY) CHECK_ERRNO(setrlimit(RLIMIT_NOFILE, &limit), EINVAL);
  limit = old;
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0 && dup(0) >= 16);
  return 0;
}
