#include "base/elf_headers.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>

#include "base/fd.h"

namespace aftercheck {
namespace {

using Kind = ElfHeaders::Kind;

// A header and two program headers, as a file has them.
struct File {
  Elf64_Ehdr header{};
  std::array<Elf64_Phdr, 2> segments{};
  std::vector<std::byte> bytes;

  File() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_machine = EM_X86_64;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 2;
    header.e_phoff = sizeof header;
    segments[1].p_vaddr = 0x1234;
  }

  ElfHeaders read(size_t size = SIZE_MAX, size_t most = 10) {
    bytes.resize(sizeof header + sizeof segments);
    std::memcpy(bytes.data(), &header, sizeof header);
    std::memcpy(&bytes[sizeof header], segments.data(), sizeof segments);
    bytes.resize(std::min(size, bytes.size()));
    const auto give = [this](uint64_t offset, std::span<std::byte> to) -> size_t {
      if (offset >= bytes.size()) return 0;
      const size_t n = std::min(to.size(), bytes.size() - offset);
      std::memcpy(to.data(), &bytes[offset], n);
      return n;
    };
    return read_elf_headers(give, most);
  }
};

}  // namespace

TEST_CASE("ELF headers are read whole, or as far as they go") {
  File file;
  const ElfHeaders whole = file.read();
  REQUIRE(whole.complete());
  CHECK(whole.segments[1].p_vaddr == 0x1234);
  CHECK_FALSE(file.read(SIZE_MAX, 1).complete());
  CHECK(file.read(SIZE_MAX, 1).segments.size() == 1);
  CHECK(file.read(sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr) - 1).segments.size() == 1);
  file.header.e_phoff = UINT64_MAX - 3;
  CHECK_FALSE(file.read().complete());
  CHECK(file.read().kind == Kind::x86_64);
  file.header.e_phentsize = 55;
  CHECK(file.read().segments.empty());
}

TEST_CASE("what is no x86-64 ELF file is told apart") {
  CHECK(File().read(0).kind == Kind::not_elf);
  CHECK(File().read(3).kind == Kind::not_elf);
  CHECK(File().read(4).kind == Kind::cut_off);
  CHECK(File().read(sizeof(Elf64_Ehdr) - 1).kind == Kind::cut_off);
  CHECK(File().read(sizeof(Elf64_Ehdr) - 1).header_size == sizeof(Elf64_Ehdr) - 1);
  const auto changed = [](size_t at, unsigned char value) {
    File file;
    file.header.e_ident[at] = value;
    return file.read().kind;
  };
  CHECK(changed(0, 'x') == Kind::not_elf);
  CHECK(changed(EI_CLASS, ELFCLASS32) == Kind::bits32);
  CHECK(changed(EI_CLASS, 7) == Kind::damaged_class);
  CHECK(changed(EI_DATA, ELFDATA2MSB) == Kind::another_processor);
  File arm;
  arm.header.e_machine = EM_AARCH64;
  CHECK(arm.read().kind == Kind::another_processor);
}

TEST_CASE("a file is read up to its end, and errors are told") {
  const UniqueFd self(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  REQUIRE(self);
  const ElfHeaders headers = read_elf_headers(
      [&](uint64_t offset, std::span<std::byte> bytes) { return read_file(self.get(), offset, bytes); }, 100);
  CHECK(headers.complete());
  CHECK(headers.segments.size() > 3);
  std::array<std::byte, 8> bytes{};
  int error = 77;
  CHECK(read_file(self.get(), uint64_t{1} << 40, bytes, &error) == 0);
  CHECK(error == 0);
  CHECK(read_file(self.get(), UINT64_MAX, bytes, &error) == 0);
  CHECK(error == 0);
  CHECK(read_file(-1, 0, bytes, &error) == 0);
  CHECK(error == EBADF);
}

}  // namespace aftercheck
