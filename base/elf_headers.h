// The headers of an ELF file that nobody vouches for, as far as all who look at such files need them:
// whatever they claim, no more than a fixed amount is read.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace aftercheck {

// Gives as many bytes at `offset` of the file as there are; returns how many.
// read_file() (fd.h) does that for an open file.
using ReadBytes = std::function<size_t(uint64_t offset, std::span<std::byte> bytes)>;

struct ElfHeaders {
  enum class Kind : uint8_t {
    not_elf,
    cut_off,            // the file ends inside its header
    bits32,             // EI_CLASS
    damaged_class,      // neither 32 nor 64 bits
    another_processor,  // not x86-64, or not little-endian
    x86_64,
  };
  Kind kind = Kind::not_elf;
  size_t header_size = 0;  // bytes of `header` that there are
  Elf64_Ehdr header{};
  // Program headers, for x86_64 with e_phentsize as it must be: e_phnum, or fewer where the file or what is
  // allowed ends before.
  std::vector<Elf64_Phdr> segments;

  // Are all program headers that the file claims there?
  bool complete() const { return kind == Kind::x86_64 && segments.size() == header.e_phnum; }
};

ElfHeaders read_elf_headers(const ReadBytes& read, size_t most_segments);

}  // namespace aftercheck
