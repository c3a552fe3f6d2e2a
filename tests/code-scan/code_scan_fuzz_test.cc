// Damaged and hostile ELF files: any result will do, as long as there is one soon.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>

#include "scan_test_util.h"
#include "scan_whole.h"

using namespace aftercheck;
using namespace aftercheck::test;

namespace {

using Bytes = std::vector<uint8_t>;
using Clock = std::chrono::steady_clock;

Bytes whole_file(const std::string& path) {
  const Program program = load_program(path);
  return program.file.read(0, ElfFile::kMaxRead);
}

// A file of memory with these contents.
class MemoryFile {
 public:
  MemoryFile() : fd_(memfd_create("scan-fuzz", MFD_CLOEXEC)) { REQUIRE(fd_); }
  void set(const Bytes& bytes) {
    REQUIRE(ftruncate(fd_.get(), static_cast<off_t>(bytes.size())) == 0);
    REQUIRE(pwrite(fd_.get(), bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  }
  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
};

// Values that break careless arithmetic.
uint64_t nasty(std::mt19937& rng) {
  static constexpr uint64_t kValues[] = {0,
                                         1,
                                         3,
                                         7,
                                         0x7f,
                                         0x80,
                                         0xff,
                                         0xfff,
                                         0x7fffffff,
                                         0x80000000,
                                         0xffffffff,
                                         0xfffffffffffff000,
                                         0x7fffffffffffffff,
                                         0x8000000000000000,
                                         ~0ULL};
  return kValues[rng() % std::size(kValues)] + (rng() % 4 == 0 ? rng() % 64 : 0);
}

// Places where structure lives: headers, the tables they point to, unwind tables and the dynamic section.
std::vector<std::pair<uint64_t, uint64_t>> structures(const Bytes& bytes, const MemoryFile& file) {
  const auto elf = ElfFile::open(file.fd());
  REQUIRE(elf);
  std::vector<std::pair<uint64_t, uint64_t>> result = {
      {0, sizeof(Elf64_Ehdr)},
      {elf->header().e_phoff, elf->segments().size() * sizeof(Elf64_Phdr)},
      {elf->header().e_shoff, elf->sections().size() * sizeof(Elf64_Shdr)}};
  for (const Elf64_Shdr& section : elf->sections())
    for (const char* name :
         {".eh_frame", ".eh_frame_hdr", ".dynamic", ".dynsym", ".symtab", ".rela.dyn", ".text"})
      if (std::strcmp(elf->section_name(section), name) == 0 && section.sh_size > 8)
        result.emplace_back(section.sh_offset, section.sh_size);
  std::erase_if(result, [&](const auto& r) { return r.second < 8 || r.first + r.second > bytes.size(); });
  return result;
}

void mutate(Bytes& bytes, const std::vector<std::pair<uint64_t, uint64_t>>& where, std::mt19937& rng) {
  for (size_t count = 1 + rng() % 6; count > 0; --count) {
    const auto [offset, size] = where[rng() % where.size()];
    const uint64_t at = offset + (rng() % (size - 7) & (rng() % 2 != 0 ? ~7ULL : ~0ULL));
    const size_t width = size_t{1} << rng() % 4;
    const uint64_t value = rng() % 3 == 0 ? rng() : nasty(rng);
    std::memcpy(bytes.data() + at, &value, width);
  }
  if (rng() % 16 == 0) bytes.resize(rng() % bytes.size());
}

}  // namespace

TEST_CASE("Mutated ELF files are scanned without harm") {
  std::mt19937 rng(7);
  double worst = 0;
  int scanned = 0;
  for (const char* name : {"scan_guest_with_cfi", "scan_guest_with_cfi_no_table", "scan_guest_bare",
                           "scan_guest_landing_pad_O2", "scan_guest_switch_O0", "scan_guest_static"}) {
    const Bytes original = whole_file(std::string(SCAN_GUESTS "/") + name);
    MemoryFile file;
    file.set(original);
    const auto where = structures(original, file);
    REQUIRE(where.size() >= 3);
    const int rounds = original.size() > 100'000 ? 150 : 4000;
    for (int round = 0; round < rounds; ++round) {
      Bytes bytes = original;
      mutate(bytes, where, rng);
      file.set(bytes);
      INFO(name << ", round " << round);
      const auto start = Clock::now();
      scan_whole(bytes, file.fd());
      worst = std::max(worst, std::chrono::duration<double>(Clock::now() - start).count());
      ++scanned;
    }
  }
  std::printf("%d mutated files, slowest %.1f ms\n", scanned, worst * 1e3);
  CHECK(worst < 5);  // seconds: a loop that doesn't end for practical purposes, on any machine
}

TEST_CASE("Truncated files give a result at every length") {
  const Bytes original = whole_file(SCAN_GUESTS "/scan_guest_with_cfi");
  MemoryFile file;
  for (size_t size = 0; size < original.size(); size += size < 600 ? 1 : 97) {
    const Bytes bytes(original.begin(), original.begin() + static_cast<ptrdiff_t>(size));
    file.set(bytes);
    scan_whole(bytes, file.fd());
  }
  SUCCEED();
}

// Text of one megabyte in a file with nothing but headers, filled by `fill`.
Bytes hostile_text(const Bytes& pattern) {
  constexpr uint64_t kText = 1 << 20;
  Bytes bytes(4096 + kText);
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_machine = EM_X86_64;
  header.e_phoff = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 1;
  header.e_entry = 0x1000;
  Elf64_Phdr segment{};
  segment.p_type = PT_LOAD;
  segment.p_flags = PF_R | PF_X;
  segment.p_offset = segment.p_vaddr = 0x1000;
  segment.p_filesz = segment.p_memsz = kText;
  std::memcpy(bytes.data(), &header, sizeof header);
  std::memcpy(bytes.data() + sizeof header, &segment, sizeof segment);
  for (size_t i = 0; i < kText; ++i) bytes[4096 + i] = pattern[i % pattern.size()];
  return bytes;
}

TEST_CASE("Of two trapped instructions that overlap the first is taken") {
  // 0: jz 5; 2: fxsave [rdi+rcx], whose last byte begins RDTSC at 5; 6: xor eax, eax; 8: ret
  const Bytes bytes = hostile_text({0x74, 0x03, 0x0f, 0xae, 0x04, 0x0f, 0x31, 0xc0, 0xc3, 0xc3});
  MemoryFile file;
  file.set(bytes);
  const auto patches =
      find_trapped_instructions({0x1000, std::span(bytes).subspan(4096, 4096), file.fd(), 4096});
  REQUIRE_FALSE(patches.empty());
  CHECK(patches[0].address == 0x1002);
  CHECK(patches[0].instruction.length == 4);
  scan_whole(bytes, file.fd());
}

TEST_CASE("Hostile text takes linear time") {
  MemoryFile file;
  const Bytes patterns[] = {{0x0f, 0x31},                                // all candidates
                            {0xe8, 0, 0, 0, 0, 0x0f, 0xa2},              // all calls
                            {0x0f, 0x84, 0x01, 0, 0, 0, 0x0f},           // branches into the middle
                            {0xeb, 0xff, 0xc0, 0x0f, 0x31},              // jumps into themselves
                            {0xe9, 0xe9, 0xe9, 0x00, 0x00, 0x0f, 0xa2},  // overlapping calls
                            {0x66, 0x66, 0x66, 0xf2, 0x0f, 0x31},        // prefixes
                            {0xff, 0xe0, 0x0f, 0x31, 0x06}};             // holes that don't decode
  double worst = 0;
  for (const Bytes& pattern : patterns) {
    const Bytes bytes = hostile_text(pattern);
    file.set(bytes);
    const auto start = Clock::now();
    scan_whole(bytes, file.fd());
    const std::chrono::duration<double> took = Clock::now() - start;
    INFO("pattern of " << pattern.size() << " bytes starting with " << static_cast<int>(pattern[0]));
    CHECK(took.count() < 5);
    worst = std::max(worst, took.count());
  }
  std::printf("hostile text: slowest %.1f ms per MiB\n",
              worst * 1e3 / 2);  // each is scanned as range and as segment
}
