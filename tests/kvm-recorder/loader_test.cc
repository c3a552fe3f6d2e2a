// load_program on programs of every kind, built here, and on damaged ones.
#include "kvm-recorder/loader.h"

#include <elf.h>
#include <fmt/format.h>
#include <sys/prctl.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <map>
#include <random>
#include <sstream>

#include "tests/kvm-recorder/process_fixture.h"

using namespace aftercheck;
using aftercheck::test::ProcessFixture;
using Catch::Matchers::Contains;

namespace {

constexpr char kGuest[] = R"(
  char initialised[5000] = "data";
  char zero[70000];
  __thread int thread_local_data = 7;
  int main(int argc, char** argv) { return initialised[argc] + zero[argc] + thread_local_data + !argv; }
)";
// Small enough to try damage on every byte of its headers.
constexpr char kBareGuest[] = R"(
  char initialised[100] = "data";
  char zero[9000];
  void _start(void) { initialised[1] = zero[0]; for (;;) { } }
)";

std::string build(const ProcessFixture& fixture, const std::string& name, const std::string& source,
                  const std::string& flags) {
  const std::string code = fixture.directory.write(name + ".c", source);
  const std::string program = fixture.directory.file(name);
  const std::string command = fmt::format("{} -O1 {} -o {} {}", TEST_C_COMPILER, flags, program, code);
  REQUIRE(std::system(command.c_str()) == 0);
  return program;
}

