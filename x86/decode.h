// Zydis, set up once. All of it may be used from any thread.
#pragma once

#include <Zydis/Zydis.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>

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

// "vaddps ymm0, ymm1, ymm2" for messages.
std::string disassemble(std::span<const uint8_t> code, uint64_t address);

// Has it a REP, REPE or REPNE prefix that counts?
bool is_repeated(const ZydisDecodedInstruction& instruction);

// BT, BTC, BTR or BTS with a register for bit offset: in memory they reach beyond their operand (SDM vol. 2,
// BT).
bool is_bit_string(const WithOperands& decoded);

// Has it a memory operand of 16 bytes (or, VEX-encoded, 32) that raises #GP unless it is aligned? True of
// legacy SSE with few exceptions, and of few VEX-encoded instructions (SDM vol. 1, 10.8.4 and 12.10.3 (string
// comparisons); vol. 2, 2.4, exception types 1, 2 and 4). CMPXCHG16B, FXSAVE and FXRSTOR, which check by
// themselves, are not meant.
bool requires_alignment(const WithOperands& decoded);

}  // namespace aftercheck::x86
