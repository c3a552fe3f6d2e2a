// Which instructions have to do with x87 state, which is the guest's in the processor only when they are
// executed (Context::x87_kept).
#pragma once

namespace aftercheck::translated {

struct Instruction;

// May the instruction, which can be executed as it is, read, change or wait for x87 or MMX state? True for
// some that don't.
bool touches_x87(const Instruction& instruction);

}  // namespace aftercheck::translated