std::string contents(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

std::map<uint64_t, uint64_t> auxiliary(const GuestProcess& process) {
  std::map<uint64_t, uint64_t> result;
  REQUIRE(process.auxv.size() % 2 == 0);
  for (size_t i = 0; i < process.auxv.size(); i += 2) result[process.auxv[i]] = process.auxv[i + 1];
  return result;
}

uint64_t word(const GuestProcess& process, uint64_t address) {
  uint64_t value = 0;
  REQUIRE(process.memory.read_object(address, value));
  return value;
}

std::string text(const GuestProcess& process, uint64_t address) {
  std::string result;
  REQUIRE(process.memory.read_string(address, result, 200'000));
  return result;
}

// Every byte of every PT_LOAD is in memory: the file's, then zeros up to the end of the last page.
void check_image(const GuestProcess& process, const std::string& path, uint64_t bias) {
  const std::string file = contents(path);
  Elf64_Ehdr header;
  std::memcpy(&header, file.data(), sizeof header);
  for (size_t i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment;
    std::memcpy(&segment, file.data() + header.e_phoff + i * sizeof segment, sizeof segment);
    if (segment.p_type != PT_LOAD) continue;
    INFO(path << " segment " << i);
    const uint64_t start = bias + segment.p_vaddr;
    std::string found(segment.p_filesz, '\1');
    REQUIRE(process.memory.space().read(start, found.data(), found.size()));
    std::string expected = file.substr(segment.p_offset, segment.p_filesz);
    for (const auto& [address, patch] : process.memory.space().patches())
      if (address >= start && address < start + segment.p_filesz)
        std::memcpy(found.data() + (address - start), patch.original.data(), patch.instruction.length);
    CHECK(found == expected);
    if (segment.p_memsz > segment.p_filesz) {
      const uint64_t from = start + segment.p_filesz, to = page_up(start + segment.p_memsz);
      std::string rest(to - from, '\1');
      REQUIRE(process.memory.space().read(from, rest.data(), rest.size()));
      CHECK(rest == std::string(rest.size(), '\0'));
      CHECK(process.memory.space().accessible(from, to - from, PROT_READ | PROT_WRITE));
    }
    const Mapping* mapping = process.memory.space().find(start);
    REQUIRE(mapping != nullptr);
    CHECK(((mapping->prot & PROT_EXEC) != 0) == ((segment.p_flags & PF_X) != 0));
    CHECK(((mapping->prot & PROT_WRITE) != 0) == ((segment.p_flags & PF_W) != 0));
    CHECK(mapping->name == std::filesystem::canonical(path).string());
  }
}

Elf64_Ehdr elf_header(const std::string& path) {
  Elf64_Ehdr header;
  std::memcpy(&header, contents(path).data(), sizeof header);
  return header;
}

}  // namespace

TEST_CASE("loader: static, position-independent and dynamic programs") {
  ProcessFixture fixture;
  GuestProcess& process = fixture.process;
  const struct {
    const char* name;
    const char* flags;
    bool moves, dynamic;
  } kinds[] = {
      {"static", "-static -no-pie -fno-pie", false, false},
      {"static-pie", "-static-pie -fPIE", true, false},
      {"dynamic-pie", "-pie -fPIE", true, true},
      {"dynamic", "-no-pie -fno-pie", false, true},
      {"wide-pages", "-pie -fPIE -Wl,-z,max-page-size=0x200000", true, true},
      {"close-segments", "-no-pie -fno-pie -Wl,-z,noseparate-code", false, true},
  };
  for (const auto& kind : kinds) {
    INFO(kind.name);
    const std::string path = build(fixture, kind.name, kGuest, kind.flags);
    load_program(fixture.task, find_program(path, {"argv0"}, {}), {});
    const auto aux = auxiliary(process);
    const Elf64_Ehdr header = elf_header(path);
    const uint64_t bias = aux.at(AT_ENTRY) - header.e_entry;
    CHECK((bias != 0) == kind.moves);
    check_image(process, path, bias);
    CHECK(aux.at(AT_PHNUM) == header.e_phnum);
    Elf64_Phdr first;
    REQUIRE(process.memory.read_object(aux.at(AT_PHDR), first));
    CHECK(std::memcmp(&first, contents(path).data() + header.e_phoff, sizeof first) == 0);

    CHECK((aux.at(AT_BASE) != 0) == kind.dynamic);
    if (kind.dynamic) {
      const std::string interpreter = "/lib64/ld-linux-x86-64.so.2";
      check_image(process, interpreter, aux.at(AT_BASE));
      CHECK(process.entry.rip == aux.at(AT_BASE) + elf_header(interpreter).e_entry);
    } else {
      CHECK(process.entry.rip == aux.at(AT_ENTRY));
    }
    CHECK(process.memory.space().accessible(process.entry.rip, 1, PROT_EXEC));
    if (std::string(kind.name) == "wide-pages") CHECK(bias % 0x200000 == 0);

    for (const auto& [start, mapping] : process.memory.space().mappings()) {
      CHECK(in_windows(start, mapping.end - start));
      // Room for a heap of many GiB.
      CHECK((mapping.end <= process.heap_start || start > process.heap_start + (uint64_t{64} << 30)));
    }
    CHECK(process.heap_start % kPageSize == 0);
    CHECK(process.heap_end == process.heap_start);
    CHECK(process.executable == std::filesystem::canonical(path).string());
    Registers expected;
    expected.rip = process.entry.rip;
    expected.rsp = process.entry.rsp;
    CHECK(process.entry == expected);
    CHECK(process.entry.rflags == 0x202);
  }
}

TEST_CASE("loader: the initial stack holds what the ABI says") {
  ProcessFixture fixture;
  GuestProcess& process = fixture.process;
  const std::string path = build(fixture, "guest", kBareGuest, "-static -nostdlib -no-pie -fno-pie");
  const std::string script = fixture.directory.write("a-script-with-a-long-name", "#!" + path + " -opt\n");
  const std::vector<std::string> environment{"A=1", "", "LONG=" + std::string(100'000, 'x')};
  for (size_t count = 0; count < 5; ++count) {
    std::vector<std::string> given{"argv0"};
    given.insert(given.end(), count, "arg");
    load_program(fixture.task, find_program(script, given, environment), environment);
    std::vector<std::string> expected{path, "-opt", script};
    expected.insert(expected.end(), count, "arg");

    uint64_t at = process.entry.rsp;
    CHECK(at % 16 == 0);
    CHECK(process.stack.contains(at));
    CHECK(process.stack.size() >= 8 << 20);
    REQUIRE(word(process, at) == expected.size());
    for (const std::string& argument : expected) CHECK(text(process, word(process, at += 8)) == argument);
    CHECK(word(process, at += 8) == 0);
    for (const std::string& entry : environment) CHECK(text(process, word(process, at += 8)) == entry);
    CHECK(word(process, at += 8) == 0);
    for (const uint64_t value : process.auxv) CHECK(word(process, at += 8) == value);
    CHECK(process.arguments == expected);
    CHECK(process.environment == environment);
  }
  auto aux = auxiliary(process);
  CHECK(text(process, aux.at(AT_EXECFN)) == script);
  CHECK(text(process, aux.at(AT_PLATFORM)) == "x86_64");
  CHECK(aux.at(AT_PAGESZ) == 4096);
  CHECK(aux.at(AT_HWCAP) == fixture.cpu.hwcap());
  CHECK(aux.count(AT_SYSINFO_EHDR) == 0);
  CHECK(aux.at(AT_NULL) == 0);
  const uint64_t random = word(process, aux.at(AT_RANDOM));
  char name[16] = {};
  prctl(PR_GET_NAME, name);
  CHECK(std::string(name) == "a-script-with-a");

  const Mapping* stack = process.memory.space().find(process.entry.rsp);
  REQUIRE(stack != nullptr);
  CHECK(stack->name == "[stack]");
  CHECK(stack->prot == (PROT_READ | PROT_WRITE));
  CHECK_FALSE(process.memory.space().accessible(process.stack.start - 1, 1, PROT_READ));
  load_program(fixture.task, find_program(script, {"x"}, environment), environment);
  CHECK(word(process, auxiliary(process).at(AT_RANDOM)) != random);
}

TEST_CASE("loader: addresses differ from run to run only when asked to, code only between recordings") {
  ProcessFixture fixture;
  GuestProcess& process = fixture.process;
  const std::string path = build(fixture, "guest", kGuest, "-pie -fPIE");
  const auto addresses = [&](bool randomize) {
    load_program(fixture.task, find_program(path, {"x"}, {}), {}, {.randomize = randomize});
    return std::vector<uint64_t>{auxiliary(process).at(AT_ENTRY), process.entry.rip, process.entry.rsp,
                                 process.heap_start};
  };
  CHECK(addresses(false) == addresses(false));
  const auto first = addresses(true), again = addresses(true);
  for (const size_t code : {0, 1}) CHECK(first[code] == again[code]);
  for (const size_t data : {2, 3}) CHECK(first[data] != again[data]);
  process.placement_seed = 0;  // as another recording begins
  const auto other = addresses(true);
  for (size_t i = 0; i < first.size(); ++i) CHECK(first[i] != other[i]);
}

TEST_CASE("loader: PT_GNU_STACK decides whether the stack is executable") {
  ProcessFixture fixture;
  for (const bool executable : {false, true}) {
    const std::string path = build(fixture, "guest", kBareGuest,
                                   std::string("-static -nostdlib -no-pie -fno-pie -Wl,-z,") +
                                       (executable ? "execstack" : "noexecstack"));
    load_program(fixture.task, find_program(path, {"x"}, {}), {});
    CHECK(fixture.space.accessible(fixture.process.entry.rsp, 1, PROT_EXEC) == executable);
  }
}

TEST_CASE("loader: a program linked to where the recorder may be is refused with its addresses") {
  ProcessFixture fixture;
  const std::string path =
      build(fixture, "guest", kBareGuest,
            "-static -nostdlib -no-pie -fno-pie -mcmodel=large -Wl,-Ttext-segment=0x555500000000");
  CHECK_THROWS_WITH(
      load_program(fixture.task, find_program(path, {"x"}, {}), {}),
      Contains(path) && Contains("0x555500000000") && Contains("can't be given to a recorded program"));
}

TEST_CASE("loader: damage is named with file and field") {
  ProcessFixture fixture;
  const std::string path = build(fixture, "guest", kBareGuest, "-static -nostdlib -no-pie -fno-pie");
  const std::string good = contents(path);
  size_t load = elf_header(path).e_phoff;  // the first PT_LOAD
  for (;; load += sizeof(Elf64_Phdr)) {
    Elf64_Phdr header;
    std::memcpy(&header, good.data() + load, sizeof header);
    if (header.p_type == PT_LOAD) break;
  }
  const struct {
    size_t offset;
    uint64_t value;
    size_t size;
    const char* message;
  } cases[] = {
      {EI_CLASS, ELFCLASS32, 1, "a 32-bit program"},
      {EI_DATA, ELFDATA2MSB, 1, "another processor"},
      {offsetof(Elf64_Ehdr, e_machine), EM_AARCH64, 2, "another processor (e_machine 183"},
      {offsetof(Elf64_Ehdr, e_type), ET_REL, 2, "e_type is 1: an object file"},
      {offsetof(Elf64_Ehdr, e_type), ET_CORE, 2, "e_type is 4: a core dump"},
      {offsetof(Elf64_Ehdr, e_phentsize), 55, 2, "e_phentsize is 55"},
      {offsetof(Elf64_Ehdr, e_phnum), 0, 2, "e_phnum is 0"},
      {offsetof(Elf64_Ehdr, e_phnum), 65535, 2, "e_phnum is 65535"},
      {offsetof(Elf64_Ehdr, e_phoff), 0x7fff'ffff'ffff'fff0, 8, "e_phoff is"},
      {load + offsetof(Elf64_Phdr, p_filesz), 0xffff'ffff, 8, "p_filesz is 0xffffffff: more than p_memsz"},
      {load + offsetof(Elf64_Phdr, p_offset), 0x100000, 8,
       "p_offset is 0x100000: beyond the end of the file"},
      {load + offsetof(Elf64_Phdr, p_offset), UINT64_MAX, 8, "p_offset is"},
      {load + offsetof(Elf64_Phdr, p_vaddr), UINT64_MAX - 4096, 8, "p_vaddr is"},
      {load + offsetof(Elf64_Phdr, p_vaddr), 0x400123, 8, "not congruent to p_offset"},
      {load + offsetof(Elf64_Phdr, p_memsz), UINT64_MAX, 8, "p_memsz is"},
      {load + offsetof(Elf64_Phdr, p_memsz), 0x10000, 8, "overlaps an earlier segment"},
      {load + offsetof(Elf64_Phdr, p_align), 0x3000, 8, "p_align is 0x3000: not a power of two"},
  };
  for (const auto& entry : cases) {
    INFO(entry.message);
    std::string bad = good;
    std::memcpy(bad.data() + entry.offset, &entry.value, entry.size);
    const std::string file = fixture.directory.write("bad", bad);
    int code = 0;
    CHECK_THROWS_WITH(find_program(file, {"x"}, {}, &code), Contains(file) && Contains(entry.message));
    CHECK(code == ENOEXEC);
  }
  std::string cut = good;
  cut.resize(elf_header(path).e_phoff + 30);
  CHECK_THROWS_WITH(find_program(fixture.directory.write("cut", cut), {"x"}, {}),
                    Contains("beyond the end of the file"));
}

TEST_CASE("loader: a dynamic program whose interpreter is missing or no ELF is refused") {
  ProcessFixture fixture;
  const std::string text_file = fixture.directory.write("interpreter", "no ELF at all");
  const struct {
    std::string interpreter;
    int code;
    std::string message;
  } cases[] = {
      {"/no/such/ld.so", ENOENT, "/no/such/ld.so: No such file"},
      {"/tmp", EACCES, "/tmp: is a directory"},
      {text_file, ELIBBAD, "neither an ELF program"},
  };
  for (const auto& entry : cases) {
    const std::string path =
        build(fixture, "guest", kGuest, "-pie -fPIE -Wl,--dynamic-linker=" + entry.interpreter);
    int code = 0;
    CHECK_THROWS_WITH(find_program(path, {"x"}, {}, &code), Contains(path) && Contains(entry.message));
    CHECK(code == entry.code);
  }
}

TEST_CASE("loader: no damage to the headers does more than raise an error") {
  ProcessFixture fixture;
  const std::string kinds[] = {
      build(fixture, "fixed", kBareGuest, "-static -nostdlib -no-pie -fno-pie"),
      build(fixture, "moving", kBareGuest, "-static-pie -nostdlib -fPIE"),
      build(fixture, "dynamic", kBareGuest, "-pie -nostdlib -fPIE"),
  };
  size_t loaded = 0, refused = 0;
  const auto attempt = [&](const std::string& bytes) {
    const std::string file = fixture.directory.write("damaged", bytes);
    try {
      load_program(fixture.task, find_program(file, {"x"}, {}), {});
      ++loaded;
    } catch (const Error& error) {
      CHECK((error.kind() == ErrorKind::bad_input || error.kind() == ErrorKind::unsupported));
      CHECK_THAT(error.what(), Contains("damaged"));
      ++refused;
    }
    recording::Event event;
    fixture.answer.move_to(event);
  };
  std::mt19937 random(20261122);
  for (const std::string& path : kinds) {
    const std::string good = contents(path);
    const size_t end = elf_header(path).e_phoff + elf_header(path).e_phnum * sizeof(Elf64_Phdr);
    for (size_t i = 0; i < end; ++i)
      for (const int damage : {0x01, 0x80, 0xff}) {
        std::string bad = good;
        bad[i] = static_cast<char>(bad[i] ^ damage);
        attempt(bad);
      }
    for (int round = 0; round < 200; ++round) {
      std::string bad = good;
      for (int n = 0; n < 4; ++n) bad[24 + random() % (end - 24)] = static_cast<char>(random());
      attempt(bad);
    }
  }
  CHECK(loaded > 100);
  CHECK(refused > 1000);
}
