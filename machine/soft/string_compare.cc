#include "machine/soft/string_compare.h"

#include <algorithm>
#include <bit>
#include <cstdint>

#include "machine/registers.h"
#include "machine/soft/library_function.h"

namespace aftercheck::soft {
namespace {

// SDM vol. 2, 4.1.1 to 4.1.7: the bits of the immediate.
constexpr uint8_t kWords = 1 << 0, kNegative = 1 << 4, kMasked = 1 << 5, kMostSignificant = 1 << 6;

struct Elements {
  unsigned size, count;
  explicit Elements(uint8_t control)
      : size((control & kWords) != 0 ? 2 : 1), count((control & kWords) != 0 ? 8 : 16) {}
  unsigned at(const Vector& vector, unsigned index) const {
    return size == 1 ? vector[index] : static_cast<unsigned>(vector[2 * index] | vector[2 * index + 1] << 8);
  }
};

unsigned valid_count(const Elements& elements, const Vector& vector, std::optional<int64_t> length) {
  if (length) {
    const uint64_t magnitude = *length < 0 ? -static_cast<uint64_t>(*length) : static_cast<uint64_t>(*length);
    return static_cast<unsigned>(std::min<uint64_t>(magnitude, elements.count));
  }
  unsigned count = 0;
  while (count < elements.count && elements.at(vector, count) != 0) ++count;
  return count;
}

// Does the needle, as far as it is valid, stand in the hay from `start` on? What of it would be past the
// vector's end is not looked at.
bool stands_at(const Elements& elements, const Vector& needle, unsigned needle_count, const Vector& hay,
               unsigned hay_count, unsigned start) {
  for (unsigned i = 0; i < needle_count && start + i < elements.count; ++i)
    if (start + i >= hay_count || elements.at(needle, i) != elements.at(hay, start + i)) return false;
  return true;
}

}  // namespace

StringComparison find_ordered(const Vector& needle, const Vector& hay, uint8_t control,
                              std::optional<int64_t> needle_length, std::optional<int64_t> hay_length) {
  const Elements elements(control);
  const unsigned needle_count = valid_count(elements, needle, needle_length);
  const unsigned hay_count = valid_count(elements, hay, hay_length);
  unsigned bits = 0;
  for (unsigned j = 0; j < elements.count; ++j)
    if (stands_at(elements, needle, needle_count, hay, hay_count, j)) bits |= 1U << j;
  const unsigned all = (1U << elements.count) - 1;
  if ((control & kNegative) != 0) bits ^= (control & kMasked) != 0 ? (1U << hay_count) - 1 : all;

  StringComparison result;
  const bool most = (control & kMostSignificant) != 0;
  if (bits == 0)
    result.index = elements.count;
  else
    result.index = static_cast<unsigned>(most ? std::bit_width(bits) - 1 : std::countr_zero(bits));
  if (most) {
    for (unsigned i = 0; i < 16; ++i) result.mask[i] = (bits >> (i / elements.size) & 1) != 0 ? 0xff : 0;
  } else {
    result.mask[0] = static_cast<uint8_t>(bits);
    result.mask[1] = static_cast<uint8_t>(bits >> 8);
  }
  result.flags = (bits != 0 ? rflags::kCarry : 0) | (hay_count < elements.count ? rflags::kZero : 0) |
                 (needle_count < elements.count ? rflags::kSign : 0) |
                 ((bits & 1) != 0 ? rflags::kOverflow : 0);
  return result;
}

namespace {

// qemu/target/i386/{ops_sse.h,cpu.h} of Unicorn 2.0.1: the CPU begins with its general registers.
using Compare = void (*)(void*, void*, void*, uint32_t);
constexpr size_t kRax = 0, kRdx = 2;

// SDM vol. 2, 4.1.4: a length is an absolute value that saturates. The library's function takes the absolute
// value of -2^31 for negative and then reads far outside its operands.
uint64_t saturated(uint64_t value, uint32_t control) {
  constexpr uint32_t kWide = 0x100;  // the library's word for REX.W
  constexpr uint64_t kMost = 16;
  const int64_t length = (control & kWide) != 0 ? static_cast<int64_t>(value) : static_cast<int32_t>(value);
  if (length == INT64_MIN) return kMost;
  return std::min<uint64_t>(static_cast<uint64_t>(length < 0 ? -length : length), kMost);
}

void with_saturated_lengths(Compare compare, void* cpu, void* first, void* second, uint32_t control) {
  auto* registers = static_cast<uint64_t*>(cpu);
  const uint64_t rax = registers[kRax], rdx = registers[kRdx];
  registers[kRax] = saturated(rax, control);
  registers[kRdx] = saturated(rdx, control);
  compare(cpu, first, second, control);
  registers[kRax] = rax;
  registers[kRdx] = rdx;
}

#define AFTERCHECK_INTERPOSED extern "C" __attribute__((visibility("default")))

AFTERCHECK_INTERPOSED void helper_pcmpestri_xmm_x86_64(void* cpu, void* first, void* second,
                                                       uint32_t control) {
  static const auto own = library_function<Compare>("helper_pcmpestri_xmm_x86_64");
  with_saturated_lengths(own, cpu, first, second, control);
}
AFTERCHECK_INTERPOSED void helper_pcmpestrm_xmm_x86_64(void* cpu, void* first, void* second,
                                                       uint32_t control) {
  static const auto own = library_function<Compare>("helper_pcmpestrm_xmm_x86_64");
  with_saturated_lengths(own, cpu, first, second, control);
}

}  // namespace

}  // namespace aftercheck::soft
