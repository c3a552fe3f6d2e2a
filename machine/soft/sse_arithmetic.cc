#include "machine/soft/sse_arithmetic.h"

#include <emmintrin.h>

#include <array>
#include <cstring>
#include <utility>

#include "machine/exit.h"
#include "machine/registers.h"
#include "machine/soft/library_cpu.h"
#include "machine/soft/library_function.h"
#include "machine/soft/x87.h"

namespace aftercheck::soft {
namespace {

using Xmm = __m128i;

// MXCSR (SDM vol. 1, figure 10-3).
constexpr uint32_t kFlags = 0x3f, kMaskShift = 7, kMasks = kFlags << kMaskShift, kFlushToZero = 1 << 15,
                   kDefined = 0xffff;
constexpr uint32_t kInvalid = 1 << 0, kDenormal = 1 << 1, kZeroDivide = 1 << 2, kUnderflow = 1 << 4,
                   kInexact = 1 << 5;
// As the ABI has it for our own code (System V ABI, AMD64, 3.2.1).
constexpr uint32_t kOurs = 0x1f80;
// Instead of a value of MXCSR: the one that is loaded.
constexpr uint32_t kAsItIs = 0;

Xmm load(const void* from) { return _mm_loadu_si128(static_cast<const Xmm*>(from)); }
void store(void* to, Xmm value) { _mm_storeu_si128(static_cast<Xmm*>(to), value); }

size_t mxcsr_place = 0;  // check_sse_arithmetic() has set it before anything is executed

uint32_t& guests_mxcsr(void* cpu) { return LibraryCpu::at<uint32_t>(cpu, mxcsr_place); }

// Some exceptions are unmasked: `raised` arose under masks. SDM vol. 1, 11.5.2 and 11.5.3: one that is found
// before computing keeps those from arising that are found afterwards, and underflow, where unmasked, is
// told of exact results too and of those that would be flushed to zero.
template <typename Execute>
[[gnu::noinline]] void fault_if_unmasked(void* cpu, uintptr_t return_address, uint32_t raised,
                                         Execute& execute) {
  constexpr uint32_t kBefore = kInvalid | kDenormal | kZeroDivide;
  uint32_t& guest = guests_mxcsr(cpu);
  const uint32_t unmasked = ~guest >> kMaskShift & kFlags;
  if ((unmasked & kUnderflow) != 0) {
    const uint32_t control = (guest & ~kFlags & kDefined) | kMasks;
    const uint32_t tiny = execute(control | kFlushToZero) & kUnderflow;
    raised = (execute(control & ~kFlushToZero) & kFlags) | tiny;
  }
  if ((raised & unmasked & kBefore) != 0) raised &= kBefore;
  guest |= raised;
  if ((raised & unmasked) != 0) raise_in_library(cpu, vector::kSimdError, return_address);
}

// Loading MXCSR is slow, so it is left alone where the guest's controls are our own and its flags have PE, as
// soon after a program's first results. PE is the only flag that our own code raises. What the others in the
// processor's MXCSR say beyond the guest's is new: forget_sse_flags() is called wherever the guest's are
// changed.
[[gnu::always_inline]] inline bool may_stay(uint32_t guest) {
  return (guest & ~(kFlags & ~kInexact)) == (kOurs | kInexact);
}

// `execute(mxcsr)` executes the instruction under these controls, with its result kept aside, and returns
// the MXCSR that there is afterwards; the result is to be used when this returns.
template <typename Execute>
[[gnu::always_inline]] inline void under_guests_mxcsr(void* cpu, uintptr_t return_address, Execute execute) {
  uint32_t& guest = guests_mxcsr(cpu);
  if (may_stay(guest)) [[likely]] {
    guest |= execute(kAsItIs) & kFlags;
    return;
  }
  const uint32_t raised = execute((guest & ~kFlags & kDefined) | kMasks) & kFlags;
  if ((guest & kMasks) != kMasks) [[unlikely]]
    fault_if_unmasked(cpu, return_address, raised, execute);
  else
    guest |= raised;
}

// In one statement, so that the compiler moves nothing in or out. `control` and `after` are the caller's.
#define AFTERCHECK_LIST(...) __VA_ARGS__
#define AFTERCHECK_EXECUTE(instruction, outputs, inputs)                                         \
  if (control == kAsItIs)                                                                        \
    asm volatile(instruction "\n\tstmxcsr %[after]" : outputs : [control] "m"(control), inputs); \
  else                                                                                           \
    asm volatile("ldmxcsr %[control]\n\t" instruction "\n\tstmxcsr %[after]\n\tldmxcsr %[ours]"  \
                 : outputs                                                                       \
                 : [control] "m"(control), [ours] "m"(kOurs), inputs)
#define AFTERCHECK_INTERPOSED extern "C" __attribute__((visibility("default")))
#define AFTERCHECK_CALLER reinterpret_cast<uintptr_t>(__builtin_return_address(0))

// Names and signatures of all that follows: qemu/target/i386/ops_sse_header.h of Unicorn 2.0.1; the suffix is
// Unicorn's per target. Operands are places of XMM or MMX registers, or of a copy of an operand in memory.

// INSTRUCTION %[s], %[d]
#define AFTERCHECK_TWO_OPERANDS(name, instruction, width)                                             \
  AFTERCHECK_INTERPOSED void helper_##name##_x86_64(void* cpu, void* to, const void* from) {          \
    const Xmm source = load_##width(cpu, from), old = load(to);                                       \
    Xmm target = old;                                                                                 \
    under_guests_mxcsr(cpu, AFTERCHECK_CALLER, [&](uint32_t control) {                                \
      uint32_t after = 0;                                                                             \
      Xmm s = source, d = old;                                                                        \
      AFTERCHECK_EXECUTE(instruction, AFTERCHECK_LIST([d] "+x"(d), [s] "+x"(s), [after] "=m"(after)), \
                         AFTERCHECK_LIST([none] "m"(kOurs)));                                         \
      target = d;                                                                                     \
      return after;                                                                                   \
    });                                                                                               \
    store_xmm(to, target);                                                                            \
  }

// Of the two forms: with XMM registers, and with an MMX register as the source.
Xmm load_xmm(void*, const void* from) { return load(from); }
void store_xmm(void* to, Xmm value) { store(to, value); }
Xmm load_mmx(void* cpu, const void* from) {
  enter_mmx(cpu, from);
  return load(from);
}

#define AFTERCHECK_BOTH(name, instruction) AFTERCHECK_TWO_OPERANDS(name, instruction " %[s], %[d]", xmm)
#define AFTERCHECK_FOUR(name)           \
  AFTERCHECK_BOTH(name##ps, #name "ps") \
  AFTERCHECK_BOTH(name##pd, #name "pd") \
  AFTERCHECK_BOTH(name##ss, #name "ss") \
  AFTERCHECK_BOTH(name##sd, #name "sd")
AFTERCHECK_FOUR(add)
AFTERCHECK_FOUR(sub)
AFTERCHECK_FOUR(mul)
AFTERCHECK_FOUR(div)
AFTERCHECK_FOUR(min)
AFTERCHECK_FOUR(max)
AFTERCHECK_FOUR(sqrt)
AFTERCHECK_FOUR(cmpeq)
AFTERCHECK_FOUR(cmplt)
AFTERCHECK_FOUR(cmple)
AFTERCHECK_FOUR(cmpunord)
AFTERCHECK_FOUR(cmpneq)
AFTERCHECK_FOUR(cmpnlt)
AFTERCHECK_FOUR(cmpnle)
AFTERCHECK_FOUR(cmpord)
#define AFTERCHECK_SAME(name) AFTERCHECK_BOTH(name, #name)
AFTERCHECK_SAME(rcpps)
AFTERCHECK_SAME(rcpss)
AFTERCHECK_SAME(rsqrtps)
AFTERCHECK_SAME(rsqrtss)
AFTERCHECK_SAME(haddps)
AFTERCHECK_SAME(haddpd)
AFTERCHECK_SAME(hsubps)
AFTERCHECK_SAME(hsubpd)
AFTERCHECK_SAME(addsubps)
AFTERCHECK_SAME(addsubpd)
AFTERCHECK_SAME(cvtps2pd)
AFTERCHECK_SAME(cvtpd2ps)
AFTERCHECK_SAME(cvtss2sd)
AFTERCHECK_SAME(cvtsd2ss)
AFTERCHECK_SAME(cvtdq2ps)
AFTERCHECK_SAME(cvtdq2pd)
AFTERCHECK_SAME(cvtps2dq)
AFTERCHECK_SAME(cvtpd2dq)
AFTERCHECK_SAME(cvttps2dq)
AFTERCHECK_SAME(cvttpd2dq)

// MMX registers are our own code's x87 stack: their instructions are replaced by ones of XMM registers with
// the same results and exceptions.
AFTERCHECK_TWO_OPERANDS(cvtpi2ps, "movq %[s], %[s]\n\tcvtdq2ps %[s], %[s]\n\tmovsd %[s], %[d]", mmx)
AFTERCHECK_TWO_OPERANDS(cvtpi2pd, "cvtdq2pd %[s], %[d]", mmx)

#define AFTERCHECK_TO_MMX(name, instruction)                                                          \
  AFTERCHECK_INTERPOSED void helper_##name##_x86_64(void* cpu, void* to, const void* from) {          \
    enter_mmx(cpu, to);                                                                               \
    const Xmm source = load(from);                                                                    \
    Xmm target = source;                                                                              \
    under_guests_mxcsr(cpu, AFTERCHECK_CALLER, [&](uint32_t control) {                                \
      uint32_t after = 0;                                                                             \
      Xmm s = source, d = source;                                                                     \
      AFTERCHECK_EXECUTE(instruction, AFTERCHECK_LIST([d] "+x"(d), [s] "+x"(s), [after] "=m"(after)), \
                         AFTERCHECK_LIST([none] "m"(kOurs)));                                         \
      target = d;                                                                                     \
      return after;                                                                                   \
    });                                                                                               \
    write_mmx(to, static_cast<uint64_t>(_mm_cvtsi128_si64(target)));                                  \
  }
AFTERCHECK_TO_MMX(cvtps2pi, "movq %[s], %[s]\n\tcvtps2dq %[s], %[d]")
AFTERCHECK_TO_MMX(cvttps2pi, "movq %[s], %[s]\n\tcvttps2dq %[s], %[d]")
AFTERCHECK_TO_MMX(cvtpd2pi, "cvtpd2dq %[s], %[d]")
AFTERCHECK_TO_MMX(cvttpd2pi, "cvttpd2dq %[s], %[d]")

#define AFTERCHECK_FROM_INTEGER(name, instruction, Integer)                                            \
  AFTERCHECK_INTERPOSED void helper_##name##_x86_64(void* cpu, void* to, Integer number) {             \
    const Xmm old = load(to);                                                                          \
    Xmm target = old;                                                                                  \
    under_guests_mxcsr(cpu, AFTERCHECK_CALLER, [&](uint32_t control) {                                 \
      uint32_t after = 0;                                                                              \
      Xmm d = old;                                                                                     \
      AFTERCHECK_EXECUTE(instruction " %[s], %[d]", AFTERCHECK_LIST([d] "+x"(d), [after] "=m"(after)), \
                         AFTERCHECK_LIST([s] "r"(number)));                                            \
      target = d;                                                                                      \
      return after;                                                                                    \
    });                                                                                                \
    store(to, target);                                                                                 \
  }
AFTERCHECK_FROM_INTEGER(cvtsi2ss, "cvtsi2ssl", uint32_t)
AFTERCHECK_FROM_INTEGER(cvtsi2sd, "cvtsi2sdl", uint32_t)
AFTERCHECK_FROM_INTEGER(cvtsq2ss, "cvtsi2ssq", uint64_t)
AFTERCHECK_FROM_INTEGER(cvtsq2sd, "cvtsi2sdq", uint64_t)

#define AFTERCHECK_TO_INTEGER(name, instruction, Integer)                                                    \
  AFTERCHECK_INTERPOSED Integer helper_##name##_x86_64(void* cpu, const void* from) {                        \
    const Xmm source = load(from);                                                                           \
    Integer target = 0;                                                                                      \
    under_guests_mxcsr(cpu, AFTERCHECK_CALLER, [&](uint32_t control) {                                       \
      uint32_t after = 0;                                                                                    \
      AFTERCHECK_EXECUTE(instruction " %[s], %[d]", AFTERCHECK_LIST([d] "=&r"(target), [after] "=m"(after)), \
                         AFTERCHECK_LIST([s] "x"(source)));                                                  \
      return after;                                                                                          \
    });                                                                                                      \
    return target;                                                                                           \
  }
AFTERCHECK_TO_INTEGER(cvtss2si, "cvtss2si", int32_t)
AFTERCHECK_TO_INTEGER(cvtsd2si, "cvtsd2si", int32_t)
AFTERCHECK_TO_INTEGER(cvtss2sq, "cvtss2si", int64_t)
AFTERCHECK_TO_INTEGER(cvtsd2sq, "cvtsd2si", int64_t)
AFTERCHECK_TO_INTEGER(cvttss2si, "cvttss2si", int32_t)
AFTERCHECK_TO_INTEGER(cvttsd2si, "cvttsd2si", int32_t)
AFTERCHECK_TO_INTEGER(cvttss2sq, "cvttss2si", int64_t)
AFTERCHECK_TO_INTEGER(cvttsd2sq, "cvttsd2si", int64_t)

// The flags: SDM vol. 2, COMISS; all others are cleared.
#define AFTERCHECK_COMPARE(name)                                                                        \
  AFTERCHECK_INTERPOSED void helper_##name##_x86_64(void* cpu, const void* first, const void* second) { \
    static const size_t place = LibraryCpu::places().flags;                                             \
    const Xmm d = load(first), s = load(second);                                                        \
    bool carry = false, parity = false, zero = false;                                                   \
    under_guests_mxcsr(cpu, AFTERCHECK_CALLER, [&](uint32_t control) {                                  \
      uint32_t after = 0;                                                                               \
      AFTERCHECK_EXECUTE(                                                                               \
          #name " %[s], %[d]",                                                                          \
          AFTERCHECK_LIST("=@ccc"(carry), "=@ccp"(parity), "=@ccz"(zero), [after] "=m"(after)),         \
          AFTERCHECK_LIST([s] "x"(s), [d] "x"(d)));                                                     \
      return after;                                                                                     \
    });                                                                                                 \
    LibraryCpu::at<uint64_t>(cpu, place) =                                                              \
        (carry ? rflags::kCarry : 0) | (parity ? rflags::kParity : 0) | (zero ? rflags::kZero : 0);     \
  }
AFTERCHECK_COMPARE(comiss)
AFTERCHECK_COMPARE(comisd)
AFTERCHECK_COMPARE(ucomiss)
AFTERCHECK_COMPARE(ucomisd)

// An immediate operand is part of the instruction: one function for each value. They work on `registers`, the
// target and the source.
using WithImmediate = uint32_t (*)(void* registers, uint32_t control);
#define AFTERCHECK_IMMEDIATE(name)                                                                   \
  template <size_t immediate>                                                                        \
  uint32_t name##_with(void* registers, uint32_t control) {                                          \
    auto* both = static_cast<Xmm*>(registers);                                                       \
    Xmm d = both[0];                                                                                 \
    uint32_t after = 0;                                                                              \
    AFTERCHECK_EXECUTE(#name " %[i], %[s], %[d]", AFTERCHECK_LIST([d] "+x"(d), [after] "=m"(after)), \
                       AFTERCHECK_LIST([s] "x"(both[1]), [i] "i"(immediate)));                       \
    both[0] = d;                                                                                     \
    return after;                                                                                    \
  }                                                                                                  \
  template <size_t... immediates>                                                                    \
  constexpr std::array<WithImmediate, sizeof...(immediates)> name##_all(                             \
      std::index_sequence<immediates...>) {                                                          \
    return {name##_with<immediates>...};                                                             \
  }                                                                                                  \
  AFTERCHECK_INTERPOSED void helper_##name##_xmm_x86_64(void* cpu, void* to, const void* from,       \
                                                        uint32_t immediate) {                        \
    static constexpr auto kAll = name##_all(std::make_index_sequence<256>());                        \
    const Xmm old = load(to);                                                                        \
    Xmm both[] = {old, load(from)};                                                                  \
    under_guests_mxcsr(cpu, AFTERCHECK_CALLER, [&](uint32_t control) {                               \
      both[0] = old;                                                                                 \
      return kAll[immediate & 0xff](both, control);                                                  \
    });                                                                                              \
    store(to, both[0]);                                                                              \
  }
