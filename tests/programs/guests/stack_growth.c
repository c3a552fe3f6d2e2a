// 7 MB of stack, by recursion and by one large frame.
#include "check.h"

__attribute__((noinline)) static int deep(int levels) {
  volatile char frame[1000];
  frame[levels % 1000] = (char)levels;
  return levels == 0 ? 0 : deep(levels - 1) + (frame[levels % 1000] == (char)levels);
}

__attribute__((noinline)) static int wide(void) {
  volatile char frame[5 << 20];
  for (size_t i = 0; i < sizeof frame; i += 4096) frame[i] = 1;
  return frame[1 << 20];
}

int main(void) {
  CHECK(deep(6900) == 6900);
  CHECK(wide() == 1);
  char near;
  printf("%p\n", (void*)&near);
  return 0;
}
