#include "machine/translated/stores.h"

#include "machine/translated/guest_code.h"
#include "x86/decode.h"

namespace aftercheck::translated {
namespace {

constexpr unsigned kWrites = ZYDIS_OPERAND_ACTION_MASK_WRITE;

bool has_size(unsigned bytes) {
  return bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8 || bytes == 10 || bytes == 16;
}

}  // namespace

StoreShape store_shape(const Instruction& instruction) {
  constexpr StoreShape kOther{StoreKind::other, 0};
  x86::WithOperands full;
  if (!x86::decode(instruction.code(), full)) return kOther;
  const ZydisDecodedInstruction& decoded = full.instruction;
  if (decoded.mnemonic == ZYDIS_MNEMONIC_CALL) return {StoreKind::push, 8};
  if (decoded.mnemonic == ZYDIS_MNEMONIC_PUSH)
    return {StoreKind::push, static_cast<uint8_t>(decoded.operand_width == 16 ? 2 : 8)};
  const ZydisDecodedOperand* stored = nullptr;
  for (size_t i = 0; i < decoded.operand_count; ++i) {
    const ZydisDecodedOperand& operand = full.operands[i];
    if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY || operand.mem.type == ZYDIS_MEMOP_TYPE_AGEN) continue;
    if ((operand.actions & kWrites) == 0) continue;
    if (stored != nullptr) return kOther;
    stored = &operand;
  }
  if (stored == nullptr) return {};
  // POP counts with the RSP that it leaves.
  if (stored->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT || decoded.raw.modrm.offset == 0 ||
      decoded.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || decoded.mnemonic == ZYDIS_MNEMONIC_POP ||
      x86::is_bit_string(full) || x86::is_repeated(decoded))
    return kOther;
  const unsigned bytes = stored->size / 8U;
  return has_size(bytes) ? StoreShape{StoreKind::operand, static_cast<uint8_t>(bytes)} : kOther;
}

}  // namespace aftercheck::translated
