#include "kvm-recorder/elf_program.h"

#include <fcntl.h>
#include <linux/limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <span>

#include "base/elf_headers.h"
#include "kvm-recorder/proc_files.h"
#include "machine/address_space.h"

namespace aftercheck {
namespace {

// fs/binfmt_elf.c, load_elf_phdrs(): all program headers together.
constexpr size_t kMaxHeaderBytes = 65536;

// Bytes read, short at the end of the file.
size_t read_at(const std::string& path, int fd, std::span<std::byte> bytes, uint64_t offset) {
  int error = 0;
  const size_t size = read_file(fd, offset, bytes, &error);
  if (error != 0) refuse_exec(error, "{}: reading at offset {}: {}", path, offset + size, errno_text(error));
  return size;
}

const char* type_text(unsigned type) {
  return type == ET_REL ? "an object file, not linked" : type == ET_CORE ? "a core dump" : "not a program";
}

ElfHeaders read_headers(const std::string& path, int fd) {
  using Kind = ElfHeaders::Kind;
  const auto read = [&](uint64_t offset, std::span<std::byte> bytes) {
    return read_at(path, fd, bytes, offset);
  };
  ElfHeaders headers = read_elf_headers(read, kMaxHeaderBytes / sizeof(Elf64_Phdr));
  const Elf64_Ehdr& header = headers.header;
  switch (headers.kind) {
    case Kind::not_elf:
      refuse_exec(ENOEXEC, "{}: neither an ELF program nor a script that starts with #!", path);
    case Kind::cut_off:
      refuse_exec(ENOEXEC, "{}: damaged ELF program: the file ends inside its header ({} bytes)", path,
                  headers.header_size);
    case Kind::bits32:
      // The kernel would run it.
      throw ExecError(ENOEXEC,
                      fmt::format("{}: a 32-bit program; only 64-bit x86-64 programs can be recorded", path),
                      ErrorKind::unsupported);
    case Kind::damaged_class:
      refuse_exec(ENOEXEC, "{}: damaged ELF program: EI_CLASS is {}", path, header.e_ident[EI_CLASS]);
    case Kind::another_processor:
      refuse_exec(
          ENOEXEC,
          "{}: a program for another processor (e_machine {}, EI_DATA {}); only x86-64 can be recorded", path,
          header.e_machine, header.e_ident[EI_DATA]);
    case Kind::x86_64:
      break;
  }
  if (header.e_type != ET_EXEC && header.e_type != ET_DYN)
    refuse_exec(ENOEXEC, "{}: e_type is {}: {}", path, header.e_type, type_text(header.e_type));
  if (header.e_phentsize != sizeof(Elf64_Phdr))
    refuse_exec(ENOEXEC, "{}: damaged ELF program: e_phentsize is {}, not {}", path, header.e_phentsize,
                sizeof(Elf64_Phdr));
  if (header.e_phnum == 0) refuse_exec(ENOEXEC, "{}: damaged ELF program: e_phnum is 0", path);
  if (header.e_phnum > kMaxHeaderBytes / sizeof(Elf64_Phdr))
    refuse_exec(ENOEXEC, "{}: damaged ELF program: e_phnum is {}; the kernel allows {}", path, header.e_phnum,
                kMaxHeaderBytes / sizeof(Elf64_Phdr));
  if (!headers.complete())
    refuse_exec(
        ENOEXEC,
        "{}: damaged ELF program: e_phoff is {:#x}: {} program headers end beyond the end of the file", path,
        header.e_phoff, header.e_phnum);
  return headers;
}

[[noreturn]] void bad_field(const std::string& path, size_t index, const char* field, uint64_t value,
                            const char* reason) {
  refuse_exec(ENOEXEC, "{}: damaged ELF program: program header {}: {} is {:#x}: {}", path, index, field,
              value, reason);
}

void add_segment(ElfProgram& file, const Elf64_Phdr& header, size_t index, uint64_t size_of_file) {
  const std::string& path = file.path;
  if (header.p_filesz > header.p_memsz)
    bad_field(path, index, "p_filesz", header.p_filesz, "more than p_memsz");
  if (header.p_offset > size_of_file)
    bad_field(path, index, "p_offset", header.p_offset, "beyond the end of the file");
  if (header.p_filesz > size_of_file - header.p_offset)
    bad_field(path, index, "p_filesz", header.p_filesz, "the segment ends beyond the end of the file");
  // 2^47: the end of user addresses (Documentation/x86/x86_64/mm.rst); below it no sum of ours can overflow.
  constexpr uint64_t kUserEnd = uint64_t{1} << 47;
  if (header.p_vaddr >= kUserEnd) bad_field(path, index, "p_vaddr", header.p_vaddr, "not a user address");
  if (header.p_memsz > kUserEnd - kPageSize - header.p_vaddr)
    bad_field(path, index, "p_memsz", header.p_memsz, "the segment does not fit in the user addresses");
  if (header.p_align > 1) {
    if (!std::has_single_bit(header.p_align))
      bad_field(path, index, "p_align", header.p_align, "not a power of two");
    if (header.p_align > kUserEnd) bad_field(path, index, "p_align", header.p_align, "too large");
    file.alignment = std::max<uint64_t>(file.alignment, header.p_align);
  }
  if (header.p_memsz == 0) return;
  if (header.p_filesz != 0 && (header.p_vaddr - header.p_offset) % kPageSize != 0)
    bad_field(path, index, "p_vaddr", header.p_vaddr, "not congruent to p_offset modulo the page size");
  if (!file.segments.empty()) {
    const ElfSegment& last = file.segments.back();
    if (header.p_vaddr < last.address + last.memory_size)
      bad_field(path, index, "p_vaddr", header.p_vaddr, "overlaps an earlier segment or is out of order");
  }
  const int prot = ((header.p_flags & PF_R) != 0 ? PROT_READ : 0) |
                   ((header.p_flags & PF_W) != 0 ? PROT_WRITE : 0) |
                   ((header.p_flags & PF_X) != 0 ? PROT_EXEC : 0);
  file.segments.push_back({header.p_vaddr, header.p_memsz, header.p_offset, header.p_filesz, prot});
}

void read_interpreter(ElfProgram& file, const Elf64_Phdr& header, size_t index) {
  if (!file.interpreter.empty()) return;  // the kernel takes the first
  if (header.p_filesz < 2 || header.p_filesz > PATH_MAX)
    bad_field(file.path, index, "p_filesz", header.p_filesz,
              "no length for the interpreter's path (PT_INTERP)");
  std::string name(header.p_filesz, '\0');
  if (read_at(file.path, file.fd.get(), std::as_writable_bytes(std::span(name)), header.p_offset) !=
      name.size())
    bad_field(file.path, index, "p_offset", header.p_offset,
              "the interpreter's path lies beyond the end of the file");
  if (name.back() != '\0')
    bad_field(file.path, index, "p_filesz", header.p_filesz,
              "the interpreter's path has no final NUL (PT_INTERP)");
  file.interpreter = name.c_str();
  if (file.interpreter.empty())
    bad_field(file.path, index, "p_offset", header.p_offset, "empty interpreter path");
}

}  // namespace

uint64_t ElfProgram::low() const { return page_down(segments.front().address); }

uint64_t ElfProgram::high() const { return page_up(segments.back().address + segments.back().memory_size); }

namespace {

// deny_write_access(): nobody may have the file open for writing. A read lease is refused for the same reason
// (fcntl(2), F_SETLEASE); only the file's owner may ask for one, and who has CAP_LEASE. Of files of others
// the guest's own descriptors are known.
bool open_for_writing(int fd, const struct stat& status) {
  if (fcntl(fd, F_SETLEASE, F_RDLCK) == 0) {
    fcntl(fd, F_SETLEASE, F_UNLCK);
    return false;
  }
  if (errno == EAGAIN) return true;
  if (status.st_nlink == 0) return false;  // memfd_create(2): its own descriptor does not count
  for (const int other : open_descriptors()) {
    struct stat found {};
    const int flags = fcntl(other, F_GETFL);
    if (flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && (flags & O_PATH) == 0 && fstat(other, &found) == 0 &&
        found.st_dev == status.st_dev && found.st_ino == status.st_ino)
      return true;
  }
  return false;
}

}  // namespace

UniqueFd open_executable(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) refuse_exec(errno, "{}: {}", path, errno_text(errno));
  if (S_ISDIR(status.st_mode)) refuse_exec(EACCES, "{}: is a directory", path);
  if (!S_ISREG(status.st_mode)) refuse_exec(EACCES, "{}: not a regular file", path);
  if (faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) != 0)
    refuse_exec(errno, "{}: not executable: {}", path, errno_text(errno));
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) refuse_exec(errno, "{}: not readable: {}", path, errno_text(errno));
  // Between stat and open the name may have got another file.
  if (fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode))
    refuse_exec(EACCES, "{}: not a regular file", path);
  struct statvfs mount {};
  if (fstatvfs(fd.get(), &mount) == 0 && (mount.f_flag & ST_NOEXEC) != 0)
    refuse_exec(EACCES, "{}: lies on a file system mounted noexec", path);
  if (open_for_writing(fd.get(), status))
    refuse_exec(ETXTBSY, "{}: somebody has it open for writing: {}", path, errno_text(ETXTBSY));
  return fd;
}

