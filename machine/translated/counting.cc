#include "machine/translated/counting.h"

namespace aftercheck::translated {

Counting best_counting() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512vl") != 0 ? Counting::vector : Counting::memory;
}

}  // namespace aftercheck::translated
