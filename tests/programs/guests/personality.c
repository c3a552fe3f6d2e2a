// "Switch address randomisation off and start again", as sanitizers, SBCL and benchmarks do.
// expect-output: started again: the same addresses
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/utsname.h>

#include "check.h"

int main(int count, char** arguments) {
  char here[30];
  snprintf(here, sizeof here, "%p", (void*)&main);
  const int now = personality(0xffffffff);
  CHECK(now >= 0 && count < 4);
  if ((now & ADDR_NO_RANDOMIZE) == 0) {
    CHECK(personality((unsigned long)now | ADDR_NO_RANDOMIZE | READ_IMPLIES_EXEC) == now);
    char *const list[] = {arguments[0], "once", NULL}, *const nothing[] = {NULL};
    execve("/proc/self/exe", list, nothing);
    CHECK(0);
  }
  CHECK((now & READ_IMPLIES_EXEC) == 0);  // a new program starts without
  if (count < 3) {
    char *const list[] = {arguments[0], "twice", here, NULL}, *const nothing[] = {NULL};
    execve("/proc/self/exe", list, nothing);
    CHECK(0);
  }
  CHECK(strcmp(here, arguments[2]) == 0);
  // What may be read may be executed, where that is asked for.
  CHECK(personality((unsigned long)now | READ_IMPLIES_EXEC) == now);
  unsigned char* code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(code != MAP_FAILED);
  code[0] = 0xc3;  // ret
  ((void (*)(void))code)();
  CHECK(mprotect(code, 4096, PROT_READ) == 0);
  ((void (*)(void))code)();
  CHECK(personality((unsigned long)now) == (now | READ_IMPLIES_EXEC));
  struct utsname name;
  CHECK(personality((unsigned long)now | PER_LINUX32 | UNAME26) == now);
  CHECK(uname(&name) == 0 && strncmp(name.release, "2.6.", 4) == 0 && strcmp(name.machine, "x86_64") != 0);
  CHECK(personality((unsigned long)now) == (now | PER_LINUX32 | UNAME26));
  CHECK(uname(&name) == 0 && strcmp(name.machine, "x86_64") == 0);
  printf("started again: the same addresses\n");
  return 0;
}
