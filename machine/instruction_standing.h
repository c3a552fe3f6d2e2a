// What an instruction is to a guest with the portable CPU model, whatever executes it: table and rules that
// the machines which look at each instruction share.
#pragma once

#include <Zydis/Zydis.h>

#include <cstdint>
#include <span>

namespace aftercheck {

enum class Standing : uint8_t {
  plain,               // executes
  trapped,             // the host must answer: an exit
  cpuid,               // answered from the CPU model
  invalid_opcode,      // #UD: the model lacks it
  general_protection,  // #GP(0): not for ring 3
  debug,               // ICEBP: #DB
  breakpoint,          // INT 3 in its two-byte form
  kernel_tables,       // reads or loads what a kernel has set up (segments, descriptor tables)
};

// `code` starts with the bytes of `instruction`, in 64-bit mode.
Standing standing(const ZydisDecodedInstruction& instruction, std::span<const uint8_t> code);
// Of bytes that Zydis does not decode, with its status: an over-long instruction is #GP, not #UD (SDM vol. 2,
// 2.3.11).
Standing standing_of_undecodable(ZyanStatus status);

}  // namespace aftercheck
