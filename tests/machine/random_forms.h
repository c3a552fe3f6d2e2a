// The forms of instruction that a CPU model has, for programs made at random: found by decoding all opcodes,
// with the prefixes and kinds of ModRM that select among them, as Zydis' tables have them.
#pragma once

#include <cstdint>
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
  x87_pointers,  // it stores the addresses of the last x87 instruction, in which machines differ (FNSTENV,
                 // FNSAVE, FXSAVE)
};

// Of the kinds a program has its share of each, whatever their numbers of forms.
enum class FormClass : uint8_t { integer, string, x87, mmx, sse };
constexpr size_t kFormClasses = 5;

struct Form {
  std::string name;  // mnemonic, kinds of operands, opcode
  Code prefixes;     // those that select it, without REX
  Code escape;       // of the opcode map
  uint8_t opcode = 0;
  bool wide = false;  // REX.W
  bool modrm = false;
  bool memory = false;  // its operand is in memory; by ModRM where there is one, else by an offset of 8 bytes
  bool accesses = false;  // and it is accessed there (LEA and NOP don't)
  bool aligned = false;   // that has to be aligned at 16 bytes
  uint8_t regs = 0;       // bits: the values of ModRM.reg that it may have
  uint8_t rms = 0;        // of ModRM.rm, where that is a register
  uint32_t size = 0;      // bytes in memory
  bool repeated = false;
  Need need = Need::nothing;
  FormClass kind = FormClass::integer;
};

struct FormTable {
  std::vector<Form> by_class[kFormClasses];
  size_t count() const;
};

// Forms whose treatment is the machines' own (traps, control transfer, what the model lacks) are not among
// them, nor those that load control words, MXCSR or flags: programs have them with operands of their choice.
// The model is the portable one for now: others need encodings of their own to be looked through.
FormTable all_forms(CpuModelKind model);

}  // namespace aftercheck
