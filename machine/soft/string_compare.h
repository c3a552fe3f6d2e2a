// SSE4.2's PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM (SDM vol. 2, 4.1), for the substring search ("equal
// ordered") that Unicorn 2.0.1 gets wrong for some 2% of random strings.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace aftercheck::soft {

using Vector = std::array<uint8_t, 16>;

struct StringComparison {
  unsigned index = 0;  // for ECX
  Vector mask{};       // for XMM0
  uint64_t flags = 0;  // all status flags
};

// Lengths are those of PCMPESTRx (any sign and size); nullopt: strings end at their first zero, as for
// PCMPISTRx. `control` is the immediate; its aggregation must be "equal ordered".
StringComparison find_ordered(const Vector& needle, const Vector& hay, uint8_t control,
                              std::optional<int64_t> needle_length, std::optional<int64_t> hay_length);

}  // namespace aftercheck::soft
