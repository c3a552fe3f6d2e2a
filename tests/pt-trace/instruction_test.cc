// The shortcut for common instructions against Zydis.
#include "pt-trace/instruction.h"

#include <catch2/catch.hpp>
#include <filesystem>

#include "pt-trace/common_instruction.h"
#include "pt_data.h"

using namespace aftercheck::pt;
using namespace aftercheck::pt::test;

namespace {

// Compares at every byte; returns how many instructions the shortcut took.
size_t compare(const std::vector<uint8_t>& code, ExecMode mode) {
  const auto shared = std::make_shared<const std::vector<uint8_t>>(code);
  CodeImage image;
  const uint64_t base = 0x10000000;
  image.map(base, shared);
  const InstructionDecoder decoder;
  size_t taken = 0;
  for (size_t i = 0; i + 16 <= code.size(); ++i) {
    const Instruction quick = decode_common(code.data() + i, base + i, mode);
    if (quick.size == 0) continue;
    ++taken;
    const Instruction full = decoder.decode_any(image.at(base + i), image, base + i, mode);
    if (quick.size != full.size || quick.kind != full.kind || quick.target != full.target) {
      std::string hex;
      for (size_t b = 0; b < 15; ++b)
        hex += "0123456789abcdef"[code[i + b] >> 4], hex += "0123456789abcdef"[code[i + b] & 15];
      FAIL("offset " << i << " of " << hex << ": size " << int{quick.size} << " instead of " << int{full.size}
                     << ", kind " << int(quick.kind) << " instead of " << int(full.kind) << ", mode "
                     << int(mode));
    }
  }
  return taken;
}

}  // namespace

TEST_CASE("common instructions are decoded as Zydis does, on random bytes") {
  Random random(4);
  std::vector<uint8_t> code(400000);
  for (auto& byte : code) byte = static_cast<uint8_t>(random.next());
  // Make two-byte opcodes and prefixes as frequent as they are in code.
  for (size_t i = 0; i < code.size(); i += 1 + random.below(12)) {
    constexpr uint8_t frequent[] = {0x0f, 0x66, 0x48, 0xf3, 0xff, 0xe8, 0x41, 0xc7, 0xf6, 0x8d};
    code[i] = frequent[random.below(std::size(frequent))];
  }
  REQUIRE(compare(code, ExecMode::bits64) > code.size() / 4);
  REQUIRE(compare(code, ExecMode::bits32) > code.size() / 4);
}

TEST_CASE("common instructions are decoded as Zydis does, on real code") {
  PT_DATA_OR_SKIP(folder);
  for (const char* name : {"foo/image.dump", "qemu/image.dump", "dynamorio_v2/hello"})
    REQUIRE(compare(read_file(folder + "/" + name), ExecMode::bits64) > 100000);
  REQUIRE(compare(read_file(folder + "/avscript_32/image.dump"), ExecMode::bits32) > 100000);
}

TEST_CASE("kinds of instructions that Intel PT tells apart") {
  struct Case {
    std::vector<uint8_t> bytes;
    InstructionKind kind;
    ExecMode mode = ExecMode::bits64;
    uint64_t target = 0;
  };
  const Case cases[] = {
      {{0x90}, InstructionKind::other},
      {{0x74, 0x02}, InstructionKind::conditional, ExecMode::bits64, 0x1004},
      {{0xe2, 0xfe}, InstructionKind::conditional, ExecMode::bits64, 0x1000},              // LOOP
      {{0xe3, 0x10}, InstructionKind::conditional, ExecMode::bits64, 0x1012},              // JRCXZ
      {{0xc7, 0xf8, 0, 0, 0, 0}, InstructionKind::other},                                  // XBEGIN
      {{0x66, 0xe9, 0xfc, 0xff}, InstructionKind::direct_jump, ExecMode::bits32, 0x1000},  // wraps at 16 bits
      {{0xe9, 0xfb, 0xef, 0xff, 0xff}, InstructionKind::direct_jump, ExecMode::bits32, 0},
      {{0xf3, 0xc3}, InstructionKind::near_return},
      {{0xc2, 8, 0}, InstructionKind::near_return},
      {{0xcb}, InstructionKind::far_return},
      {{0x48, 0xcf}, InstructionKind::far_return},
      {{0x0f, 0x05}, InstructionKind::far_call},
      {{0x0f, 0x07}, InstructionKind::far_return},
      {{0x0f, 0x01, 0xc1}, InstructionKind::far_call},    // VMCALL
      {{0x0f, 0x01, 0xc2}, InstructionKind::far_return},  // VMLAUNCH
      {{0xcd, 0x80}, InstructionKind::far_call},
      {{0xcc}, InstructionKind::far_call},
      {{0xff, 0x18}, InstructionKind::far_call},
      {{0xff, 0xe0}, InstructionKind::indirect_jump},
      {{0x3e, 0xff, 0xe0}, InstructionKind::indirect_jump},  // NOTRACK
      {{0x41, 0xff, 0xd3}, InstructionKind::indirect_call},
      {{0x0f, 0x22, 0xd8}, InstructionKind::write_cr3},
      {{0x0f, 0x22, 0xc0}, InstructionKind::other},
      {{0x0f, 0x0b}, InstructionKind::other},  // UD2
      {{0xc5, 0xf8, 0x77}, InstructionKind::other},
      {{0xd5, 0x00, 0xa1, 1, 2, 3, 4, 5, 6, 7, 8}, InstructionKind::indirect_jump},  // JMPABS
      {{0x64, 0xd5, 0x77, 0xa1, 1, 2, 3, 4, 5, 6, 7, 8}, InstructionKind::indirect_jump},
      {{0xd5, 0x0a}, InstructionKind::other, ExecMode::bits32},       // AAD
      {{0xf2, 0x0f, 0x01, 0xca}, InstructionKind::far_return},        // ERETS
      {{0xf3, 0x48, 0x0f, 0x01, 0xca}, InstructionKind::far_return},  // ERETU
      {{0x0f, 0x01, 0xca}, InstructionKind::other},                   // CLAC
  };
  const InstructionDecoder decoder;
  for (const Case& c : cases) {
    for (const size_t padding : {size_t{0}, size_t{16}}) {
      auto bytes = c.bytes;
      bytes.resize(bytes.size() + padding, 0x90);
      CodeImage image;
      image.map(0x1000, std::make_shared<const std::vector<uint8_t>>(bytes));
      const Instruction instruction = decoder.decode(image, 0x1000, c.mode);
      INFO("bytes " << int{c.bytes[0]} << " " << int{c.bytes.back()} << " padding " << padding);
      REQUIRE(int{instruction.size} == static_cast<int>(c.bytes.size()));
      REQUIRE(instruction.kind == c.kind);
      if (c.target != 0 || c.kind == InstructionKind::direct_jump) REQUIRE(instruction.target == c.target);
    }
  }
  CodeImage empty;
  REQUIRE(int{decoder.decode(empty, 0x1000, ExecMode::bits64).size} == 0);
}
