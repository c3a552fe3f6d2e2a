#include "tests/machine/form_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <span>

namespace aftercheck {

std::string form_name(const x86::WithOperands& decoded, Repeats repeats) {
  std::string name = ZydisMnemonicGetString(decoded.instruction.mnemonic);
  for (const auto& operand : std::span(decoded.operands.data(), decoded.instruction.operand_count_visible)) {
    switch (operand.type) {
      case ZYDIS_OPERAND_TYPE_REGISTER:
        name += fmt::format(" {}", ZydisRegisterClassGetWidth(ZYDIS_MACHINE_MODE_LONG_64,
                                                              ZydisRegisterGetClass(operand.reg.value)));
        name +=
            operand.encoding == ZYDIS_OPERAND_ENCODING_NONE ? ZydisRegisterGetString(operand.reg.value) : "r";
        break;
      case ZYDIS_OPERAND_TYPE_MEMORY:
        name += fmt::format(" m{}", operand.size);
        break;
      default:
        name += fmt::format(" imm{}", operand.size);
    }
  }
  const bool repne = (decoded.instruction.attributes & ZYDIS_ATTRIB_HAS_REPNE) != 0;
  if (x86::is_repeated(decoded.instruction))
    name += repeats == Repeats::alike ? " repeated" : repne ? " repne" : " rep";
  if ((decoded.instruction.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0) name += " locked";
  return fmt::format("{} ({:x}/{})", name, decoded.instruction.opcode,
                     static_cast<unsigned>(decoded.instruction.opcode_map));
}

bool is_portable(ZydisISAExt extension) {
  static constexpr ZydisISAExt kPortable[] = {
      ZYDIS_ISA_EXT_AES,  ZYDIS_ISA_EXT_BASE,      ZYDIS_ISA_EXT_CLFSH, ZYDIS_ISA_EXT_LONGMODE,
      ZYDIS_ISA_EXT_MMX,  ZYDIS_ISA_EXT_PCLMULQDQ, ZYDIS_ISA_EXT_PAUSE, ZYDIS_ISA_EXT_SSE,
      ZYDIS_ISA_EXT_SSE2, ZYDIS_ISA_EXT_SSE3,      ZYDIS_ISA_EXT_SSE4,  ZYDIS_ISA_EXT_SSSE3,
      ZYDIS_ISA_EXT_X87,
  };
  return std::ranges::find(kPortable, extension) != std::end(kPortable);
}

bool is_more_in_v3(ZydisISAExt extension) {
  static constexpr ZydisISAExt kMore[] = {
      ZYDIS_ISA_EXT_AVX,   ZYDIS_ISA_EXT_AVX2,  ZYDIS_ISA_EXT_AVX2GATHER, ZYDIS_ISA_EXT_AVXAES,
      ZYDIS_ISA_EXT_BMI1,  ZYDIS_ISA_EXT_BMI2,  ZYDIS_ISA_EXT_F16C,       ZYDIS_ISA_EXT_FMA,
      ZYDIS_ISA_EXT_LZCNT, ZYDIS_ISA_EXT_MOVBE,
  };
  return std::ranges::find(kMore, extension) != std::end(kMore);
}

bool is_prefix(unsigned opcode) {
  constexpr unsigned kOthers[] = {0x0f, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3};
  return (opcode & 0xf0) == 0x40 || std::ranges::find(kOthers, opcode) != std::end(kOthers);
}

}  // namespace aftercheck
