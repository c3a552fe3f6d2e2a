// What an instruction is to a guest with one of our own CPU models, whatever executes it: table and rules
// that the machines which look at each instruction share.
#pragma once

#include <Zydis/Zydis.h>

#include <cstdint>
#include <span>

#include "machine/cpu_model.h"

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
// Under the host's model, which nobody here knows, as under the portable one.
Standing standing(const ZydisDecodedInstruction& instruction, std::span<const uint8_t> code,
                  CpuModelKind model = CpuModelKind::portable);
// Of bytes that Zydis does not decode, with its status: an over-long instruction is #GP, not #UD (SDM vol. 2,
// 2.3.11).
Standing standing_of_undecodable(ZyanStatus status);

}  // namespace aftercheck
