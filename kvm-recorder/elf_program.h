// What the kernel's loader reads of an ELF file, checked: nothing that comes out of here can lead the loader
// astray.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace aftercheck {

// A program can't be started; `code` is what execve(2) would return for it (positive).
class ExecError : public Error {
 public:
  ExecError(int error_code, const std::string& message, ErrorKind kind = ErrorKind::bad_input)
      : Error(kind, message), code(error_code) {}
  const int code;
};

template <typename... Args>
[[noreturn]] void refuse_exec(int code, fmt::format_string<Args...> format, Args&&... args) {
  throw ExecError(code, fmt::format(format, std::forward<Args>(args)...));
}

// One PT_LOAD with p_memsz > 0. Addresses are those of the file, without load bias.
struct ElfSegment {
  uint64_t address = 0;      // p_vaddr; congruent to `offset` modulo the page size
  uint64_t memory_size = 0;  // >= file_size; address + memory_size does not overflow
  uint64_t offset = 0;
  uint64_t file_size = 0;  // offset + file_size lies within the file
  int prot = 0;            // PROT_*
};

struct ElfProgram {
  std::string path;
  UniqueFd fd;                        // read-only, close-on-exec
  bool position_independent = false;  // ET_DYN
  uint64_t entry = 0;
  uint64_t headers = 0;  // address of the program headers (AT_PHDR), 0 when no segment holds them
  uint16_t header_count = 0;
  std::vector<ElfSegment> segments;  // never empty; ascending, not overlapping
  uint64_t alignment = 0;            // the largest p_align, at least a page; a power of two
  std::string interpreter;           // PT_INTERP, or empty
  bool executable_stack = false;     // PT_GNU_STACK with PF_X

  uint64_t low() const;   // first page of the first segment
  uint64_t high() const;  // end of the last segment's last page
};

// What a program needs to be loaded: found once, so that what was checked is what runs, whatever happens to
// their names meanwhile (a descriptor that exec closes, fexecve(3); a file that is replaced). Out of the
// guest's reach.
struct ProgramFiles {
  ElfProgram program;
  std::optional<ElfProgram> interpreter;
};
// Opens and checks both. Throws ExecError.
ProgramFiles open_program(const std::string& path);
// For a program that is open already.
ProgramFiles open_program(const std::string& path, UniqueFd fd);

// Opens a file as execve does: a regular, executable, readable file. Throws ExecError naming `path` and the
// reason.
UniqueFd open_executable(const std::string& path);

// Reads and checks the headers of an x86-64 ELF program. Throws ExecError naming the file and the field.
ElfProgram read_elf(const std::string& path, UniqueFd fd);

}  // namespace aftercheck
