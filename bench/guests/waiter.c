// Mostly waits. args: milliseconds
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char** argv) {
  for (int left = argc > 1 ? atoi(argv[1]) : 1000; left > 0; left -= 50)
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
  puts("done");
  return 0;
}
