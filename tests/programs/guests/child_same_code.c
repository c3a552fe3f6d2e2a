// native: yes
// The same program many times: what is known of its code from one time must not be taken for granted the
// next. A page of it is as before, is changed before it is executed and after, is taken away, has something
// else in its place, and can't be executed.
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "own_page.h"

static sigjmp_buf landing;
static volatile int signaled;
static void* volatile faulting;

static void on_fault(int signal, siginfo_t* info, void* context) {
  (void)context;
  signaled = signal;
  faulting = info->si_addr;
  siglongjmp(landing, 1);
}

static void expect_fault(void) {
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
  sigaction(SIGSEGV, &action, NULL);
  faulting = NULL;
  if (sigsetjmp(landing, 1) == 0) {
    caller();
    CHECK(0);
  }
  CHECK(signaled == SIGSEGV);
  CHECK(faulting == (void*)seven);
}

static int once(const char* way) {
  switch (*way) {
    case 'a':  // as it is
      CHECK(caller() == 7 && seven() == 7);
      break;
    case 'b':  // changed before
      change(9);
      CHECK(caller() == 9 && seven() == 9);
      break;
    case 'c':  // and after
      CHECK(caller() == 7);
      change(11);
      CHECK(caller() == 11 && seven() == 11);
      break;
    case 'd':  // away
      munmap((void*)seven, kPage);
      expect_fault();
      break;
    case 'e':
      CHECK(caller() == 7);
      munmap((void*)seven, kPage);
      expect_fault();
      break;
    case 'f':  // something else, mapped there
      CHECK(mmap((void*)seven, kPage, PROT_READ | PROT_WRITE | PROT_EXEC,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == (void*)seven);
      memcpy((void*)seven, "\xb8\x0d\x00\x00\x00\xc3", 6);  // mov $13, %eax; ret
      CHECK(caller() == 13);
      break;
    case 'g':  // not to be executed
      CHECK(mprotect((void*)seven, kPage, PROT_READ) == 0);
      expect_fault();
      CHECK(mprotect((void*)seven, kPage, PROT_READ | PROT_EXEC) == 0);
      CHECK(caller() == 7);
      break;
    case 'h':  // written while it can be executed
      CHECK(mprotect((void*)seven, kPage, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
      CHECK(caller() == 7);
      ((volatile char*)seven)[kImmediate] = 15;
      CHECK(caller() == 15);
      break;
  }
  return 0;
}

int main(int argc, char** argv) {
  if (argc == 2) return once(argv[1]);
  for (const char* way = "aabacadaeafagahaa"; *way != 0; ++way) {
    const pid_t child = way[1] == 0 ? fork() : vfork();
    if (child == 0) {
      char text[2] = {*way, 0};
      char* args[] = {argv[0], text, NULL};
      execv("/proc/self/exe", args);
      _exit(99);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
  }
  return 0;
}
