// Where the functions of an ELF file are, from all that a possibly stripped file still tells.
#pragma once

#include <cstdint>
#include <vector>

#include "code-scan/eh_frame.h"
#include "code-scan/elf_file.h"

namespace aftercheck {

struct ElfFunctions {
  // Extents of functions: ascending and disjoint. From FDEs, and where those say nothing from sized symbols.
  std::vector<FrameRange> ranges;
  // Further addresses where code begins: ascending. Function symbols, the entry point, initialisers and
  // finalisers, ifunc resolvers. Untyped symbols are not among them: they may label data.
  std::vector<uint64_t> entries;
};

// Functions in [start, end) (virtual addresses in the file's own terms).
ElfFunctions elf_functions(const ElfFile& file, uint64_t start, uint64_t end);

}  // namespace aftercheck
