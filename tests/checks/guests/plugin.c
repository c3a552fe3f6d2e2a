// A library that is loaded late.
#include "vassert.h"

VASSERT_GHOST static int calls = 0;

int plugin(int value) {
  VASSERT_MSG(value != 3, "value %d", value);
  VASSERT_BLOCK {
    ++calls;
    VASSERT_LOG("call %d", calls);
  }
  return value + 1;
}
