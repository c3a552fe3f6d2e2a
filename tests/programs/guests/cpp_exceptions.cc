// C++ exceptions: thrown deep, through destructors and libraries, rethrown, in numbers.
// expect-output: caught 1000, destroyed 10000, out_of_range
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

static int destroyed;
struct Guard {
  ~Guard() { ++destroyed; }
};

static void deep(int levels, int what) {
  Guard guard;
  if (levels > 1)
    deep(levels - 1, what);
  else if (what % 2)
    throw std::runtime_error(std::to_string(what));
  else
    throw what;
}

int main() {
  int caught = 0;
  for (int i = 0; i < 1000; ++i) try {
      try {
        deep(10, i);
      } catch (const std::runtime_error& error) {
        if (std::stoi(error.what()) == i) throw i;
      }
    } catch (int value) {
      caught += value == i;
    }
  const char* last = "none";
  try {
    static_cast<void>(std::vector<int>(3).at(5));
  } catch (const std::out_of_range&) {
    last = "out_of_range";
  }
  std::printf("caught %d, destroyed %d, %s\n", caught, destroyed, last);
  return caught == 1000 ? 0 : 1;
}
