#include "x86/decode.h"

#include <catch2/catch.hpp>
#include <vector>

namespace aftercheck::x86 {
namespace {

using Code = std::vector<uint8_t>;

uint8_t length_in(Mode mode, Detail detail, const Code& code) {
  const ZydisDecoder decoder = make_decoder(mode, detail);
  ZydisDecodedInstruction instruction;
  REQUIRE(
      ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, code.data(), code.size(), &instruction)));
  return instruction.length;
}

}  // namespace

TEST_CASE("each mode has its decoder") {
  const Code code = {0xb8, 1, 2, 3, 4, 5};  // mov ax, imm16; mov eax, imm32
  CHECK(length_in(Mode::bits16, Detail::all, code) == 3);
  CHECK(length_in(Mode::bits32, Detail::all, code) == 5);
  const Code rex = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8};  // dec eax; or mov rax, imm64
  CHECK(length_in(Mode::bits32, Detail::all, rex) == 1);
  CHECK(length_in(Mode::bits64, Detail::all, rex) == 10);
  CHECK(length_in(Mode::bits64, Detail::minimal, rex) == 10);
}

TEST_CASE("decoding gives what the bytes are, and nothing for half an instruction") {
  const Code store = {0x48, 0x89, 0x47, 0x08};  // mov [rdi+8], rax
  WithOperands decoded;
  REQUIRE(decode(store, decoded));
  CHECK(decoded.instruction.mnemonic == ZYDIS_MNEMONIC_MOV);
  CHECK(decoded.operands[0].mem.base == ZYDIS_REGISTER_RDI);
  CHECK(decoded.operands[0].mem.disp.value == 8);
  ZydisDecodedInstruction instruction;
  REQUIRE(decode(store, instruction));
  CHECK(instruction.length == store.size());
  for (size_t size = 0; size < store.size(); ++size) {
    CHECK_FALSE(decode(std::span(store).first(size), instruction));
    CHECK_FALSE(decode(std::span(store).first(size), decoded));
  }
  CHECK_FALSE(decode(Code{0x06}, instruction));  // push es: not in 64-bit mode
}

TEST_CASE("a repeat prefix counts on string instructions only") {
  struct Case {
    Code code;
    bool repeated;
  };
  const std::vector<Case> cases = {{{0xf3, 0xa4}, true},    // rep movsb
                                   {{0xf3, 0xa6}, true},    // repe cmpsb
                                   {{0xf2, 0xae}, true},    // repne scasb
                                   {{0xa4}, false},         // movsb
                                   {{0xf3, 0x90}, false},   // pause
                                   {{0xf3, 0xc3}, false}};  // rep ret
  for (const Case& c : cases) {
    ZydisDecodedInstruction instruction;
    REQUIRE(decode(c.code, instruction));
    CHECK(is_repeated(instruction) == c.repeated);
  }
}

TEST_CASE("alignment is asked of 16-byte operands of legacy SSE only, with its exceptions") {
  struct Case {
    Code code;
    bool aligned;
  };
  const std::vector<Case> cases = {{{0x0f, 0x28, 0x00}, true},                     // movaps xmm0, [rax]
                                   {{0x0f, 0x29, 0x00}, true},                     // movaps [rax], xmm0
                                   {{0x66, 0x0f, 0x6f, 0x00}, true},               // movdqa xmm0, [rax]
                                   {{0x66, 0x0f, 0xd4, 0x00}, true},               // paddq xmm0, [rax]
                                   {{0x0f, 0x28, 0xc1}, false},                    // movaps xmm0, xmm1
                                   {{0x0f, 0x10, 0x00}, false},                    // movups xmm0, [rax]
                                   {{0xf3, 0x0f, 0x6f, 0x00}, false},              // movdqu xmm0, [rax]
                                   {{0x66, 0x0f, 0x3a, 0x63, 0x00, 0x00}, false},  // pcmpistri xmm0, [rax], 0
                                   {{0xf3, 0x0f, 0x10, 0x00}, false},              // movss xmm0, [rax]
                                   {{0xf2, 0x0f, 0x58, 0x00}, false},              // addsd xmm0, [rax]
                                   {{0x0f, 0x12, 0x00}, false},                    // movlps xmm0, [rax]
                                   {{0x66, 0x0f, 0x38, 0x20, 0x00}, false},        // pmovsxbw xmm0, [rax]
                                   {{0x0f, 0xd4, 0x00}, false},                    // paddq mm0, [rax]
                                   {{0xc5, 0xf9, 0xd4, 0x00}, false},              // vpaddq xmm0, xmm0, [rax]
                                   {{0x48, 0x8b, 0x00}, false}};                   // mov rax, [rax]
  for (const Case& c : cases) {
    WithOperands decoded;
    REQUIRE(decode(c.code, decoded));
    INFO(ZydisMnemonicGetString(decoded.instruction.mnemonic));
    CHECK(requires_alignment(decoded) == c.aligned);
  }
}

}  // namespace aftercheck::x86
