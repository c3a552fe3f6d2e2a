// A library that is loaded late, without ghost variables; with TOO, another one.
#include "vassert.h"

int other(int value) {
#ifdef TOO
  VASSERT(value != 8);
#else
  VASSERT(value % 8 != 5);
#endif
  return value + 2;
}
