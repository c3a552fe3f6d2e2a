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

Xmm rcpps(Xmm, Xmm source, uint8_t) { return _mm_castps_si128(_mm_rcp_ps(_mm_castsi128_ps(source))); }
Xmm rsqrtps(Xmm, Xmm source, uint8_t) { return _mm_castps_si128(_mm_rsqrt_ps(_mm_castsi128_ps(source))); }
Xmm low(Xmm target, __m128 result) { return _mm_castps_si128(_mm_move_ss(_mm_castsi128_ps(target), result)); }
Xmm rcpss(Xmm target, Xmm source, uint8_t) { return low(target, _mm_rcp_ss(_mm_castsi128_ps(source))); }
Xmm rsqrtss(Xmm target, Xmm source, uint8_t) { return low(target, _mm_rsqrt_ss(_mm_castsi128_ps(source))); }

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

// SDM vol. 2, DPPS and DPPD: products that the immediate's high half selects, added pairwise, put where its
// low half says.
Xmm dpps(Xmm target, Xmm source, uint8_t selector) {
  std::array<float, 4> p{}, result{};
  std::memcpy(p.data(), &target, sizeof p);
  std::array<float, 4> q{};
  std::memcpy(q.data(), &source, sizeof q);
  for (unsigned i = 0; i < 4; ++i) p[i] = (selector >> (4 + i) & 1) != 0 ? p[i] * q[i] : 0.0F;
  const float low_pair = p[0] + p[1], high_pair = p[2] + p[3], sum = low_pair + high_pair;
  for (unsigned i = 0; i < 4; ++i) result[i] = (selector >> i & 1) != 0 ? sum : 0.0F;
  std::memcpy(&target, result.data(), sizeof target);
  return target;
}

Xmm dppd(Xmm target, Xmm source, uint8_t selector) {
  std::array<double, 2> p{}, q{}, result{};
  std::memcpy(p.data(), &target, sizeof p);
  std::memcpy(q.data(), &source, sizeof q);
  for (unsigned i = 0; i < 2; ++i) p[i] = (selector >> (4 + i) & 1) != 0 ? p[i] * q[i] : 0.0;
  const double sum = p[0] + p[1];
  for (unsigned i = 0; i < 2; ++i) result[i] = (selector >> i & 1) != 0 ? sum : 0.0;
  std::memcpy(&target, result.data(), sizeof target);
  return target;
}

// Computes under the guest's rounding and denormal modes, all exceptions masked. The empty statements keep
// the compiler from moving the computation out of there.
template <typename Function>
Xmm under_mxcsr(uint32_t guest, Function compute, Xmm target, Xmm source, uint8_t immediate) {
  constexpr uint32_t kExceptions = 0x3f, kMasks = 0x1f80;  // SDM vol. 1, figure 10-3
  const uint32_t mxcsr = (guest & 0xffff & ~kExceptions) | kMasks;
  uint32_t own = 0;
  asm volatile("stmxcsr %0\n\tldmxcsr %1" : "=m"(own) : "m"(mxcsr));
  asm volatile("" : "+x"(target), "+x"(source));
  target = compute(target, source, immediate);
  asm volatile("" : "+x"(target));
  asm volatile("ldmxcsr %0" ::"m"(own));
  return target;
}

struct SseFunction {
  ZydisMnemonic mnemonic;
  Xmm (*compute)(Xmm target, Xmm source, uint8_t immediate);
};
constexpr SseFunction kSse[] = {
    {ZYDIS_MNEMONIC_RCPPS, rcpps},         {ZYDIS_MNEMONIC_RCPSS, rcpss},
    {ZYDIS_MNEMONIC_RSQRTPS, rsqrtps},     {ZYDIS_MNEMONIC_RSQRTSS, rsqrtss},
    {ZYDIS_MNEMONIC_PCLMULQDQ, pclmulqdq}, {ZYDIS_MNEMONIC_DPPS, dpps},
    {ZYDIS_MNEMONIC_DPPD, dppd},
};

// --- x87: the guest's whole state goes through the host's registers ---

// `memory` is where an instruction that stores puts its result.
#define AFTERCHECK_X87(function, instruction)                                                        \
  void function(std::byte* state, std::byte* memory) {                                               \
    alignas(16) std::array<std::byte, 512> own;                                                      \
    asm volatile("fxsave64 %0\n\tfxrstor64 (%1)\n\t" instruction "\n\tfxsave64 (%1)\n\tfxrstor64 %0" \
                 : "+m"(own)                                                                         \
                 : "r"(state), "r"(memory)                                                           \
                 : "memory");                                                                        \
  }
