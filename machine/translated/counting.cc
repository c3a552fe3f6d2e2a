#include "machine/translated/counting.h"

namespace aftercheck::translated {

Counting best_counting() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512vl") != 0 ? Counting::vector : Counting::memory;
}

bool fast_loop(Counting counting) { return counting == Counting::vector && __builtin_cpu_is("amd") != 0; }

}  // namespace aftercheck::translated
