#include "scan_whole.h"

#include "base/error.h"
#include "code-scan/code_scan.h"
#include "code-scan/elf_file.h"

namespace aftercheck::test {

void scan_whole(std::span<const uint8_t> bytes, int fd) {
  constexpr uint64_t kAddress = 0x10000;
  const auto scan_range = [&](uint64_t offset, uint64_t size) {
    if (offset >= bytes.size()) return;
    const auto part = bytes.subspan(offset, std::min(size, bytes.size() - offset));
    uint64_t end = kAddress;
    for (const CodePatch& patch : find_trapped_instructions({kAddress, part, fd, offset})) {
      const bool follows = patch.address >= end;
      end = patch.address + patch.instruction.length;
      if (!follows || end > kAddress + part.size())
        fail(ErrorKind::internal, "a patch at {:#x} of {} bytes from offset {}", patch.address, part.size(),
             offset);
    }
  };
  scan_range(0, bytes.size());
  const auto elf = ElfFile::open(fd);
  if (!elf) return;
  int ranges = 0;
  for (const Elf64_Phdr& segment : elf->segments())
    if (segment.p_type == PT_LOAD && (segment.p_flags & PF_X) != 0 && ++ranges <= 4)
      scan_range(segment.p_offset, segment.p_filesz);
}

}  // namespace aftercheck::test
