// What Unicorn's translator is shown in the place of an instruction, and told about it, so that it makes of
// it what a processor does.
#pragma once

#include <span>

#include "machine/soft/instruction_check.h"
#include "x86/decode.h"

namespace aftercheck::soft {

// Fills in `form`, a fresh one, for the instruction at the start of `code`.
void show(std::span<const uint8_t> code, const ZydisDecodedInstruction& instruction, Form& form);

}  // namespace aftercheck::soft
