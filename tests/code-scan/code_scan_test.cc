// The scanner against guests that mark what must be found, and against objdump on the system's own programs.
#include "code-scan/code_scan.h"

#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <memory>

#include "code-scan/code_search.h"
#include "scan_test_util.h"

using namespace aftercheck;
using namespace aftercheck::test;

namespace {

std::vector<std::string> guests() {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(SCAN_GUESTS)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  return paths;
}

// What a linear disassembly shows, and which of it lies next to bytes that don't disassemble.
struct Disassembly {
  Addresses trapped;
  Addresses
      near_data;  // (bad), or an instruction that #UDs, faults or means nothing in ring 3, within a few lines
};

bool is_trapped_line(const std::string& line) {
  for (const char* name : {"\trdtsc", "\tcpuid", "\trdrand", "\trdseed", "\trdpid", "\tfxsave"})
    if (line.find(name) != std::string::npos) return true;
  return false;
}

Disassembly run_objdump(const std::string& path) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(
      popen(("LC_ALL=C objdump -d -w --no-show-raw-insn '" + path + "'").c_str(), "r"), pclose);
  REQUIRE(pipe);
  constexpr int kNear = 16;  // lines: data of a few dozen bytes always has something undecodable
  Disassembly result;
  std::deque<uint64_t> recent;  // trapped instructions of the last lines
  std::deque<int> recent_lines;
  int line_number = 0, last_bad = -kNear - 1;
  char buffer[512];
  while (std::fgets(buffer, sizeof buffer, pipe.get()) != nullptr) {
    const std::string line = buffer;
    ++line_number;
    while (!recent.empty() && line_number - recent_lines.front() > kNear) {
      recent.pop_front();
      recent_lines.pop_front();
    }
    if (line.find("(bad)") != std::string::npos) {
      last_bad = line_number;
      result.near_data.insert(recent.begin(), recent.end());
    }
    if (!is_trapped_line(line)) continue;
    const uint64_t address = std::strtoull(buffer, nullptr, 16);
    result.trapped.insert(address);
    if (line_number - last_bad <= kNear) result.near_data.insert(address);
    recent.push_back(address);
    recent_lines.push_back(line_number);
  }
  return result;
}

Addresses minus(const Addresses& a, const Addresses& b) {
  Addresses result;
  std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::inserter(result, result.end()));
  return result;
}

bool has_objdump() { return std::system("objdump --version >/dev/null 2>&1") == 0; }

const Program::Text& only_text(const Program& program) {
  REQUIRE(program.texts.size() == 1);
  return program.texts[0];
}

Addresses addresses_of(const std::vector<CodePatch>& patches) {
  Addresses result;
  for (const CodePatch& patch : patches) result.insert(patch.address);
  return result;
}

}  // namespace

TEST_CASE("Guests: exactly the marked instructions are found") {
  int checked = 0;
  for (const std::string& path : guests()) {
    INFO(path);
    const Program program = load_program(path);
    const Addresses expected = marked(program, ".scan_expect"), decoys = marked(program, ".scan_decoys");
    REQUIRE_FALSE(expected.empty());
    const Addresses found = scan(program);
    CHECK(text(minus(expected, found)) == "");
    if (path.ends_with("_static")) {
      CHECK(found.size() > expected.size());  // the C library's own
    } else {
      CHECK(text(minus(found, expected)) == "");
    }
    for (const uint64_t decoy : decoys) {
      CHECK(found.count(decoy) == 0);
      // A decoy that doesn't even look like one would prove nothing.
      const auto bytes = program.file.read_at(decoy, 15);
      CHECK(decode_trapped(bytes).has_value());
    }
    ++checked;
  }
  CHECK(checked >= 37);
}

TEST_CASE("Guests: any part of the text gives the part's patches") {
  for (const char* name :
       {"scan_guest_bare", "scan_guest_with_cfi", "scan_guest_switch_O2", "scan_guest_cold_O2"}) {
    INFO(name);
    const Program program = load_program(std::string(SCAN_GUESTS "/") + name);
    const auto& code = only_text(program);
    const Addresses all = scan(program);
    for (size_t size : {1, 2, 3, 64, 100}) {
      Addresses expected, found;
      for (size_t at = 0; at < code.bytes.size(); at += size) {
        const auto part =
            std::span<const uint8_t>(code.bytes).subspan(at, std::min(size, code.bytes.size() - at));
        const auto patches =
            find_trapped_instructions({0x7000 + at, part, program.fd.get(), code.offset + at});
        for (const CodePatch& patch : patches) {
          found.insert(patch.address - 0x7000 + code.vaddr);
          CHECK(patch.address + patch.instruction.length <= 0x7000 + at + part.size());
        }
      }
      for (const uint64_t address : all) {
        const size_t at = address - code.vaddr;
        const auto insn = decode_trapped(std::span<const uint8_t>(code.bytes).subspan(at));
        if (at / size == (at + insn->length - 1) / size) expected.insert(address);  // else it straddles parts
      }
      CHECK(text(found) == text(expected));
    }
  }
}

