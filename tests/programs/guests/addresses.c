// Where things are: every address that the guest can see of itself, in its output and in its control flow.
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "check.h"

static int data_word = 1, bss_word;

int main(int argc, char** argv, char** environment) {
  int local = argc;
  void* mapped = mmap(NULL, 10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  void* small = malloc(10);
  void* large = malloc(1 << 20);
  CHECK(mapped != MAP_FAILED && small && large);
  void* list[] = {(void*)main,
                  &data_word,
                  &bss_word,
                  &local,
                  mapped,
                  small,
                  large,
                  (void*)write,
                  stdout,
                  argv,
                  argv[0],
                  environment,
                  sbrk(0),
                  (void*)&errno,
                  (void*)getauxval(AT_PHDR),
                  (void*)getauxval(AT_BASE),
                  (void*)getauxval(AT_ENTRY),
                  (void*)getauxval(AT_EXECFN),
                  (void*)getauxval(AT_SYSINFO_EHDR)};
  uintptr_t hash = 0;
  for (size_t i = 0; i < sizeof list / sizeof *list; ++i) {
    printf("%zu %p\n", i, list[i]);
    hash = hash * 31 + (uintptr_t)list[i];
  }
  // As many turns as the addresses say.
  volatile unsigned turns = 0;
  for (uintptr_t i = 0; i < (hash >> 7) % 5000; ++i) ++turns;
  printf("%u turns\n", turns);
  return 0;
}
