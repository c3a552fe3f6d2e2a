// A mapped file becomes shorter, by each call that can do it: SIGBUS behind its end, zeros where it ends
// within a page, zeros again when it grows.
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include "check.h"

enum { kPage = 4096 };
static sigjmp_buf back;
static volatile int seen_code;

static void on_bus(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  seen_code = info->si_code;
  siglongjmp(back, 1);
}

static int bus(volatile const char* at) {
  if (sigsetjmp(back, 1) != 0) return seen_code == BUS_ADRERR;
  (void)*at;
  return 0;
}

static void shorten(int fd, int how) {
  switch (how) {
    case 0:
      CHECK(ftruncate(fd, kPage + 100) == 0);
      break;
    case 1:
      CHECK(truncate("file", kPage + 100) == 0);
      break;
    case 2:
      CHECK(close(open("file", O_WRONLY | O_TRUNC)) == 0);
      CHECK(ftruncate(fd, kPage + 100) == 0);
      break;
  }
}

int main(void) {
  static char text[4 * kPage];
  struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGBUS, &action, NULL) == 0);
  const int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600);
  char* shared = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  char* private = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  CHECK(shared != MAP_FAILED && private != MAP_FAILED);
  CHECK(bus(shared) && bus(private + kPage));
  for (int how = 0; how < 3; how++) {
    memset(text, 'a' + how, sizeof text);
    CHECK(pwrite(fd, text, sizeof text, 0) == sizeof text);
    private[3 * kPage] = 'p';
    CHECK(!bus(shared + 3 * kPage) && private[2 * kPage] == 'a' + how);
    shorten(fd, how);
    CHECK(bus(shared + 2 * kPage) && bus(private + 3 * kPage) && !bus(shared + kPage));
    CHECK(shared[kPage + 99] == (how == 2 ? 0 : 'a' + how) && shared[kPage + 100] == 0 &&
          private[kPage + 100] == 0);
    CHECK(ftruncate(fd, 4 * kPage) == 0);
    CHECK(shared[kPage + 100] == 0 && shared[2 * kPage] == 0 && private[3 * kPage] == 0);
    printf("%d %c\n", how, shared[0] != 0 ? shared[0] : '-');
  }
  return 0;
}
