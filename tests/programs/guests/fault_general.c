// A non-canonical access as the handler sees it: SI_KERNEL, no address.
#include <signal.h>

#include "check.h"

static void handler(int signal, siginfo_t* info, void* context) {
  (void)signal, (void)context;
  printf("code %d address %p\n", info->si_code, info->si_addr);
  fflush(stdout);
  _exit(info->si_code == SI_KERNEL && info->si_addr == NULL ? 0 : 1);
}

int main(void) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  sigaction(SIGSEGV, &action, NULL);
  return *(volatile char*)0x8000000000000000;
}
