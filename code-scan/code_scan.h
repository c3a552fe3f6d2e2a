// Finds the trapped instructions (machine/trapped_instruction.h) in code that is about to become executable.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "machine/address_space.h"

namespace aftercheck {

struct CodeRange {
  uint64_t address = 0;            // guest address of bytes[0]
  std::span<const uint8_t> bytes;  // readable for the duration of the call
  int fd = -1;                     // the mapped file, if any; its contents are those of the mapping
  uint64_t file_offset = 0;        // of bytes[0]
  CpuModelKind model = CpuModelKind::portable;  // what is trapped for it
};

// Patches by ascending address, none of which overlap: of two instructions that do, the first. Only real
// instructions: the same bytes inside other instructions, in immediates or as data between functions are left
// alone. Instructions are found by decoding with Zydis from known starts (functions of .eh_frame, symbol
// tables, the entry point) along the control flow; a search for the byte patterns first keeps clean pages
// cheap. For anonymous code (fd < 0) a linear sweep from the start of the range is all there is. Untrusted
// input: any bytes and any file give a result, never a crash or an endless loop.
std::vector<CodePatch> find_trapped_instructions(const CodeRange& code);

}  // namespace aftercheck
