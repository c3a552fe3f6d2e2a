// flags: -static
// args: one 'two words'
// expect: exit 7
// expect-output: argv[2] = two words
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char** argv) {
  for (int i = 0; i < argc; ++i) printf("argv[%d] = %s\n", i, argv[i]);
  fprintf(stderr, "HOME=%s\n", getenv("HOME") ? getenv("HOME") : "");
  return 7;
}
