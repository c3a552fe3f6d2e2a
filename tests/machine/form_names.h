// What tells forms of instruction apart, for those who look through all opcodes.
#pragma once

#include <Zydis/Zydis.h>

#include <cstdint>
#include <string>

#include "x86/decode.h"

namespace aftercheck {

// The same for all instructions of a form: mnemonic, kinds of operands, prefixes that count, opcode.
enum class Repeats : uint8_t { alike, apart };  // REP and REPNE: forms of one name, or of two
std::string form_name(const x86::WithOperands& decoded, Repeats repeats);

// Of the extensions of Zydis' tables, those that the portable model has.
bool is_portable(ZydisISAExt extension);
// And those that v3 has more. Only its standing (machine/instruction_standing.h) says whether v3 has an
// instruction of them.
bool is_more_in_v3(ZydisISAExt extension);

// Not the first byte of an instruction, or of no opcode map in which it is 0F, 0F 38 or 0F 3A that leads on.
bool is_prefix(unsigned opcode);

}  // namespace aftercheck
