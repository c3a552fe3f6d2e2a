// What the tests of the scanner share.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/fd.h"
#include "code-scan/code_scan.h"
#include "code-scan/elf_file.h"

namespace aftercheck::test {

using Addresses = std::set<uint64_t>;

// An ELF file and its executable segments, as a loader would map them at the addresses of the file itself.
struct Program {
  UniqueFd fd;
  ElfFile file;
  struct Text {
    uint64_t vaddr = 0, offset = 0;
    std::vector<uint8_t> bytes;
  };
  std::vector<Text> texts;
};

// Fails the running test when the file is none that can be scanned.
Program load_program(const std::string& path);

// The addresses found in the whole program; checks that each patch agrees with the bytes at its address.
Addresses scan(const Program& program);

// The list of addresses in a section of a guest.
Addresses marked(const Program& program, const std::string& section);

// Hexadecimal, for messages.
std::string text(const Addresses& addresses);

}  // namespace aftercheck::test
