#include "machine/soft/host_executed.h"

#include <fmt/format.h>
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "machine/soft/fault_analysis.h"
#include "machine/soft/instruction_check.h"
#include "machine/soft/string_compare.h"
#include "x86/decode.h"

namespace aftercheck::soft {
namespace {

// FXSAVE layout (SDM vol. 1, table 10-2).
constexpr size_t kMxcsr = 24, kXmm0 = 160;

using Decoded = x86::WithOperands;

// --- SSE ---

using Xmm = __m128i;

uint64_t carryless(uint64_t a, uint64_t b, uint64_t& high) {
  uint64_t result = 0;
  high = 0;
  for (unsigned i = 0; i < 64; ++i) {
    if ((b >> i & 1) == 0) continue;
    result ^= a << i;
    if (i != 0) high ^= a >> (64 - i);
  }
  return result;
}

Xmm pclmulqdq(Xmm target, Xmm source, uint8_t selector) {
  std::array<uint64_t, 2> a{}, b{};
  std::memcpy(a.data(), &target, sizeof a);
  std::memcpy(b.data(), &source, sizeof b);
  std::array<uint64_t, 2> result{};
  result[0] = carryless(a[selector & 1], b[selector >> 4 & 1], result[1]);
  Xmm out;
  std::memcpy(&out, result.data(), sizeof out);
  return out;
}

// --- operands ---

uint64_t& general_register(Registers& r, ZydisRegister reg) {
  const std::array<uint64_t*, 16> all = {&r.rax, &r.rcx, &r.rdx, &r.rbx, &r.rsp, &r.rbp, &r.rsi, &r.rdi,
                                         &r.r8,  &r.r9,  &r.r10, &r.r11, &r.r12, &r.r13, &r.r14, &r.r15};
  const auto id = ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
  return *all.at(static_cast<size_t>(id));
}

// Copies the source operand's bytes; its memory was checked before.
void read_source(const Decoded& decoded, std::span<const uint8_t> code, Registers& registers,
                 const FpuState& fpu, void* to, size_t size) {
  const ZydisDecodedOperand& source = decoded.operands[1];
  if (source.type == ZYDIS_OPERAND_TYPE_MEMORY) {
    const auto accesses = memory_accesses(code, registers).value_or(std::vector<MemoryAccess>{});
    std::memcpy(to, reinterpret_cast<const void*>(accesses.at(0).address), size);
  } else if (ZydisRegisterGetClass(source.reg.value) == ZYDIS_REGCLASS_XMM) {
    std::memcpy(to, &fpu.fxsave[kXmm0 + 16 * static_cast<size_t>(ZydisRegisterGetId(source.reg.value))],
                size);
  } else {
    std::memcpy(to, &general_register(registers, source.reg.value), size);
  }
}

// SDM vol. 2, POPCNT: ZF tells of a zero source, all other status flags are cleared.
void popcnt(const Decoded& decoded, std::span<const uint8_t> code, Registers& registers,
            const FpuState& fpu) {
  uint64_t source = 0;
  const size_t size = decoded.operands[1].size / 8U;
  read_source(decoded, code, registers, fpu, &source, size);
  uint64_t& target = general_register(registers, decoded.operands[0].reg.value);
  const auto count = static_cast<uint64_t>(std::popcount(source));
  target = size == 2 ? (target & ~uint64_t{0xffff}) | count : count;
  registers.rflags = (registers.rflags & ~rflags::kStatus) | (source == 0 ? rflags::kZero : 0);
}

// The forms with 32-bit operands and addresses. SDM vol. 2, BSF, BSR: a zero source sets ZF; the target then
// stays as it is, all of it.
void bit_scan(const Decoded& decoded, std::span<const uint8_t> code, Registers& registers,
              const FpuState& fpu) {
  uint32_t source = 0;
  read_source(decoded, code, registers, fpu, &source, sizeof source);
  registers.rflags = (registers.rflags & ~rflags::kZero) | (source == 0 ? rflags::kZero : 0);
  if (source == 0) return;
  general_register(registers, decoded.operands[0].reg.value) =
      static_cast<uint64_t>(decoded.instruction.mnemonic == ZYDIS_MNEMONIC_BSF ? std::countr_zero(source)
                                                                               : std::bit_width(source) - 1);
}

// The status flags after `instruction`, which works on `operands`, as the processor has them.
#define AFTERCHECK_FLAGS_OF(flags, instruction, ...)                                                      \
  asm volatile("lea -128(%%rsp), %%rsp\n\t" instruction "\n\tpushfq\n\tpop %[f]\n\tlea 128(%%rsp), %%rsp" \
               : [f] "=&r"(flags), __VA_ARGS__                                                            \
               :                                                                                          \
               : "cc", "memory")

// LOCK NEG, whose memory was checked.
void negate(const Decoded& decoded, std::span<const uint8_t> code, Registers& registers) {
  void* at = reinterpret_cast<void*>(memory_accesses(code, registers).value().at(0).address);
  uint64_t flags = 0;
  switch (decoded.operands[0].size) {
    case 8:
      AFTERCHECK_FLAGS_OF(flags, "lock negb (%[at])", [at] "+r"(at));
      break;
    case 16:
      AFTERCHECK_FLAGS_OF(flags, "lock negw (%[at])", [at] "+r"(at));
      break;
    case 32:
      AFTERCHECK_FLAGS_OF(flags, "lock negl (%[at])", [at] "+r"(at));
      break;
    default:
      AFTERCHECK_FLAGS_OF(flags, "lock negq (%[at])", [at] "+r"(at));
  }
  registers.rflags = (registers.rflags & ~rflags::kStatus) | (flags & rflags::kStatus);
}

// With two registers of 32 bits: the upper half of the one that is not written to stays (as processors have
// it; SDM vol. 2, CMPXCHG, does not say).
void compare_and_exchange(const Decoded& decoded, Registers& registers) {
  uint64_t& target = general_register(registers, decoded.operands[0].reg.value);
  auto present = static_cast<uint32_t>(target), expected = static_cast<uint32_t>(registers.rax);
  auto wanted = static_cast<uint32_t>(general_register(registers, decoded.operands[1].reg.value));
  uint64_t flags = 0;
  AFTERCHECK_FLAGS_OF(flags, "cmpxchgl %[s], %[d]", [d] "+r"(present), "+a"(expected), [s] "+r"(wanted));
  if ((flags & rflags::kZero) != 0)
    target = present;
  else
    registers.rax = expected;
  registers.rflags = (registers.rflags & ~rflags::kStatus) | (flags & rflags::kStatus);
}

// SDM vol. 2, CMPXCHG8B, CMPXCHG16B, whose memory was checked: of the flags only ZF changes, and where it is
// set no register. False: misaligned.
bool compare_and_exchange_pair(const Decoded& decoded, std::span<const uint8_t> code, Registers& registers) {
  constexpr uint64_t kPair = 16;
  void* const at = reinterpret_cast<void*>(memory_accesses(code, registers).value().at(0).address);
  uint64_t flags = 0, low = registers.rax, high = registers.rdx;
  if (decoded.instruction.mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B) {
    asm volatile("lock cmpxchg8b (%[at])\n\tsetz %b[f]"
                 : [f] "+r"(flags), "+a"(low), "+d"(high)
                 : [at] "r"(at), "b"(registers.rbx), "c"(registers.rcx)
                 : "cc", "memory");
  } else {
    if (reinterpret_cast<uint64_t>(at) % kPair != 0) return false;
    asm volatile("lock cmpxchg16b (%[at])\n\tsetz %b[f]"
                 : [f] "+r"(flags), "+a"(low), "+d"(high)
                 : [at] "r"(at), "b"(registers.rbx), "c"(registers.rcx)
                 : "cc", "memory");
  }
  if (flags == 0) {
    registers.rax = low;
    registers.rdx = high;
  }
  registers.rflags = (registers.rflags & ~rflags::kZero) | (flags != 0 ? rflags::kZero : 0);
  return true;
}

// SDM vol. 2, ENTER; all that it touches was checked.
void enter(const Decoded& decoded, Registers& registers) {
  constexpr uint64_t kLevels = 32, kPointer = 8;
  const uint64_t level = decoded.operands[1].imm.value.u % kLevels;
  const auto push = [&registers](uint64_t value) {
    registers.rsp -= kPointer;
    std::memcpy(reinterpret_cast<void*>(registers.rsp), &value, sizeof value);
  };
  const uint64_t frame = registers.rsp - kPointer;
  push(registers.rbp);
  for (uint64_t i = 1; i < level; ++i) {
    uint64_t pointer = 0;
    std::memcpy(&pointer, reinterpret_cast<const void*>(registers.rbp - kPointer * i), sizeof pointer);
    push(pointer);
  }
  if (level > 0) push(frame);
  registers.rbp = frame;
  registers.rsp -= decoded.operands[0].imm.value.u;
}

// SDM vol. 2, FXRSTOR: aligned to 16 bytes, no reserved bit of MXCSR; the image behind XMM15 is not read.
bool fxrstor(std::span<const uint8_t> code, const Registers& registers, FpuState& fpu) {
  constexpr uint32_t kDefined = 0xffff;  // SDM vol. 1, figure 10-3
  constexpr size_t kMask = 28, kStored = 416;
  const uint64_t address = memory_accesses(code, registers).value().at(0).address;
  if (address % 16 != 0) return false;
  FpuState state = fpu;
  std::memcpy(state.fxsave.data(), reinterpret_cast<const void*>(address), kStored);
  uint32_t mxcsr = 0;
  std::memcpy(&mxcsr, &state.fxsave[kMxcsr], sizeof mxcsr);
  if ((mxcsr & ~kDefined) != 0) return false;
  std::memcpy(&state.fxsave[kMask], &fpu.fxsave[kMask], sizeof(uint32_t));
  state.settle_x87();
  fpu = state;
  return true;
}

bool carryless_multiply(const Decoded& decoded, std::span<const uint8_t> code, Registers& registers,
                        FpuState& fpu) {
  if (decoded.operands[1].type == ZYDIS_OPERAND_TYPE_MEMORY &&
      memory_accesses(code, registers).value().at(0).address % 16 != 0)
    return false;
  Xmm source = _mm_setzero_si128(), target;
  read_source(decoded, code, registers, fpu, &source, sizeof source);
  std::byte* to =
      &fpu.fxsave[kXmm0 + 16 * static_cast<size_t>(ZydisRegisterGetId(decoded.operands[0].reg.value))];
  std::memcpy(&target, to, sizeof target);
  target = pclmulqdq(target, source, static_cast<uint8_t>(decoded.operands[2].imm.value.u));
  std::memcpy(to, &target, sizeof target);
  return true;
}

struct StringFunction {
  ZydisMnemonic mnemonic;
  bool explicit_lengths, gives_index;
};
constexpr StringFunction kStrings[] = {
    {ZYDIS_MNEMONIC_PCMPESTRI, true, true},
    {ZYDIS_MNEMONIC_PCMPESTRM, true, false},
    {ZYDIS_MNEMONIC_PCMPISTRI, false, true},
    {ZYDIS_MNEMONIC_PCMPISTRM, false, false},
};

void string_compare(const StringFunction& function, const Decoded& decoded, std::span<const uint8_t> code,
                    Registers& registers, FpuState& fpu) {
  Vector needle{}, hay{};
  std::memcpy(
      needle.data(),
      &fpu.fxsave[kXmm0 + 16 * static_cast<size_t>(ZydisRegisterGetId(decoded.operands[0].reg.value))],
      needle.size());
  read_source(decoded, code, registers, fpu, hay.data(), hay.size());
  std::optional<int64_t> needle_length, hay_length;
  if (function.explicit_lengths) {
    const bool wide =
        (decoded.instruction.attributes & ZYDIS_ATTRIB_HAS_REX) != 0 && decoded.instruction.raw.rex.W != 0;
    needle_length = wide ? static_cast<int64_t>(registers.rax) : static_cast<int32_t>(registers.rax);
    hay_length = wide ? static_cast<int64_t>(registers.rdx) : static_cast<int32_t>(registers.rdx);
  }
  const auto control = static_cast<uint8_t>(decoded.operands[2].imm.value.u);
  const StringComparison result = find_ordered(needle, hay, control, needle_length, hay_length);
  if (function.gives_index)
    registers.rcx = result.index;
  else
    std::memcpy(&fpu.fxsave[kXmm0], result.mask.data(), result.mask.size());
  registers.rflags = (registers.rflags & ~rflags::kStatus) | result.flags;
}

}  // namespace

std::optional<uint8_t> execute_on_host(std::span<const uint8_t> code, Registers& registers, FpuState& fpu) {
  Decoded decoded{};
  if (!x86::decode(code, decoded)) fail(ErrorKind::internal, "no instruction at {:#x}", registers.rip);
  const ZydisMnemonic mnemonic = decoded.instruction.mnemonic;
  if ((mnemonic == ZYDIS_MNEMONIC_FXRSTOR || mnemonic == ZYDIS_MNEMONIC_FXRSTOR64) &&
      !fxrstor(code, registers, fpu))
    return vector::kGeneralProtection;
  if ((mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B || mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B) &&
      !compare_and_exchange_pair(decoded, code, registers))
    return vector::kGeneralProtection;
  if (mnemonic == ZYDIS_MNEMONIC_ENTER) enter(decoded, registers);
  if (mnemonic == ZYDIS_MNEMONIC_NEG) negate(decoded, code, registers);
  if (mnemonic == ZYDIS_MNEMONIC_CMPXCHG) compare_and_exchange(decoded, registers);
  if (mnemonic == ZYDIS_MNEMONIC_POPCNT) popcnt(decoded, code, registers, fpu);
  if (mnemonic == ZYDIS_MNEMONIC_BSF || mnemonic == ZYDIS_MNEMONIC_BSR)
    bit_scan(decoded, code, registers, fpu);
  if (mnemonic == ZYDIS_MNEMONIC_PCLMULQDQ && !carryless_multiply(decoded, code, registers, fpu))
    return vector::kGeneralProtection;
  for (const StringFunction& function : kStrings)
    if (function.mnemonic == mnemonic) string_compare(function, decoded, code, registers, fpu);
  if (decoded.instruction.meta.category == ZYDIS_CATEGORY_FCMOV) {
    if (x87_error_pending(fpu)) return vector::kX87Error;
    execute_fcmov(static_cast<uint8_t>(decoded.instruction.opcode & 7),
                  code[decoded.instruction.raw.modrm.offset], registers.rflags, fpu);
  }
  registers.rip += decoded.instruction.length;
  return std::nullopt;
}

}  // namespace aftercheck::soft
