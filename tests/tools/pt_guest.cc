// Recorded and traced by pt_flow_test.cc, which expects exactly these calls. Every function is called in one
// way only.
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#define KEEP extern "C" __attribute__((noinline, used))

static volatile long sink;
static volatile int here;  // changed behind a call, which so is no tail call
static jmp_buf place;

KEEP void leaf(long x) {
  sink = sink + x;  // line: leaf
  asm volatile("");
}

KEEP void tail_called(long x) { sink = sink - x; }
KEEP void calls_in_tail_position(long x) {
  sink = sink + 2;
  tail_called(x);
}

KEEP long recursive(long depth) {
  if (depth == 0) return 1;
  const long below = recursive(depth - 1);
  leaf(below);
  return below + 1;
}

KEEP void jumps_out(int depth) {
  if (depth == 0) longjmp(place, 1);
  jumps_out(depth - 1);
  leaf(depth);
}
KEEP void after_longjmp() {
  leaf(3);
  here = 1;
}

KEEP void throws(int depth) {
  if (depth == 0) throw depth;
  throws(depth - 1);
  leaf(depth);
}
KEEP void after_catch() {
  leaf(4);
  here = 1;
}

KEEP void on_signal(int) {
  leaf(5);
  here = 1;
}
KEEP void raises() {
  std::raise(SIGUSR1);
  leaf(6);
  here = 1;
}
KEEP void after_signal() {
  leaf(7);
  here = 1;
}

KEEP void never_called() { leaf(8); }  // line: never

KEEP void looks_up() {
  for (int i = 0; i < 1000; ++i) {
    leaf(i);  // line: loop
  }
}

int main(int argc, char**) {
  looks_up();
  leaf(recursive(20));
  calls_in_tail_position(argc);
  if (setjmp(place) == 0) jumps_out(5);
  after_longjmp();
  try {
    throws(5);
  } catch (int) {
    after_catch();
  }
  std::signal(SIGUSR1, on_signal);
  raises();
  after_signal();
  if (argc > 1000) never_called();
  std::puts("done");
  return 0;
}
