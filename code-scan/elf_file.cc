#include "code-scan/elf_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace aftercheck {

std::optional<ElfFile> ElfFile::open(int fd) {
  struct stat status {};
  if (fd < 0 || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  ElfFile file(fd);
  file.size_ = static_cast<uint64_t>(status.st_size);
  const auto headers = file.read_array<Elf64_Ehdr>(0, 1);
  if (headers.empty()) return std::nullopt;
  const Elf64_Ehdr& header = headers[0];
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_ident[EI_DATA] != ELFDATA2LSB || header.e_machine != EM_X86_64)
    return std::nullopt;
  file.header_ = header;
  if (header.e_phentsize == sizeof(Elf64_Phdr))
    file.segments_ = file.read_array<Elf64_Phdr>(header.e_phoff, header.e_phnum);
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
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = pread(fd_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;  // truncated meanwhile or unreadable: what was read so far is what there is
    done += static_cast<size_t>(n);
  }
  bytes.resize(done);
  return bytes;
}

std::vector<uint8_t> ElfFile::read_at(uint64_t vaddr, uint64_t size) const {
  for (const Elf64_Phdr& segment : segments_) {
    if (segment.p_type != PT_LOAD || vaddr < segment.p_vaddr) continue;
    const uint64_t skip = vaddr - segment.p_vaddr;
    if (skip >= segment.p_filesz || segment.p_offset + skip < skip) continue;
    return read(segment.p_offset + skip, std::min(size, segment.p_filesz - skip));
  }
  return {};
}

}  // namespace aftercheck