ProgramFiles open_program(const std::string& path, UniqueFd fd) {
  ProgramFiles files{read_elf(path, std::move(fd)), std::nullopt};
  files.program.fd = move_out_of_guest_reach(std::move(files.program.fd));
  const std::string& interpreter = files.program.interpreter;
  if (interpreter.empty()) return files;
  try {
    files.interpreter = read_elf(interpreter, open_executable(interpreter));
  } catch (const ExecError& error) {
    // load_elf_interp(): a file that is no ELF of ours is ELIBBAD.
    const int code = error.code == ENOEXEC ? ELIBBAD : error.code;
    refuse_exec(code, "{}: its interpreter (PT_INTERP) can't be used: {}", path, error.what());
  }
  files.interpreter->fd = move_out_of_guest_reach(std::move(files.interpreter->fd));
  return files;
}

ProgramFiles open_program(const std::string& path) { return open_program(path, open_executable(path)); }

ElfProgram read_elf(const std::string& path, UniqueFd fd) {
  ElfProgram file;
  file.path = path;
  file.fd = std::move(fd);
  file.alignment = kPageSize;
  const ElfHeaders headers = read_headers(path, file.fd.get());
  const Elf64_Ehdr& header = headers.header;
  struct stat status {};
  if (fstat(file.fd.get(), &status) != 0) refuse_exec(errno, "{}: {}", path, errno_text(errno));
  const auto size = static_cast<uint64_t>(status.st_size);

  file.position_independent = header.e_type == ET_DYN;
  file.entry = header.e_entry;
  file.header_count = header.e_phnum;
  for (size_t i = 0; i < headers.segments.size(); ++i) {
    const Elf64_Phdr& segment = headers.segments[i];
    if (segment.p_type == PT_LOAD) add_segment(file, segment, i, size);
    if (segment.p_type == PT_INTERP) read_interpreter(file, segment, i);
    // A missing PT_GNU_STACK means "not executable" on x86-64 (arch/x86/include/asm/elf.h).
    if (segment.p_type == PT_GNU_STACK) file.executable_stack = (segment.p_flags & PF_X) != 0;
  }
  if (file.segments.empty())
    refuse_exec(ENOEXEC, "{}: damaged ELF program: no PT_LOAD segment with contents", path);
  for (const ElfSegment& segment : file.segments)
    if (segment.offset <= header.e_phoff && header.e_phoff - segment.offset < segment.file_size)
      file.headers = segment.address + (header.e_phoff - segment.offset);
  return file;
}

}  // namespace aftercheck
