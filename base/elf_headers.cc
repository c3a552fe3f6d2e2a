#include "base/elf_headers.h"

#include <algorithm>
#include <cstring>

namespace aftercheck {
namespace {

ElfHeaders::Kind kind_of(const Elf64_Ehdr& header, size_t size) {
  using Kind = ElfHeaders::Kind;
  if (size < SELFMAG || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return Kind::not_elf;
  if (size < sizeof header) return Kind::cut_off;
  if (header.e_ident[EI_CLASS] == ELFCLASS32) return Kind::bits32;
  if (header.e_ident[EI_CLASS] != ELFCLASS64) return Kind::damaged_class;
  if (header.e_ident[EI_DATA] != ELFDATA2LSB || header.e_machine != EM_X86_64) return Kind::another_processor;
  return Kind::x86_64;
}

}  // namespace

ElfHeaders read_elf_headers(const ReadBytes& read, size_t most_segments) {
  ElfHeaders found;
  found.header_size = read(0, std::as_writable_bytes(std::span(&found.header, 1)));
  found.kind = kind_of(found.header, found.header_size);
  if (found.kind != ElfHeaders::Kind::x86_64 || found.header.e_phentsize != sizeof(Elf64_Phdr)) return found;
  found.segments.resize(std::min<size_t>(found.header.e_phnum, most_segments));
  const size_t size = read(found.header.e_phoff, std::as_writable_bytes(std::span(found.segments)));
  found.segments.resize(size / sizeof(Elf64_Phdr));
  return found;
}

}  // namespace aftercheck
