// The program replaces itself: what stays (descriptors, directory, ignored signals) and what goes (handlers,
// memory, close-on-exec).
#include <fcntl.h>
#include <signal.h>
#include <sys/auxv.h>

#include "check.h"

static void handler(int signal) { (void)signal; }

int main(int argc, char** argv) {
  struct sigaction action;
  sigset_t mask;
  if (argc == 1) {
    const int kept = dup2(open("/dev/null", O_RDONLY), 50), closed = dup2(kept, 51);
    CHECK(fcntl(closed, F_SETFD, FD_CLOEXEC) == 0);
    CHECK(mkdtemp((char[]){"dirXXXXXX"}) != NULL);
    signal(SIGUSR1, handler);
    signal(SIGUSR2, SIG_IGN);
    sigemptyset(&mask);
    sigaddset(&mask, SIGHUP);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    raise(SIGHUP);
    printf("pid %d stack %p random %p\n", getpid(), (void*)&argc, (void*)getauxval(AT_RANDOM));
    fflush(stdout);
    char* arguments[] = {"new name", "again", "", NULL};
    char* environment[] = {"ONLY=this", NULL};
    execve("/proc/self/exe", arguments, environment);
    CHECK(!"execve returned");
  }
  CHECK(argc == 3 && strcmp(argv[0], "new name") == 0 && argv[2][0] == 0);
  CHECK(strcmp(getenv("ONLY"), "this") == 0 && getenv("PATH") == NULL);
  CHECK(fcntl(50, F_GETFD) == 0);
  CHECK_ERRNO(fcntl(51, F_GETFD), EBADF);
  CHECK(sigaction(SIGUSR1, NULL, &action) == 0 && action.sa_handler == SIG_DFL);
  CHECK(sigaction(SIGUSR2, NULL, &action) == 0 && action.sa_handler == SIG_IGN);
  CHECK(sigpending(&mask) == 0 && sigismember(&mask, SIGHUP));
  printf("pid %d stack %p random %p %s\n", getpid(), (void*)&argc, (void*)getauxval(AT_RANDOM),
         (char*)getauxval(AT_EXECFN));
  return 0;
}
