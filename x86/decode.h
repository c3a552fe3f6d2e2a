// Zydis, set up once. All of it may be used from any thread.
#pragma once

#include <Zydis/Zydis.h>

#include <array>
#include <cstdint>
#include <span>

namespace aftercheck::x86 {

enum class Mode : uint8_t { bits16, bits32, bits64 };
enum class Detail : uint8_t {
  all,
  minimal,  // mnemonic, length and immediate values: about twice as fast
};

// For those who decode in another mode or detail than the functions below, or so often that they keep a
// decoder.
ZydisDecoder make_decoder(Mode mode, Detail detail = Detail::all);
// The 64-bit decoder of the functions below.
const ZydisDecoder& decoder();

// The 64-bit instruction at the start of `code`. False when the bytes are none, or not all of it.
bool decode(std::span<const uint8_t> code, ZydisDecodedInstruction& instruction);

struct WithOperands {
  ZydisDecodedInstruction instruction;
  std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> operands;  // instruction.operand_count of them
};
bool decode(std::span<const uint8_t> code, WithOperands& decoded);

// Has it a REP, REPE or REPNE prefix that counts?
bool is_repeated(const ZydisDecodedInstruction& instruction);

}  // namespace aftercheck::x86
