#include "machine/soft/fpu_transfer.h"

#include <array>
#include <cstring>

namespace aftercheck::soft {
namespace {

// FXSAVE layout: SDM vol. 1, table 10-2.
constexpr size_t kControlWord = 0, kStatusWord = 2, kTag = 4, kMxcsr = 24, kMxcsrMask = 28, kSt0 = 32,
                 kXmm0 = 160;
constexpr size_t kRegisterSlot = 16, kX87Size = 10, kX87Count = 8, kXmmCount = 16;
// Bits a write of MXCSR may set: all but MM, which is AMD's (FpuState::initial() says the same).
constexpr uint32_t kMxcsrMaskValue = 0xffff;

// UC_X86_REG_FPn are the physical registers R0..R7; the image has the stack order ST0..ST7.
constexpr unsigned physical(unsigned top, unsigned stack_index) { return (top + stack_index) % kX87Count; }

struct Image {
  uint16_t control = 0, status = 0, tag = 0;
  uint32_t mxcsr = 0;
  std::array<std::array<std::byte, kRegisterSlot>, kX87Count> x87{};
  std::array<std::array<std::byte, kRegisterSlot>, kXmmCount> xmm{};
};

constexpr size_t kCount = 4 + kX87Count + kXmmCount;

std::array<int, kCount> identifiers() {
  std::array<int, kCount> ids = {UC_X86_REG_FPCW, UC_X86_REG_FPSW, UC_X86_REG_FPTAG, UC_X86_REG_MXCSR};
  for (size_t i = 0; i < kX87Count; ++i) ids[4 + i] = UC_X86_REG_FP0 + static_cast<int>(i);
  for (size_t i = 0; i < kXmmCount; ++i) ids[4 + kX87Count + i] = UC_X86_REG_XMM0 + static_cast<int>(i);
  return ids;
}

std::array<void*, kCount> places(Image& image) {
  std::array<void*, kCount> result = {&image.control, &image.status, &image.tag, &image.mxcsr};
  for (size_t i = 0; i < kX87Count; ++i) result[4 + i] = image.x87[i].data();
  for (size_t i = 0; i < kXmmCount; ++i) result[4 + kX87Count + i] = image.xmm[i].data();
  return result;
}

}  // namespace

FpuState read_fpu(uc_engine* engine) {
  static std::array<int, kCount> ids = identifiers();
  Image image;
  std::array<void*, kCount> values = places(image);
  uc_reg_read_batch(engine, ids.data(), values.data(), kCount);

  FpuState state;
  std::memcpy(&state.fxsave[kControlWord], &image.control, sizeof image.control);
  std::memcpy(&state.fxsave[kStatusWord], &image.status, sizeof image.status);
  unsigned abridged = 0;
  for (unsigned i = 0; i < kX87Count; ++i)
    if ((image.tag >> (2 * i) & 3) != 3) abridged |= 1U << i;
  state.fxsave[kTag] = std::byte(abridged);
  std::memcpy(&state.fxsave[kMxcsr], &image.mxcsr, sizeof image.mxcsr);
  std::memcpy(&state.fxsave[kMxcsrMask], &kMxcsrMaskValue, sizeof kMxcsrMaskValue);
  const unsigned top = image.status >> 11 & 7;
  for (unsigned i = 0; i < kX87Count; ++i)
    std::memcpy(&state.fxsave[kSt0 + kRegisterSlot * i], image.x87[physical(top, i)].data(), kX87Size);
  for (unsigned i = 0; i < kXmmCount; ++i)
    std::memcpy(&state.fxsave[kXmm0 + kRegisterSlot * i], image.xmm[i].data(), kRegisterSlot);
  return state;
}

void write_fpu(uc_engine* engine, const FpuState& state) {
  static std::array<int, kCount> ids = identifiers();
  Image image;
  std::memcpy(&image.control, &state.fxsave[kControlWord], sizeof image.control);
  std::memcpy(&image.status, &state.fxsave[kStatusWord], sizeof image.status);
  std::memcpy(&image.mxcsr, &state.fxsave[kMxcsr], sizeof image.mxcsr);
  image.mxcsr &= kMxcsrMaskValue;
  const auto abridged = std::to_integer<unsigned>(state.fxsave[kTag]);
  for (unsigned i = 0; i < kX87Count; ++i)
    if ((abridged >> i & 1) == 0) image.tag = static_cast<uint16_t>(image.tag | 3U << (2 * i));
  const unsigned top = image.status >> 11 & 7;
  for (unsigned i = 0; i < kX87Count; ++i)
    std::memcpy(image.x87[physical(top, i)].data(), &state.fxsave[kSt0 + kRegisterSlot * i], kX87Size);
  for (unsigned i = 0; i < kXmmCount; ++i)
    std::memcpy(image.xmm[i].data(), &state.fxsave[kXmm0 + kRegisterSlot * i], kRegisterSlot);
  std::array<void*, kCount> values = places(image);
  uc_reg_write_batch(engine, ids.data(), values.data(), kCount);
}

}  // namespace aftercheck::soft
