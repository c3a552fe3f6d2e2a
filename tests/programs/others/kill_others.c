// usage: kill_others WHAT: sends a signal to every process or to its own group. Run by signals-to-others,
// where it can hit nobody else.
#include <signal.h>

#include "../guests/check.h"

static volatile sig_atomic_t count;
static void on_signal(int signal) {
  (void)signal;
  count++;
}

int main(int argc, char** argv) {
  const char* what = argc == 2 ? argv[1] : "";
  CHECK(kill(-1, 0) == 0 && kill(0, 0) == 0);
  CHECK_ERRNO(kill(-1, 100), EINVAL);
  CHECK(signal(SIGUSR1, on_signal) != SIG_ERR);
  if (strcmp(what, "everybody-refused") == 0) {
    CHECK_ERRNO(kill(-1, SIGKILL), EPERM);
    CHECK_ERRNO(kill(-1, SIGUSR1), EPERM);
    CHECK(count == 0);
  } else if (strcmp(what, "everybody") == 0) {
    CHECK(kill(-1, SIGKILL) == 0);  // but for the caller
  } else if (strcmp(what, "group-caught") == 0) {
    CHECK(kill(0, SIGUSR1) == 0 && count == 1);
    CHECK(setpgid(0, 0) == 0 && kill(-getpgrp(), SIGUSR1) == 0 && count == 2);  // alone
  } else if (strcmp(what, "group-killed") == 0) {
    printf("before\n");
    fflush(stdout);
    kill(0, SIGKILL);
    return 1;
  } else if (strcmp(what, "own-group-killed") == 0) {
    CHECK(setpgid(0, 0) == 0);
    kill(-getpgrp(), SIGKILL);
    return 1;
  } else if (strcmp(what, "group-libc") == 0) {
    kill(0, 33);  // libc keeps it for itself, also in the recorder
    return 1;
  } else {
    return 2;
  }
  printf("%s\n", what);
  return 0;
}
