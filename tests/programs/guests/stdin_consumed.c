// Standard input, by lines, by characters and to its end; none of it is there in the replay.
// stdin: first line\n12 34.5 word\nthe rest\nof it\n\0end
// expect-output: 12 34.500000 word, 22 more
#include "check.h"

int main(void) {
  char line[100], word[100];
  int number;
  double real;
  CHECK(fgets(line, sizeof line, stdin) && strcmp(line, "first line\n") == 0);
  CHECK(scanf("%d %lf %99s", &number, &real, word) == 3);
  int rest = 0;
  while (getchar() != EOF) ++rest;
  printf("%d %f %s, %d more\n", number, real, word, rest + 2);
  CHECK(read(0, line, 10) == 0);
  return 0;
}
