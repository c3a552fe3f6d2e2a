// What a child has of its parent's, and what it has not.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#include "check.h"

static volatile sig_atomic_t count;
static void on_signal(int signal) {
  (void)signal;
  ++count;
}

static char alternate[64 << 10];
static volatile int on_alternate;
static void on_stack(int signal) {
  char here;
  (void)signal;
  on_alternate = &here > alternate && &here < alternate + sizeof alternate;
}

static void look(char* wiped, char* kept, int file) {
  sigset_t set, pending;
  struct itimerval timer;
  CHECK(sigprocmask(SIG_BLOCK, NULL, &set) == 0 && sigismember(&set, SIGUSR1) && !sigismember(&set, SIGUSR2));
  CHECK(sigpending(&pending) == 0 && !sigismember(&pending, SIGUSR1));
  CHECK(getitimer(ITIMER_REAL, &timer) == 0 && timer.it_value.tv_sec == 0 && timer.it_value.tv_usec == 0);
  CHECK(timer_gettime((timer_t)0, &(struct itimerspec){{0, 0}, {0, 0}}) == -1 && errno == EINVAL);
  CHECK(umask(022) == 027);
  struct rlimit limit;
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur == 100);
  CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur == 12345);
  char where[4096];
  CHECK(getcwd(where, sizeof where) && strcmp(where, "/usr") == 0);
  CHECK(kept[0] == 'k' && kept[5000] == 'k');
  CHECK(wiped[0] == 0 && wiped[4096] == 0);
  CHECK(raise(SIGUSR2) == 0 && count == 1);
  CHECK(raise(SIGHUP) == 0 && on_alternate);
  // The position of a file is one for both; memory is not.
  CHECK(lseek(file, 0, SEEK_CUR) == 3 && lseek(file, 7, SEEK_SET) == 7);
  kept[0] = 'c';
  count = 50;
  _exit(33);
}

int main(void) {
  const size_t kSize = 2 * 4096;
  char* const wiped = mmap(NULL, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char* const kept = mmap(NULL, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(wiped != MAP_FAILED && kept != MAP_FAILED);
  memset(wiped, 'w', kSize);
  memset(kept, 'k', kSize);
  CHECK(madvise(wiped, kSize, MADV_WIPEONFORK) == 0);
  const int file = open("file", O_CREAT | O_RDWR, 0600);
  CHECK(file >= 0 && write(file, "abcdefghij", 10) == 10 && lseek(file, 3, SEEK_SET) == 3);
  CHECK(signal(SIGUSR2, on_signal) != SIG_ERR);
  const stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
  CHECK(sigaltstack(&stack, NULL) == 0);
  struct sigaction action = {.sa_handler = on_stack, .sa_flags = SA_ONSTACK};
  CHECK(sigaction(SIGHUP, &action, NULL) == 0);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0 && raise(SIGUSR1) == 0);
  const struct itimerval far = {{0, 0}, {1000, 0}};
  CHECK(setitimer(ITIMER_REAL, &far, NULL) == 0);
  timer_t timer;
  CHECK(timer_create(CLOCK_MONOTONIC, NULL, &timer) == 0);
  umask(027);
  CHECK(setrlimit(RLIMIT_NOFILE, &(struct rlimit){100, 200}) == 0);
  CHECK(setrlimit(RLIMIT_FSIZE, &(struct rlimit){12345, 20000}) == 0);
  CHECK(chdir("/usr") == 0);

  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) look(wiped, kept, file);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 33);
  CHECK(lseek(file, 0, SEEK_CUR) == 7 && kept[0] == 'k' && wiped[0] == 'w' && count == 0);
  struct itimerval left;
  CHECK(getitimer(ITIMER_REAL, &left) == 0 && left.it_value.tv_sec > 900);
  printf("done by %d\n", getpid());
  return 0;
}