AFTERCHECK_X87(fsin, "fsin")
AFTERCHECK_X87(fcos, "fcos")
AFTERCHECK_X87(fsincos, "fsincos")
AFTERCHECK_X87(fptan, "fptan")
AFTERCHECK_X87(fpatan, "fpatan")
AFTERCHECK_X87(f2xm1, "f2xm1")
AFTERCHECK_X87(fyl2x, "fyl2x")
AFTERCHECK_X87(fyl2xp1, "fyl2xp1")
AFTERCHECK_X87(fprem, "fprem")
AFTERCHECK_X87(fprem1, "fprem1")
AFTERCHECK_X87(fxtract, "fxtract")
AFTERCHECK_X87(fldl2t, "fldl2t")
AFTERCHECK_X87(fldl2e, "fldl2e")
AFTERCHECK_X87(fldpi, "fldpi")
AFTERCHECK_X87(fldlg2, "fldlg2")
AFTERCHECK_X87(fldln2, "fldln2")
AFTERCHECK_X87(fisttp16, "fisttps (%2)")
AFTERCHECK_X87(fisttp32, "fisttpl (%2)")
AFTERCHECK_X87(fisttp64, "fisttpq (%2)")
AFTERCHECK_X87(fbstp, "fbstp (%2)")
AFTERCHECK_X87(fscale, "fscale")
AFTERCHECK_X87(fnstenv14, "data16 fnstenv (%2)")
AFTERCHECK_X87(fnstenv28, "fnstenv (%2)")
AFTERCHECK_X87(fnsave94, "data16 fnsave (%2)")
AFTERCHECK_X87(fnsave108, "fnsave (%2)")
#undef AFTERCHECK_X87

struct X87Function {
  ZydisMnemonic mnemonic;
  uint16_t memory_bits;  // what it stores; 0: nothing
  void (*execute)(std::byte* state, std::byte* memory);
};
constexpr X87Function kX87[] = {
    {ZYDIS_MNEMONIC_FSIN, 0, fsin},           {ZYDIS_MNEMONIC_FCOS, 0, fcos},
    {ZYDIS_MNEMONIC_FSINCOS, 0, fsincos},     {ZYDIS_MNEMONIC_FPTAN, 0, fptan},
    {ZYDIS_MNEMONIC_FPATAN, 0, fpatan},       {ZYDIS_MNEMONIC_F2XM1, 0, f2xm1},
    {ZYDIS_MNEMONIC_FYL2X, 0, fyl2x},         {ZYDIS_MNEMONIC_FYL2XP1, 0, fyl2xp1},
    {ZYDIS_MNEMONIC_FPREM, 0, fprem},         {ZYDIS_MNEMONIC_FPREM1, 0, fprem1},
    {ZYDIS_MNEMONIC_FXTRACT, 0, fxtract},     {ZYDIS_MNEMONIC_FLDL2T, 0, fldl2t},
    {ZYDIS_MNEMONIC_FLDL2E, 0, fldl2e},       {ZYDIS_MNEMONIC_FLDPI, 0, fldpi},
    {ZYDIS_MNEMONIC_FLDLG2, 0, fldlg2},       {ZYDIS_MNEMONIC_FLDLN2, 0, fldln2},
    {ZYDIS_MNEMONIC_FISTTP, 16, fisttp16},    {ZYDIS_MNEMONIC_FISTTP, 32, fisttp32},
    {ZYDIS_MNEMONIC_FISTTP, 64, fisttp64},    {ZYDIS_MNEMONIC_FBSTP, 80, fbstp},
    {ZYDIS_MNEMONIC_FSCALE, 0, fscale},       {ZYDIS_MNEMONIC_FNSTENV, 112, fnstenv14},
    {ZYDIS_MNEMONIC_FNSTENV, 224, fnstenv28}, {ZYDIS_MNEMONIC_FNSAVE, 752, fnsave94},
    {ZYDIS_MNEMONIC_FNSAVE, 864, fnsave108},
};

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

// Unicorn raises no SIMD exception: a program that waits for one would run on with wrong results.
bool ldmxcsr(std::span<const uint8_t> code, const Registers& registers, FpuState& fpu) {
  constexpr uint32_t kDefined = 0xffff, kMasks = 0x1f80;  // SDM vol. 1, figure 10-3
  uint32_t value = 0;
  std::memcpy(&value, reinterpret_cast<const void*>(memory_accesses(code, registers).value().at(0).address),
              sizeof value);
  if ((value & ~kDefined) != 0) return false;
  if ((value & kMasks) != kMasks)
    fail(ErrorKind::unsupported,
         "the soft vCPU can't execute `{}` at {:#x}, which unmasks SIMD floating-point exceptions (MXCSR "
         "{:#x}); use --machine kvm",
         disassemble(code, registers.rip), registers.rip, value);
  std::memcpy(&fpu.fxsave[kMxcsr], &value, sizeof value);
  return true;
}

