// VEX-encoded instructions of random programs: their prefix, and what gathers need.
#include <iterator>

#include "tests/machine/random_writer.h"

namespace aftercheck {

Code ProgramWriter::vex_prefix(const VexFields& form, unsigned choice, const VexOperands& operands,
                               bool is_long) {
  // SDM vol. 2, figure 2-9
  const unsigned w = choice & kVexWide, length = choice / kVexLong, inverted = ~operands.extensions & 7;
  const unsigned last = (15 - operands.source) << 3 | length << 2 | form.prefix;
  if (!is_long && form.map == 1 && w == 0 && (inverted & 3) == 3)
    return {0xc5, byte((inverted & 4) << 5 | last)};
  return {0xc4, byte(inverted << 5 | form.map), byte(w << 7 | last)};
}

// By VEX-encoded instructions and one of legacy SSE, which keeps the upper half.
void ProgramWriter::set_vector(unsigned vector, const std::array<uint64_t, 4>& words) {
  const unsigned reg = free_register();
  used_ |= 1U << reg;
  const unsigned high = (vector >> 3) << 2, both = high | reg >> 3;
  const uint8_t modrm = byte(0xc0 | (vector & 7) << 3 | (reg & 7));
  const auto load = [&](size_t word) { needs_.push_back(put_set(reg, words[word])); };
  const auto vex = [&](const VexFields& form, unsigned choice, const VexOperands& operands, const Code& end) {
    Code code = vex_prefix(form, choice, operands, random_.in(2));
    append(code, end);
    needs_.push_back(put(code));
  };
  load(2);
  vex({.map = 1, .prefix = 1}, kVexWide, {both, 0}, {0x6e, modrm});  // vmovq
  load(3);
  vex({.map = 3, .prefix = 1}, kVexWide, {both, vector}, {0x22, modrm, 1});  // vpinsrq
  vex({.map = 3, .prefix = 1}, kVexLong, {high | vector >> 3, vector},
      {0x38, byte(0xc0 | (vector & 7) << 3 | (vector & 7)), 1});  // vinserti128
  for (uint8_t word = 0; word < 2; ++word) {
    load(word);
    needs_.push_back(put({0x66, byte(0x48 | both), 0x0f, 0x3a, 0x22, modrm, word}));  // pinsrq
  }
  known_[reg].reset();
}

Operand ProgramWriter::gathered(bool wide, unsigned mask) {
  unsigned index = mask;
  while (index == mask) index = static_cast<unsigned>(random_.below(16));
  const Site& site = any_site();
  const Range range = random_.in(8) ? site.stack() : site.writable();
  const auto near = [&](uint64_t width) { return random_.below(2 * width) - width; };
  const uint64_t centre = range.start + range.size() / 2 + near(0x400);
  Operand memory;
  const uint64_t place = offset(memory.prefixes, centre);
  const auto scale = static_cast<unsigned>(random_.below(4));
  const auto one = [&] {
    constexpr uint64_t kNear = 0x800;
    if (!random_.in(40)) return near(kNear >> scale);
    const uint64_t distance = site.hole().start + random_.below(site.hole().size() - 16) - centre;
    return static_cast<uint64_t>(static_cast<int64_t>(distance) >> scale);
  };
  std::array<uint64_t, 4> words{};
  for (uint64_t& word : words) {
    word = one();
    if (!wide) word = (word & UINT32_MAX) | one() << 32;
  }
  set_vector(index, words);
  // With a segment's base the sums would not all be in low memory.
  const bool narrow = memory.prefixes.empty() && place <= INT32_MAX && random_.in(4);
  if (narrow) memory.prefixes.push_back(0x67);
  const uint64_t distance = displacement();
  const unsigned base = free_register();
  const uint64_t value = place - distance;
  set(base, narrow ? (value & UINT32_MAX) | random_.bits() << 32 : value);
  // In a vector register, unlike a general one, number 4 is an index.
  encode_base(memory, base, index == kRsp ? index + 8 : index, scale, distance);
  memory.index_high = index >= 8;
  return memory;
}

// Undefined by what is around an instruction that v3 has. Instructions that it lacks are not among them:
// KVM's guest executes those that the processor has and XCR0 does not forbid (VAES and VPCLMULQDQ of 256
// bits).
Code ProgramWriter::undefined_vex() {
  static const Code kUndefined[] = {
      {0xc5, 0xf0, 0x28, 0xc1},        // vmovaps with a source in VVVV
      {0x66, 0xc5, 0xf8, 0x28, 0xc1},  // prefixes before VEX
      {0xf2, 0xc5, 0xf8, 0x28, 0xc1},
      {0xf0, 0xc5, 0xf8, 0x28, 0xc1},
      {0x48, 0xc5, 0xf8, 0x28, 0xc1},
      {0xc5, 0xfd, 0x6e, 0xc0},              // vmovd of 256 bits
      {0xc4, 0xe2, 0xfd, 0x18, 0xc0},        // vbroadcastss with W
      {0xc4, 0xe2, 0x6d, 0x92, 0x04, 0x96},  // a gather with one register as index and mask
      {0xc4, 0xe4, 0x78, 0x28, 0xc1},        // map 4
  };
  return kUndefined[random_.below(std::size(kUndefined))];
}

}  // namespace aftercheck
