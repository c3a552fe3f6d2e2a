#include "scan_test_util.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>

namespace aftercheck::test {

Program load_program(const std::string& path) {
  INFO(path);
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  REQUIRE(fd);
  auto file = ElfFile::open(fd.get());
  REQUIRE(file);
  Program program{std::move(fd), std::move(*file), {}};
  for (const Elf64_Phdr& segment : program.file.segments())
    if (segment.p_type == PT_LOAD && (segment.p_flags & PF_X) != 0)
      program.texts.push_back(
          {segment.p_vaddr, segment.p_offset, program.file.read(segment.p_offset, segment.p_filesz)});
  REQUIRE_FALSE(program.texts.empty());
  return program;
}

Addresses scan(const Program& program) {
  Addresses found;
  for (const auto& segment : program.texts) {
    const auto patches =
        find_trapped_instructions({segment.vaddr, segment.bytes, program.fd.get(), segment.offset});
    CHECK(std::is_sorted(patches.begin(), patches.end(),
                         [](const CodePatch& a, const CodePatch& b) { return a.address < b.address; }));
    for (const CodePatch& patch : patches) {
      const auto at = std::span<const uint8_t>(segment.bytes).subspan(patch.address - segment.vaddr);
      CHECK(decode_trapped(at) == patch.instruction);
      CHECK(std::equal(at.begin(), at.begin() + patch.instruction.length, patch.original.begin()));
      CHECK(found.insert(patch.address).second);
    }
  }
  return found;
}

Addresses marked(const Program& program, const std::string& section) {
  for (const Elf64_Shdr& header : program.file.sections()) {
    if (section != program.file.section_name(header)) continue;
    const auto list = program.file.read_array<uint64_t>(header.sh_offset, header.sh_size / 8);
    return {list.begin(), list.end()};
  }
  return {};
}

std::string text(const Addresses& addresses) {
  std::string result;
  for (const uint64_t address : addresses) result += fmt::format("{:#x} ", address);
  return result;
}

}  // namespace aftercheck::test