void stmxcsr(std::span<const uint8_t> code, const Registers& registers, const FpuState& fpu) {
  std::memcpy(reinterpret_cast<void*>(memory_accesses(code, registers).value().at(0).address),
              &fpu.fxsave[kMxcsr], sizeof(uint32_t));
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

bool sse(const SseFunction& function, const Decoded& decoded, std::span<const uint8_t> code,
         Registers& registers, FpuState& fpu) {
  const size_t size =
      decoded.operands[1].type == ZYDIS_OPERAND_TYPE_MEMORY ? decoded.operands[1].size / 8U : 16;
  if (decoded.operands[1].type == ZYDIS_OPERAND_TYPE_MEMORY && size == 16 &&
      memory_accesses(code, registers).value().at(0).address % 16 != 0)
    return false;
  Xmm source = _mm_setzero_si128(), target;
  read_source(decoded, code, registers, fpu, &source, size);
  std::byte* to =
      &fpu.fxsave[kXmm0 + 16 * static_cast<size_t>(ZydisRegisterGetId(decoded.operands[0].reg.value))];
  std::memcpy(&target, to, sizeof target);
  const auto immediate = static_cast<uint8_t>(decoded.operands[2].imm.value.u);
  uint32_t mxcsr = 0;
  std::memcpy(&mxcsr, &fpu.fxsave[kMxcsr], sizeof mxcsr);
  target = under_mxcsr(mxcsr, function.compute, target, source, immediate);
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

// The soft vCPU keeps no FIP, FOP and FDP. SDM vol. 1, figures 8-9 to 8-12: in the 32-bit format they take
// bytes 12 to 25, in the 16-bit one 6 to 13.
void forget_last_instruction(std::array<std::byte, 108>& image, uint16_t bits) {
  const bool wide = bits == 224 || bits == 864;
  std::fill(image.begin() + (wide ? 12 : 6), image.begin() + (wide ? 26 : 14), std::byte{0});
}

void x87(const X87Function& function, std::span<const uint8_t> code, const Registers& registers,
         FpuState& fpu) {
  uint16_t control = 0;
  std::memcpy(&control, fpu.fxsave.data(), sizeof control);
  constexpr uint16_t kAllMasked = 0x3f;  // SDM vol. 1, figure 8-6
  const bool environment =
      function.mnemonic == ZYDIS_MNEMONIC_FNSTENV || function.mnemonic == ZYDIS_MNEMONIC_FNSAVE;
  if ((control & kAllMasked) != kAllMasked && !environment)  // those two never wait for an exception
    fail(ErrorKind::unsupported,
         "the soft vCPU can't execute `{}` at {:#x} with x87 exceptions unmasked (control word {:#x}); use "
         "--machine kvm",
         disassemble(code, registers.rip), registers.rip, control);
  std::array<std::byte, 108> stored{};
  function.execute(fpu.fxsave.data(), stored.data());
  if (function.memory_bits == 0) return;
  if (environment) forget_last_instruction(stored, function.memory_bits);
  std::memcpy(reinterpret_cast<void*>(memory_accesses(code, registers).value().at(0).address), stored.data(),
              function.memory_bits / 8U);
}

}  // namespace

bool execute_on_host(std::span<const uint8_t> code, Registers& registers, FpuState& fpu) {
  Decoded decoded{};
  if (!x86::decode(code, decoded)) fail(ErrorKind::internal, "no instruction at {:#x}", registers.rip);
  const ZydisMnemonic mnemonic = decoded.instruction.mnemonic;
  if (mnemonic == ZYDIS_MNEMONIC_LDMXCSR && !ldmxcsr(code, registers, fpu)) return false;
  if (mnemonic == ZYDIS_MNEMONIC_STMXCSR) stmxcsr(code, registers, fpu);
  if (mnemonic == ZYDIS_MNEMONIC_POPCNT) popcnt(decoded, code, registers, fpu);
  if (mnemonic == ZYDIS_MNEMONIC_BSF || mnemonic == ZYDIS_MNEMONIC_BSR)
    bit_scan(decoded, code, registers, fpu);
  for (const SseFunction& function : kSse)
    if (function.mnemonic == mnemonic && !sse(function, decoded, code, registers, fpu)) return false;
  for (const StringFunction& function : kStrings)
    if (function.mnemonic == mnemonic) string_compare(function, decoded, code, registers, fpu);
  for (const X87Function& function : kX87)
    if (function.mnemonic == mnemonic &&
        (function.memory_bits == 0 || function.memory_bits == decoded.operands[0].size))
      x87(function, code, registers, fpu);
  registers.rip += decoded.instruction.length;
  return true;
}

}  // namespace aftercheck::soft
