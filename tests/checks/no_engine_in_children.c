/* Preloaded into aftercheck: Unicorn makes an engine in the first process only, as on a host that has no more
 * of what a machine needs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

static pid_t first;
__attribute__((constructor)) static void begin(void) { first = getpid(); }

int uc_open(int architecture, int mode, void** engine);
int uc_open(int architecture, int mode, void** engine) {
  if (getpid() != first) return 1; /* UC_ERR_NOMEM */
  int (*real)(int, int, void**) = (int (*)(int, int, void**))dlsym(RTLD_NEXT, "uc_open");
  return real(architecture, mode, engine);
}
