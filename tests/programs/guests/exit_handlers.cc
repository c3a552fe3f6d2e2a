// Destructors, atexit and flushing at the end.
// expect: exit 200
// expect-output: last words
#include <cstdio>
#include <cstdlib>

struct Global {
  ~Global() { std::printf("destroyed\n"); }
};
static Global global;

int main() {
  static Global local;
  std::atexit([] { std::printf("last words\n"); });
  std::exit(200);
}
