// Small system calls, one after the other. args: count
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char** argv) {
  for (long left = argc > 1 ? atol(argv[1]) : 10000; left > 0; --left) syscall(SYS_getppid);
  return 0;
}