AFTERCHECK_IMMEDIATE(roundps)
AFTERCHECK_IMMEDIATE(roundpd)
AFTERCHECK_IMMEDIATE(roundss)
AFTERCHECK_IMMEDIATE(roundsd)
AFTERCHECK_IMMEDIATE(dpps)
AFTERCHECK_IMMEDIATE(dppd)

// Of integers, but in the same way wrong: what they have written of their first operand they read again where
// both are one register.
#define AFTERCHECK_HORIZONTAL(name)                                                                     \
  AFTERCHECK_INTERPOSED void helper_##name##_x86_64(void* cpu, void* to, void* from) {                  \
    static const auto own = library_function<void (*)(void*, void*, void*)>("helper_" #name "_x86_64"); \
    alignas(64) std::array<uint8_t, 64> copy{};                                                         \
    if (to == from) std::memcpy(copy.data(), from, sizeof(Xmm));                                        \
    own(cpu, to, to == from ? copy.data() : from);                                                      \
  }
AFTERCHECK_HORIZONTAL(phaddw_xmm)
AFTERCHECK_HORIZONTAL(phaddd_xmm)
AFTERCHECK_HORIZONTAL(phaddsw_xmm)
AFTERCHECK_HORIZONTAL(phsubw_xmm)
AFTERCHECK_HORIZONTAL(phsubd_xmm)
AFTERCHECK_HORIZONTAL(phsubsw_xmm)
AFTERCHECK_HORIZONTAL(phaddw_mmx)
AFTERCHECK_HORIZONTAL(phaddd_mmx)
AFTERCHECK_HORIZONTAL(phaddsw_mmx)
AFTERCHECK_HORIZONTAL(phsubw_mmx)
AFTERCHECK_HORIZONTAL(phsubd_mmx)
AFTERCHECK_HORIZONTAL(phsubsw_mmx)

// Reserved bits are #GP(0) (SDM vol. 2, LDMXCSR).
AFTERCHECK_INTERPOSED void helper_ldmxcsr_x86_64(void* cpu, uint32_t value) {
  if ((value & ~kDefined) != 0) raise_in_library(cpu, vector::kGeneralProtection, AFTERCHECK_CALLER);
  guests_mxcsr(cpu) = value;
  forget_sse_flags();
}

}  // namespace

void forget_sse_flags() { asm volatile("ldmxcsr %0" ::"m"(kOurs)); }

void check_sse_arithmetic() { mxcsr_place = LibraryCpu::places().mxcsr; }

}  // namespace aftercheck::soft
