// Arguments: empty, with every kind of byte, and one of 100 KB.
// args: '' $'tab\t\'quote\' \xff\xfe' "$(head -c 100000 /dev/zero | tr '\0' x)" '' last
// expect: exit 6
#include "check.h"

int main(int argc, char** argv) {
  CHECK(argv[1][0] == 0 && argv[4][0] == 0 && strcmp(argv[5], "last") == 0 && argv[argc] == NULL);
  CHECK(strlen(argv[3]) == 100000 && argv[3][99999] == 'x');
  CHECK(strcmp(argv[2], "tab\t'quote' \xff\xfe") == 0);
  return argc;
}
