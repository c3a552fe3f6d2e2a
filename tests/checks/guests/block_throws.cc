// Exceptions that leave a VASSERT_BLOCK, inside a try of the program's, inside a destructor that runs for
// another exception, and out of all; and one that does not leave it.
#include <cstdio>
#include <stdexcept>

#include "vassert.h"

static void throws(bool really) {
  if (really) throw std::runtime_error("boom");
}

struct Guard {
  bool throwing;
  ~Guard() {
    VASSERT_BLOCK {  // while an exception is on its way
      try {
        throws(throwing);
      } catch (const std::exception&) {
      }
    }
    try {
      VASSERT_BLOCK { throws(throwing); }
    } catch (const std::exception&) {
      std::puts("never");
    }
  }
};

int main(int argc, char**) {
  try {
    VASSERT_BLOCK { throws(argc == 1); }
    std::puts("run goes on");
  } catch (const std::exception&) {
    std::puts("never");
  }
  VASSERT_BLOCK { throws(argc == 2); }
  try {
    const Guard guard{true};
    throws(true);
  } catch (const std::exception&) {
  }
  VASSERT_BLOCK { throws(true); }
  return 0;
}
