// The forms of instruction that a CPU model has, for programs made at random: found by decoding all opcodes,
// with the prefixes and kinds of ModRM that select among them, as Zydis' tables have them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "machine/cpu_model.h"

namespace aftercheck {

using Code = std::vector<uint8_t>;

// What a form needs of whoever makes an instruction of it, besides its operand in memory.
enum class Need : uint8_t {
  nothing,
  string,        // RSI and RDI point at memory; RCX is small where it is repeated
  table,         // RBX points at 256 bytes (XLAT)
  mask_store,    // RDI points at memory (MASKMOVQ, MASKMOVDQU)
  bit_offset,    // the register operand, an offset in bits, is small (BT m, r and its like)
  frame,         // RBP points into the stack (ENTER, LEAVE)
  gather,        // an index of 32 bits in each element of a vector register, and a base (VSIB)
  gather_wide,   // the same of 64 bits
  x87_pointers,  // it stores the addresses of the last x87 instruction, in which machines differ (FNSTENV,
                 // FNSAVE, FXSAVE)
};

// Of the kinds a program has its share of each, whatever their numbers of forms.
enum class FormClass : uint8_t { integer, string, x87, mmx, sse, vex };
constexpr size_t kFormClasses = 6;

// Of a VEX-encoded form, in place of prefixes, escape and REX (SDM vol. 2, 2.3.5).
struct VexFields {
  uint8_t map = 0, prefix = 0;  // mmmmm, pp
  uint8_t choices = 0;  // bits: the values of W + 2 L that it may have, where they do not select among forms
  bool source = false;  // VVVV is an operand; else it has to be 1111
};

struct Form {
  std::string name;  // mnemonic, kinds of operands, opcode
  Code prefixes;     // those that select it, without REX
  Code escape;       // of the opcode map
  std::optional<VexFields> vex;
  uint8_t opcode = 0;
  bool wide = false;  // REX.W
  bool modrm = false;
  bool memory = false;  // its operand is in memory; by ModRM where there is one, else by an offset of 8 bytes
  bool accesses = false;  // and it is accessed there (LEA and NOP don't)
  uint8_t alignment = 0;  // of that, where it has to be aligned: 16 or 32 bytes
  uint8_t regs = 0;       // bits: the values of ModRM.reg that it may have
  uint8_t rms = 0;        // of ModRM.rm, where that is a register
  uint32_t size = 0;      // bytes in memory
  bool repeated = false;
  Need need = Need::nothing;
  FormClass kind = FormClass::integer;
};

struct FormTable {
  CpuModelKind model = CpuModelKind::portable;
  std::vector<Form> by_class[kFormClasses];
  size_t count() const;
};

// Forms whose treatment is the machines' own (traps, control transfer, what the model lacks) are not among
// them, nor those that load control words, MXCSR or flags: programs have them with operands of their choice.
// The model is portable or v3, whose forms are those of the portable one and what it has more.
FormTable all_forms(CpuModelKind model);

}  // namespace aftercheck
