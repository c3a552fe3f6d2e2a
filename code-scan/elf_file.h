// Bounded reading of an ELF file that nobody vouches for: whatever its headers claim, reads stay inside the
// file and below a fixed size.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "base/elf_headers.h"

namespace aftercheck {

class ElfFile {
 public:
  // Largest single read. Above the tables of any program met so far (Chromium's unstripped symbol table is 60
  // MiB).
  static constexpr uint64_t kMaxRead = 256ULL << 20;

  // Reads the headers; nullopt when `fd` is not a little-endian ELF file for x86-64. `fd` is not owned and
  // must stay open; its file position is not touched.
  static std::optional<ElfFile> open(int fd);

  const Elf64_Ehdr& header() const { return headers_.header; }
  const std::vector<Elf64_Phdr>& segments() const { return headers_.segments; }
  const std::vector<Elf64_Shdr>& sections() const {
    return sections_;
  }  // empty when there are none or unreadable

  // Name of a section; empty when it can't be read.
  const char* section_name(const Elf64_Shdr& section) const;

  // Up to `size` bytes at a file offset: cut at the end of the file and at kMaxRead.
  std::vector<uint8_t> read(uint64_t offset, uint64_t size) const;
  // The same by virtual address: cut at the end of what its PT_LOAD has in the file too.
  std::vector<uint8_t> read_at(uint64_t vaddr, uint64_t size) const;

  // Whole records of type T at a file offset; fewer than `count` when the file or kMaxRead ends before.
  template <typename T>
  std::vector<T> read_array(uint64_t offset, uint64_t count) const {
    return as_array<T>(read(offset, count > kMaxRead / sizeof(T) ? kMaxRead : count * sizeof(T)));
  }
  template <typename T>
  std::vector<T> read_array_at(uint64_t vaddr, uint64_t count) const {
    return as_array<T>(read_at(vaddr, count > kMaxRead / sizeof(T) ? kMaxRead : count * sizeof(T)));
  }

 private:
  explicit ElfFile(int fd) : fd_(fd) {}

  template <typename T>
  static std::vector<T> as_array(const std::vector<uint8_t>& bytes) {
    std::vector<T> result(bytes.size() / sizeof(T));
    if (!result.empty()) std::memcpy(result.data(), bytes.data(), result.size() * sizeof(T));
    return result;
  }

  int fd_;
  uint64_t size_ = 0;
  ElfHeaders headers_;
  std::vector<Elf64_Shdr> sections_;
  std::vector<uint8_t> section_names_;  // NUL-terminated as a whole
};

}  // namespace aftercheck
