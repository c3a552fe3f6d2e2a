// mq_notify: a signal when a message arrives.
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <unistd.h>

#include "check.h"

static volatile sig_atomic_t notices, value;
static void notice(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  if (info->si_code == SI_MESGQ) ++notices, value = info->si_value.sival_int;
}

int main(void) {
  char name[64];
  snprintf(name, sizeof name, "/aftercheck-%d", (int)getpid());
  struct mq_attr attributes = {.mq_maxmsg = 3, .mq_msgsize = 64};
  const mqd_t queue = mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &attributes);
  CHECK(queue != (mqd_t)-1 && mq_unlink(name) == 0);
  const struct sigaction action = {.sa_sigaction = notice, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2, .sigev_value.sival_int = 77};
  CHECK(mq_notify(queue, &event) == 0);
  CHECK_ERRNO(mq_notify(queue, &event), EBUSY);
  CHECK(mq_send(queue, "one", 4, 0) == 0);
  CHECK(notices == 1 && value == 77);
  // Once only, and not while messages wait.
  CHECK(mq_send(queue, "two", 4, 0) == 0 && notices == 1);
  CHECK(mq_notify(queue, &event) == 0 && mq_send(queue, "three", 6, 0) == 0 && notices == 1);
  char text[64];
  for (int i = 0; i < 3; ++i) CHECK(mq_receive(queue, text, sizeof text, NULL) > 0);
  CHECK(mq_send(queue, "four", 5, 0) == 0 && notices == 2);
  CHECK(mq_notify(queue, NULL) == 0);
  event.sigev_notify = SIGEV_NONE;
  CHECK(mq_notify(queue, &event) == 0 && mq_notify(queue, NULL) == 0);
  CHECK_ERRNO(mq_notify(0, NULL), EBADF);
  event.sigev_notify = 99;
  CHECK_ERRNO(mq_notify(queue, &event), EINVAL);
  printf("%d notices\n", (int)notices);
  return 0;
}
