// Calls and returns, and little else. args: which Fibonacci number
#include <stdio.h>
#include <stdlib.h>

// The compiler may not make loops of the calls.
#if __has_attribute(noipa)
__attribute__((noipa))
#else
__attribute__((noinline))
#endif
static unsigned long
fib(unsigned long n) {
  return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

int main(int argc, char** argv) {
  printf("%lu\n", fib(argc > 1 ? strtoul(argv[1], NULL, 10) : 30));
  return 0;
}
