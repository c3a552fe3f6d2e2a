// How executed branches are counted, where the guest can't see it.
#pragma once

#include <cstdint>

namespace aftercheck::translated {

enum class Counting : uint8_t {
  vector,  // in XMM31 and XMM29, which only AVX-512 has and our CPU models do not: the cheapest by far
  memory,  // in slots of the context, on every processor
};

// vector where processor and system have AVX-512VL.
Counting best_counting();

// Is LOOP no slower than any branch? So on AMD's processors; found out where these have AVX-512 (Zen 5).
// Intel's take some five cycles.
bool fast_loop(Counting counting);

}  // namespace aftercheck::translated
