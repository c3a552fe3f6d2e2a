// x87 instructions are executed by this host's processor, on the guest's x87 state. Unicorn 2.0.1 keeps no
// exception flags but some, raises no exception and no stack fault, computes the transcendental functions in
// double precision, and forgets where the last instruction was.
//
// How they get here: the translator is shown another instruction in the place of each (translation_guard.h),
// one whose function of the library takes the same address and a number, and that function is interposed. The
// number that it is given is an index into the instructions that the guard has met.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "machine/registers.h"
#include "x86/decode.h"

namespace aftercheck::soft {

struct X87Instruction {
  uint64_t address = 0;
  uint8_t opcode = 0;  // the low three bits of its first byte, D8 to DF
  uint8_t modrm = 0;   // with memory: the operand is [RSI]
  uint8_t size = 0;    // bytes of memory; 0: registers only
  bool stores = false;
  bool narrow = false;      // environment in its 16-bit form (66)
  bool waits = true;        // faults where an unmasked exception is pending
  bool has_address = true;  // is told as the last instruction (SDM vol. 1, 8.1.8)
  bool compares = false;    // FCOMI and its kin: sets EFLAGS
  bool mmx = false;  // none of x87: before an MMX instruction that writes register `modrm` (kNoRegister)
  bool only_checks = false;  // `mmx`: the instruction's own function does the rest (enter_mmx)
  bool operator==(const X87Instruction&) const = default;
};

constexpr uint8_t kNoRegister = 0xff;

// The last x87 instruction, as this host's processor tells of it in an environment; address 0: there was
// none.
struct LastX87 {
  uint64_t address = 0, operand = 0;
  uint16_t opcode = 0;
};

// Is it one (with an opcode of D8 to DF) that is executed as described above? All are but FNSTSW AX, which
// Unicorn does right, and FCMOVcc, whose condition only it knows: execute_fcmov().
std::optional<X87Instruction> x87_instruction(const x86::WithOperands& decoded,
                                              std::span<const uint8_t> code);

// What the translator is shown: opcode and ModRM in place of the instruction's.
struct Shown {
  uint8_t opcode, modrm;
};
Shown shown_for(const X87Instruction& instruction);

// FCMOVcc, which is no hot instruction: opcode and ModRM under these EFLAGS, on `fpu`.
void execute_fcmov(uint8_t opcode, uint8_t modrm, uint64_t rflags, FpuState& fpu);

// An unmasked exception is pending in `fpu` (SDM vol. 1, 8.6).
bool x87_error_pending(const FpuState& fpu);

// What `fpu` says of the last x87 instruction, and to have it say that.
LastX87 last_x87(const FpuState& fpu);
void tell_last_x87(const LastX87& last, FpuState& fpu);

// What an MMX instruction makes of the x87 registers (SDM vol. 1, 9.5): `cpu` is the library's CPU, `place`
// where it keeps an MMX register. Nothing where `place` is another's, a copy of an operand in memory.
void enter_mmx(void* cpu, const void* place);
// Writes the register there.
void write_mmx(void* place, uint64_t value);

// Can it be done with this library? Throws Error(host_lacks) otherwise. Any thread.
void check_x87();

}  // namespace aftercheck::soft