TEST_CASE("Guests: a range may be larger than the segment") {
  const Program program = load_program(SCAN_GUESTS "/scan_guest_plain_O2");
  const auto& code = only_text(program);
  const uint64_t start = page_down(code.offset), end = page_up(code.offset + code.bytes.size());
  const auto bytes = program.file.read(start, end - start);
  const auto patches = find_trapped_instructions({page_down(code.vaddr), bytes, program.fd.get(), start});
  CHECK(text(addresses_of(patches)) == text(marked(program, ".scan_expect")));
}

TEST_CASE("The system's programs: what objdump finds is found") {
  if (!has_objdump()) {
    WARN("SKIPPED: objdump is not installed");
    return;
  }
  const std::string lib = "/usr/lib/x86_64-linux-gnu/";
  int compared = 0;
  size_t total = 0;
  for (const std::string& path :
       {lib + "libc.so.6", lib + "ld-linux-x86-64.so.2", lib + "libcrypto.so.3", lib + "libstdc++.so.6",
        lib + "libgcc_s.so.1", lib + "libgnutls.so.30", lib + "libapr-1.so.0", std::string("/usr/bin/perl"),
        std::string("/usr/bin/python3"), std::string("/usr/sbin/apache2"), std::string("/usr/sbin/ldconfig"),
        std::string(SCAN_GUESTS "/scan_guest_static")}) {
    if (access(path.c_str(), R_OK) != 0) continue;
    INFO(path);
    const Program program = load_program(path);
    const auto start = std::chrono::steady_clock::now();
    const Addresses found = scan(program);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    const Disassembly reference = run_objdump(path);
    const Addresses missed = minus(reference.trapped, found);
    std::printf("%s: %zu found in %.1f ms, %zu of objdump's in data\n", path.c_str(), found.size(),
                took.count(), missed.size());
    CHECK(text(minus(found, reference.trapped)) == "");
    // objdump sweeps over data too, as in libcrypto's tables of curve points; nothing else may be missing.
    CHECK(text(minus(missed, reference.near_data)) == "");
    total += found.size();
    ++compared;
  }
  CHECK(compared >= 4);
  CHECK(total > 30);
}

TEST_CASE("Anonymous code: a linear sweep that resynchronises") {
  const auto sweep = [](std::vector<uint8_t> bytes) {
    return addresses_of(find_trapped_instructions({0x1000, bytes, -1, 0}));
  };
  CHECK(sweep({}) == Addresses{});
  CHECK(sweep({0x0f}) == Addresses{});
  CHECK(sweep({0x0f, 0x31}) == Addresses{0x1000});
  CHECK(sweep({0x90, 0x0f, 0xa2, 0x0f, 0x31}) == Addresses{0x1001, 0x1003});
  CHECK(sweep({0xb8, 0x0f, 0x31, 0, 0, 0x0f, 0x31}) == Addresses{0x1005});  // immediate
  CHECK(sweep({0x48, 0x8b, 0x80, 0x0f, 0xa2, 0, 0, 0xc3}) == Addresses{});  // displacement
  CHECK(sweep({0x06, 0x0f, 0x31}) == Addresses{0x1001});                    // after an invalid byte
  CHECK(sweep({0xf3, 0x41, 0x0f, 0xc7, 0xf9}) == Addresses{0x1000});        // prefixes belong to it
  CHECK(sweep({0x0f, 0x01, 0xf9, 0x48, 0x0f, 0xc7, 0xf0}) == Addresses{0x1000, 0x1003});
}

TEST_CASE("A file that isn't ELF is swept like anonymous code") {
  char path[] = "/tmp/aftercheck-scan-XXXXXX";
  const UniqueFd fd(mkstemp(path));
  REQUIRE(fd);
  unlink(path);
  const std::vector<uint8_t> bytes = {0x90, 0x0f, 0x31, 0xc3};
  REQUIRE(write(fd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  CHECK(addresses_of(find_trapped_instructions({0x5000, bytes, fd.get(), 0})) == Addresses{0x5001});
}

TEST_CASE("Candidates are found at every alignment and at the edges") {
  for (size_t size = 0; size < 70; ++size) {
    for (size_t at = 0; at + 2 <= size; ++at) {
      std::vector<uint8_t> bytes(size, 0x0f);  // 0F everywhere: no pair of these is one
      bytes[at + 1] = 0xa2;
      CHECK(find_candidates(bytes) == std::vector<size_t>{at});
      bytes[at + 1] = 0x01;
      CHECK(find_candidates(bytes).empty());
      if (at + 3 <= size) {
        bytes[at + 2] = 0xf9;
        CHECK(find_candidates(bytes) == std::vector<size_t>{at});
      }
    }
  }
}

TEST_CASE("Clean text is searched at memory speed") {
  std::vector<uint8_t> bytes(64 << 20);
  uint32_t state = 1;
  for (uint8_t& byte : bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<uint8_t>(state >> 24) & 0x7f;  // a 0F in 128 bytes, as in code
    if (byte == 0x31 || byte == 1) byte = 0x90;
  }
  const auto start = std::chrono::steady_clock::now();
  const auto patches = find_trapped_instructions({0, bytes, -1, 0});
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  CHECK(patches.empty());
  std::printf("search: %.1f GB/s\n", static_cast<double>(bytes.size()) / took.count() / 1e9);
#ifdef NDEBUG
  CHECK(took.count() <
        0.64);  // a tenth of a GB/s: a busy machine still passes, byte-by-byte decoding doesn't
#endif
}
