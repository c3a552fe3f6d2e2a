#include "code-scan/elf_file.h"

#include <sys/stat.h>

#include <algorithm>

#include "base/fd.h"

namespace aftercheck {

std::optional<ElfFile> ElfFile::open(int fd) {
  struct stat status {};
  if (fd < 0 || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  ElfFile file(fd);
  file.size_ = static_cast<uint64_t>(status.st_size);
  file.headers_ = read_elf_headers(
      [fd](uint64_t offset, std::span<std::byte> bytes) { return read_file(fd, offset, bytes); }, UINT16_MAX);
  if (file.headers_.kind != ElfHeaders::Kind::x86_64) return std::nullopt;
  const Elf64_Ehdr& header = file.header();
  if (header.e_shoff != 0 && header.e_shentsize == sizeof(Elf64_Shdr))
    file.sections_ = file.read_array<Elf64_Shdr>(header.e_shoff, header.e_shnum);
  if (header.e_shstrndx < file.sections_.size()) {
    const Elf64_Shdr& names = file.sections_[header.e_shstrndx];
    file.section_names_ = file.read(names.sh_offset, names.sh_size);
    file.section_names_.push_back(0);
  }
  return file;
}

const char* ElfFile::section_name(const Elf64_Shdr& section) const {
  if (section.sh_name >= section_names_.size()) return "";
  return reinterpret_cast<const char*>(section_names_.data()) + section.sh_name;
}

std::vector<uint8_t> ElfFile::read(uint64_t offset, uint64_t size) const {
  if (offset >= size_) return {};
  std::vector<uint8_t> bytes(std::min({size, size_ - offset, kMaxRead}));
  // Truncated meanwhile or unreadable: what was read is what there is.
  bytes.resize(read_file(fd_, offset, std::as_writable_bytes(std::span(bytes))));
  return bytes;
}

std::vector<uint8_t> ElfFile::read_at(uint64_t vaddr, uint64_t size) const {
  for (const Elf64_Phdr& segment : segments()) {
    if (segment.p_type != PT_LOAD || vaddr < segment.p_vaddr) continue;
    const uint64_t skip = vaddr - segment.p_vaddr;
    if (skip >= segment.p_filesz || segment.p_offset + skip < skip) continue;
    return read(segment.p_offset + skip, std::min(size, segment.p_filesz - skip));
  }
  return {};
}

}  // namespace aftercheck
