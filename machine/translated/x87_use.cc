#include "machine/translated/x87_use.h"

#include <algorithm>
#include <array>

#include "machine/translated/guest_code.h"

namespace aftercheck::translated {
namespace {

struct Prefixes {
  bool operand_size = false, repeat = false;  // 66; F2 or F3
};

// Those before the opcode, which tell forms apart (SDM vol. 2, 2.1.2).
Prefixes prefixes_of(const Instruction& instruction) {
  Prefixes there;
  const size_t count = instruction.decoded.raw.prefix_count;
  for (size_t i = 0; i < count; ++i) {
    there.operand_size |= instruction.bytes[i] == 0x66;
    there.repeat |= instruction.bytes[i] == 0xf2 || instruction.bytes[i] == 0xf3;
  }
  return there;
}

// Opcodes 0F .. (SDM vol. 2, table A-3).
bool two_byte_touches_x87(const Instruction& instruction) {
  const ZydisDecodedInstruction& decoded = instruction.decoded;
  const unsigned opcode = decoded.opcode;
  const bool in_memory = decoded.raw.modrm.mod != 3;
  const unsigned extension = decoded.raw.modrm.reg;
  switch (opcode) {
    case 0x0e:  // FEMMS
    case 0x77:  // EMMS
      return true;
    case 0xae:  // FXSAVE, FXRSTOR, XSAVE, XRSTOR, XSAVEOPT; others are LDMXCSR, STMXCSR, fences
      return in_memory && extension != 2 && extension != 3 && extension != 7;
    case 0xc7:  // XRSTORS, XSAVEC, XSAVES; others are CMPXCHG8B, RDRAND and the like
      return in_memory && extension >= 3 && extension <= 5;
    case 0x2a:  // CVTPI2PS and CVTPI2PD and their likes; with F2 or F3 there is no MMX register in them
    case 0x2c:
    case 0x2d:
      return !prefixes_of(instruction).repeat;
    case 0xd6:  // MOVDQ2Q, MOVQ2DQ; or MOVQ
      return prefixes_of(instruction).repeat;
    default:
      break;
  }
  const bool integers = (opcode >= 0x60 && opcode <= 0x7f) || opcode == 0xc4 || opcode == 0xc5 ||
                        (opcode >= 0xd0 && opcode <= 0xfe);
  if (!integers) return false;
  const Prefixes prefixes = prefixes_of(instruction);
  if (!prefixes.repeat) return !prefixes.operand_size;
  // MOVDQU, PSHUFHW, PSHUFLW, HADDPS, HSUBPS, MOVQ, ADDSUBPS, CVTDQ2PD, CVTPD2DQ, LDDQU
  constexpr std::array<unsigned, 9> kWithRepeat = {0x6f, 0x70, 0x7c, 0x7d, 0x7e, 0x7f, 0xd0, 0xe6, 0xf0};
  return std::ranges::find(kWithRepeat, opcode) == kWithRepeat.end();
}

}  // namespace

bool touches_x87(const Instruction& instruction) {
  const ZydisDecodedInstruction& decoded = instruction.decoded;
  if (decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW) return true;
  if (decoded.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY) return false;
  const unsigned opcode = decoded.opcode;
  switch (decoded.opcode_map) {
    case ZYDIS_OPCODE_MAP_DEFAULT:
      return opcode == 0x9b || (opcode >= 0xd8 && opcode <= 0xdf);  // FWAIT; ESC
    case ZYDIS_OPCODE_MAP_0F:
      return two_byte_touches_x87(instruction);
    case ZYDIS_OPCODE_MAP_0F38:  // SSSE3's: PSHUFB to PMULHRSW, PABSB to PABSD
      return (opcode <= 0x0b || (opcode >= 0x1c && opcode <= 0x1e)) && !prefixes_of(instruction).operand_size;
    case ZYDIS_OPCODE_MAP_0F3A:  // PALIGNR
      return opcode == 0x0f && !prefixes_of(instruction).operand_size;
    default:
      return false;
  }
}

}  // namespace aftercheck::translated
