#include "machine/exit_time.h"

#include <algorithm>
#include <atomic>
#include <ctime>
#include <limits>

namespace aftercheck {
namespace {

// A stop at a breakpoint is two exits with some work between them, and the cheapest exit noted is cheaper
// than most.
constexpr double kExits = 8;

std::atomic<double> cheapest{std::numeric_limits<double>::infinity()};

}  // namespace

double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

void note_exit_seconds(double seconds) {
  double least = cheapest.load(std::memory_order_relaxed);
  while (seconds < least && !cheapest.compare_exchange_weak(least, seconds, std::memory_order_relaxed))
    continue;
}

double dense_seconds(double least) {
  const double exit = cheapest.load(std::memory_order_relaxed);
  return exit < std::numeric_limits<double>::infinity() ? std::max(least, kExits * exit) : least;
}

}  // namespace aftercheck
