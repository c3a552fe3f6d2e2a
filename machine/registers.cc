#include "machine/registers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace aftercheck {

FpuState FpuState::initial() {
  FpuState state;
  // FXSAVE layout (SDM vol. 1, table 10-2): FCW at byte 0, abridged tag word (0: all empty) at 4, MXCSR at
  // 24, MXCSR_MASK at 28.
  const uint16_t fcw = 0x37f;
  const uint32_t mxcsr = 0x1f80, mxcsr_mask = 0xffff;
  std::memcpy(&state.fxsave[0], &fcw, sizeof fcw);
  std::memcpy(&state.fxsave[24], &mxcsr, sizeof mxcsr);
  std::memcpy(&state.fxsave[28], &mxcsr_mask, sizeof mxcsr_mask);
  return state;
}

FpuState FpuState::of_image(const void* image) {
  constexpr uint32_t kMask = 0xffff;  // as initial() has it
  FpuState state;
  std::memcpy(state.fxsave.data(), image, kUsed);
  std::memcpy(&state.fxsave[xsave::kMxcsrMask], &kMask, sizeof kMask);
  return state;
}

bool FpuState::has_upper() const {
  return std::ranges::any_of(upper, [](std::byte byte) { return byte != std::byte{0}; });
}

std::vector<std::byte> FpuState::bytes() const {
  std::vector<std::byte> result(fxsave.begin(), fxsave.end());
  if (has_upper()) result.insert(result.end(), upper.begin(), upper.end());
  return result;
}

std::optional<FpuState> FpuState::of_bytes(std::span<const std::byte> bytes) {
  FpuState state;
  const size_t legacy = state.fxsave.size();
  if (bytes.size() != legacy && bytes.size() != legacy + state.upper.size()) return std::nullopt;
  std::ranges::copy(bytes.first(legacy), state.fxsave.begin());
  std::ranges::copy(bytes.subspan(legacy), state.upper.begin());
  return state;
}

std::string describe(const Registers& registers) {
  const RegisterWords words = to_words(registers);
  std::string text;
  for (size_t i = 0; i < kRegisterCount; ++i)
    text += fmt::format("{}{} {:#x}", i == 0 ? "" : " ", kRegisterNames[i], words[i]);
  return text;
}

void FpuState::settle_x87() {
  constexpr size_t kControlWord = 0, kStatusWord = 2;  // SDM vol. 1, table 10-2
  constexpr unsigned kControlBits = 0x1f3f, kControlOne = 0x40, kFlags = 0x3f, kSummaries = 0x8080;
  uint16_t control = 0, status = 0;
  std::memcpy(&control, &fxsave[kControlWord], sizeof control);
  std::memcpy(&status, &fxsave[kStatusWord], sizeof status);
  control = static_cast<uint16_t>((control & kControlBits) | kControlOne);
  const bool pending = (status & ~control & kFlags) != 0;
  status = static_cast<uint16_t>((status & ~kSummaries) | (pending ? kSummaries : 0));
  std::memcpy(&fxsave[kControlWord], &control, sizeof control);
  std::memcpy(&fxsave[kStatusWord], &status, sizeof status);
}

RegisterWords canonical_state(const Registers& registers) {
  Registers canonical = registers;
  canonical.rflags &= rflags::kDirection | rflags::kAlignmentCheck | rflags::kId;
  return to_words(canonical);
}

CanonicalFpu canonical_fpu(const FpuState& state) {
  // Offsets in the FXSAVE image: SDM vol. 1, table 10-2.
  constexpr size_t kControlWord = 0, kStatusWord = 2, kTag = 4, kMxcsr = 24, kSt0 = 32, kXmm0 = 160;
  CanonicalFpu canonical;
  auto& out = canonical.bytes_;
  std::memcpy(out.data(), &state.fxsave[kXmm0], 16 * 16);
  size_t at = 16 * 16;
  uint16_t status = 0;
  std::memcpy(&status, &state.fxsave[kStatusWord], sizeof status);
  const unsigned top = status >> 11 & 7;
  const auto tags = std::to_integer<unsigned>(state.fxsave[kTag]);
  for (unsigned i = 0; i < 8; ++i, at += 10)
    if ((tags >> ((top + i) & 7) & 1) != 0) std::memcpy(&out[at], &state.fxsave[kSt0 + i * 16], 10);
  std::memcpy(&out[at], &state.fxsave[kControlWord], 2);
  out[at + 2] = std::byte(top);
  out[at + 3] = std::byte(tags);
  uint32_t mxcsr = 0;
  std::memcpy(&mxcsr, &state.fxsave[kMxcsr], sizeof mxcsr);
  mxcsr &= ~uint32_t{0x3f};  // sticky exception flags (SDM vol. 1, figure 10-3)
  std::memcpy(&out[at + 4], &mxcsr, sizeof mxcsr);
  if (!state.has_upper()) return canonical;
  std::ranges::copy(state.upper, out.begin() + CanonicalFpu::kLegacySize);
  canonical.size_ = out.size();
  return canonical;
}

}  // namespace aftercheck
