// Which instructions must not simply be left to Unicorn, because it would do something else than the
// processor that the CPU model describes. Every translated block is decoded once, and execution stops right
// before such an instruction.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "machine/cpu_model.h"
#include "machine/soft/x87.h"

namespace aftercheck::soft {

enum class Treatment : uint8_t {
  run,                 // Unicorn does it right
  trapped,             // the host must answer: an exit
  cpuid,               // answered in place from the CPU model
  invalid_opcode,      // #UD: the CPU model lacks it
  general_protection,  // #GP(0): not for ring 3
  debug,               // ICEBP: #DB
  breakpoint,          // INT 3 in its two-byte form
  host_executed,       // done by host_executed.h
  unsupported,         // this backend can't
};

struct Verdict {
  Treatment treatment = Treatment::run;
  uint8_t length = 1;    // bytes of the instruction
  bool complete = true;  // false: `code` ends inside it
};

// Is an MMX register among the operands, or does it end the use of them (EMMS)? Which is written to; -1:
// none.
struct MmxUse {
  bool any = false;
  int8_t target = -1;
  bool converts = false;  // its function in sse_arithmetic.cc does what is to be done to x87
};

// How Unicorn's translator must be helped with an instruction.
struct Form {
  // The bytes that it is given in place of the instruction's first ones.
  std::array<uint8_t, 15> bytes{};  // 15: the longest instruction (SDM vol. 2, 2.3.11)
  uint8_t replaced = 0;
  bool aligned = false;           // its memory operand must be aligned to 16 bytes
  bool keeps_upper_half = false;  // BSF, BSR with 32-bit operands
  uint8_t loads = 0;  // bytes of its operand in memory, where Unicorn would load 16; 0: it does not
  MmxUse mmx;
  std::optional<X87Instruction> x87;
};

// Judges the instruction at the start of `code`; fills in `form` (a fresh one) unless null.
Verdict judge(std::span<const uint8_t> code, CpuModelKind model, Form* form = nullptr);

// A string instruction with a repeat prefix: may be in mid-flight when RIP is on it.
bool is_repeated_string(std::span<const uint8_t> code);

}  // namespace aftercheck::soft
