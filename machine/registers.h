// Guest register state as the rest of the project sees it, whatever the backend.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace aftercheck {

// General registers of one vCPU in 64-bit mode.
struct Registers {
  uint64_t rax = 0, rbx = 0, rcx = 0, rdx = 0, rsi = 0, rdi = 0, rsp = 0, rbp = 0;
  uint64_t r8 = 0, r9 = 0, r10 = 0, r11 = 0, r12 = 0, r13 = 0, r14 = 0, r15 = 0;
  uint64_t rip = 0;
  uint64_t rflags = 0x202;  // bit 1 always set, IF set: what ring 3 sees under Linux
  uint64_t fs_base = 0, gs_base = 0;

  friend bool operator==(const Registers&, const Registers&) = default;
};
constexpr size_t kRegisterCount = sizeof(Registers) / sizeof(uint64_t);
static_assert(kRegisterCount == 20, "recording/log.capnp and the digest count on the order and number");

// The same as an array, in the order of the struct: register numbers of the log index it.
using RegisterWords = std::array<uint64_t, kRegisterCount>;
constexpr RegisterWords to_words(const Registers& registers) {
  return std::bit_cast<RegisterWords>(registers);
}
constexpr Registers from_words(const RegisterWords& words) { return std::bit_cast<Registers>(words); }

// The index of one of them: register_number(&Registers::rip) is 16.
constexpr uint8_t register_number(uint64_t Registers::*which) {
  constexpr uint64_t kMark = UINT64_MAX;
  Registers marked;
  marked.*which = kMark;
  const RegisterWords words = to_words(marked);
  uint8_t number = 0;
  while (words[number] != kMark) ++number;
  return number;
}

// The general ones by their number in instruction encoding (SDM vol. 2, table 2-2).
inline constexpr std::array<uint64_t Registers::*, 16> kByEncoding = {
    &Registers::rax, &Registers::rcx, &Registers::rdx, &Registers::rbx, &Registers::rsp, &Registers::rbp,
    &Registers::rsi, &Registers::rdi, &Registers::r8,  &Registers::r9,  &Registers::r10, &Registers::r11,
    &Registers::r12, &Registers::r13, &Registers::r14, &Registers::r15};

// Names in the order of the struct.
inline constexpr std::array<const char*, kRegisterCount> kRegisterNames = {
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp",    "r8",      "r9",
    "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags", "fs_base", "gs_base"};

// "rax 0x1 rbx 0x0 ..." in one line, for people.
std::string describe(const Registers& registers);

// Intel SDM vol. 1, 3.4.3: EFLAGS.
namespace rflags {
constexpr uint64_t kCarry = 1 << 0, kParity = 1 << 2, kAdjust = 1 << 4, kZero = 1 << 6, kSign = 1 << 7;
constexpr uint64_t kTrap = 1 << 8, kInterrupt = 1 << 9, kDirection = 1 << 10, kOverflow = 1 << 11;
constexpr uint64_t kNestedTask = 1 << 14, kResume = 1 << 16, kAlignmentCheck = 1 << 18, kId = 1 << 21;
// Many instructions leave some of these undefined, so they differ between processors (and the soft vCPU) in a
// run that is otherwise the same.
constexpr uint64_t kStatus = kCarry | kParity | kAdjust | kZero | kSign | kOverflow;
// What ring 3 sets for itself in a vCPU, and what is always set there: bit 1 and IF (SDM vol. 2, POPF, IOPL
// 0).
constexpr uint64_t kUser = kStatus | kTrap | kDirection | kAlignmentCheck | kId;
constexpr uint64_t kFixed = 0x202;
}  // namespace rflags

// Bits 63 to 47 are equal (SDM vol. 1, 3.3.7.1; 48-bit linear addresses).
constexpr bool is_canonical(uint64_t address) {
  return static_cast<uint64_t>(static_cast<int64_t>(address << 16) >> 16) == address;
}

// x87, MMX and SSE state in FXSAVE64 layout (SDM vol. 1, 10.5.1), and the upper halves of YMM0-15 as XSAVE
// stores them (13.5.3). The portable CPU model has nothing beyond the former, v3 nothing beyond both; the
// upper halves are zero for every other model.
struct FpuState {
  alignas(16) std::array<std::byte, 512> fxsave{};
  alignas(16) std::array<std::byte, 256> upper{};

  // Bytes of the image that FXSAVE stores; the rest is reserved (SDM vol. 1, table 10-2).
  static constexpr size_t kUsed = 416;

  // What FXSAVE or XSAVE has stored at `image`, but for the mask of MXCSR, in which processors differ.
  static FpuState of_image(const void* image);

  // As recordings have it: the FXSAVE image, and behind it the upper halves unless all of them are zero.
  std::vector<std::byte> bytes() const;
  // That again. nullopt where there are neither 512 nor 768 bytes.
  static std::optional<FpuState> of_bytes(std::span<const std::byte> bytes);

  bool has_upper() const;

  // As after FNINIT and with MXCSR = 0x1F80: what Linux gives a new process.
  static FpuState initial();

  // What a processor makes of the control and status words when it loads them (FXRSTOR): reserved bits, and
  // those that sum up what is pending (SDM vol. 1, figures 8-4 and 8-6).
  void settle_x87();
};

// What must be the same in two runs of the same execution on any processor: the order of Registers, without
// the status flags (see rflags::kStatus).
RegisterWords canonical_state(const Registers& registers);

// Likewise for the FPU: XMM0-15, the x87 registers in use, control words, stack top and tags; then the upper
// halves of YMM0-15 unless all of them are zero. Left out are the sticky exception flags and condition codes,
// which the soft vCPU does not keep, and the last instruction's addresses.
class CanonicalFpu {
 public:
  const std::byte* data() const { return bytes_.data(); }
  size_t size() const { return size_; }
  auto begin() const { return bytes_.begin(); }
  auto end() const { return bytes_.begin() + static_cast<std::ptrdiff_t>(size_); }
  friend bool operator==(const CanonicalFpu&, const CanonicalFpu&) = default;

 private:
  static constexpr size_t kLegacySize = 16 * 16 + 8 * 10 + 8;
  std::array<std::byte, kLegacySize + 256> bytes_{};
  size_t size_ = kLegacySize;
  friend CanonicalFpu canonical_fpu(const FpuState& state);
};
CanonicalFpu canonical_fpu(const FpuState& state);

// The standard form of an XSAVE area (SDM vol. 1, 13.4): offsets and sizes in bytes. Up to the header it is
// FXSAVE's; the upper halves of YMM0-15 are where CPUID leaf 0DH says, on every processor that has them here.
namespace xsave {
constexpr size_t kMxcsr = 24, kMxcsrMask = 28, kSt0 = 32, kXmm0 = 160;
constexpr size_t kLegacySize = 512, kHeader = kLegacySize, kHeaderSize = 64;
constexpr size_t kUpper = 576, kUpperSize = 256, kSize = kUpper + kUpperSize;
constexpr uint64_t kX87 = 1, kSse = 2, kAvx = 4, kAll = kX87 | kSse | kAvx;  // XCR0 of the v3 model
}  // namespace xsave

}  // namespace aftercheck
