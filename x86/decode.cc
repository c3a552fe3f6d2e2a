#include "x86/decode.h"

#include <algorithm>

namespace aftercheck::x86 {

ZydisDecoder make_decoder(Mode mode, Detail detail) {
  struct Setting {
    ZydisMachineMode mode;
    ZydisStackWidth stack;
  };
  constexpr Setting kSettings[] = {{ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
                                   {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
                                   {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64}};
  const Setting setting = kSettings[static_cast<size_t>(mode)];
  ZydisDecoder decoder;
  // Neither can fail: these modes, widths and settings are all that is checked.
  ZydisDecoderInit(&decoder, setting.mode, setting.stack);
  if (detail == Detail::minimal) ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_MINIMAL, ZYAN_TRUE);
  return decoder;
}

const ZydisDecoder& decoder() {
  static const ZydisDecoder decoder = make_decoder(Mode::bits64);
  return decoder;
}

bool decode(std::span<const uint8_t> code, ZydisDecodedInstruction& instruction) {
  return ZYAN_SUCCESS(
      ZydisDecoderDecodeInstruction(&decoder(), nullptr, code.data(), code.size(), &instruction));
}

bool decode(std::span<const uint8_t> code, WithOperands& decoded) {
  return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder(), code.data(), code.size(), &decoded.instruction,
                                             decoded.operands.data()));
}

std::string disassemble(std::span<const uint8_t> code, uint64_t address) {
  WithOperands decoded;
  ZydisFormatter formatter;
  std::array<char, 256> text{};
  if (!decode(code, decoded) || !ZYAN_SUCCESS(ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL)) ||
      !ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&formatter, &decoded.instruction, decoded.operands.data(),
                                                    decoded.instruction.operand_count, text.data(),
                                                    text.size(), address, nullptr)))
    return "an undecodable instruction";
  return text.data();
}

bool is_repeated(const ZydisDecodedInstruction& instruction) {
  constexpr ZydisInstructionAttributes kRepeats =
      ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
  return (instruction.attributes & kRepeats) != 0;
}

bool is_bit_string(const WithOperands& decoded) {
  switch (decoded.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTC:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTS:
      return decoded.operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
    default:
      return false;
  }
}

bool requires_alignment(const WithOperands& decoded) {
  const ZydisDecodedInstruction& instruction = decoded.instruction;
  // To Zydis those with MMX registers are of no class.
  const bool to_mmx =
      instruction.mnemonic == ZYDIS_MNEMONIC_CVTPD2PI || instruction.mnemonic == ZYDIS_MNEMONIC_CVTTPD2PI;
  if (instruction.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
    return instruction.meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1;
  if (instruction.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
      (instruction.meta.exception_class == ZYDIS_EXCEPTION_CLASS_NONE && !to_mmx))
    return false;
  constexpr std::array kNeedNone = {
      ZYDIS_MNEMONIC_MOVUPS,    ZYDIS_MNEMONIC_MOVUPD,    ZYDIS_MNEMONIC_MOVDQU,
      ZYDIS_MNEMONIC_LDDQU,     ZYDIS_MNEMONIC_PCMPESTRI, ZYDIS_MNEMONIC_PCMPESTRM,
      ZYDIS_MNEMONIC_PCMPISTRI, ZYDIS_MNEMONIC_PCMPISTRM, ZYDIS_MNEMONIC_MASKMOVDQU};
  if (std::find(kNeedNone.begin(), kNeedNone.end(), instruction.mnemonic) != kNeedNone.end()) return false;
  const std::span operands(decoded.operands.data(), instruction.operand_count);
  return std::any_of(operands.begin(), operands.end(), [](const ZydisDecodedOperand& operand) {
    return operand.type == ZYDIS_OPERAND_TYPE_MEMORY && operand.size == 128;
  });
}

}  // namespace aftercheck::x86
