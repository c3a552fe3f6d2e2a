#include "machine/translated/accesses.h"

#include <algorithm>

#include "machine/translated/guest_code.h"
#include "x86/decode.h"

namespace aftercheck::translated {
namespace {

std::optional<AccessShape> shape_of(const x86::WithOperands& full, const ZydisDecodedOperand& operand) {
  using Place = AccessShape::Place;
  const ZydisDecodedInstruction& decoded = full.instruction;
  AccessShape shape;
  shape.size = static_cast<uint16_t>(operand.size / 8U);
  shape.store = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
  if (decoded.mnemonic == ZYDIS_MNEMONIC_LEAVE) {
    shape.place = Place::frame;
    return shape;
  }
  if (operand.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && operand.mem.base == ZYDIS_REGISTER_RSP) {
    shape.place = Place::stack;
    if (shape.store) shape.displacement = static_cast<int8_t>(-static_cast<int>(shape.size));
    return shape;
  }
  const bool plain = operand.visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT &&
                     operand.mem.type == ZYDIS_MEMOP_TYPE_MEM && decoded.raw.modrm.offset != 0 &&
                     decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
  // POP counts with the RSP that it leaves.
  if (!plain || decoded.mnemonic == ZYDIS_MNEMONIC_POP || x86::is_bit_string(full)) return std::nullopt;
  return shape;
}

}  // namespace

std::optional<AccessShapes> access_shapes(const Instruction& instruction) {
  x86::WithOperands full;
  if (!x86::decode(instruction.code(), full) || x86::is_repeated(full.instruction) ||
      full.instruction.mnemonic == ZYDIS_MNEMONIC_ENTER)
    return std::nullopt;
  AccessShapes found;
  for (size_t i = 0; i < full.instruction.operand_count; ++i) {
    const ZydisDecodedOperand& operand = full.operands[i];
    if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY || operand.mem.type == ZYDIS_MEMOP_TYPE_AGEN) continue;
    const auto shape = shape_of(full, operand);
    if (!shape || found.count == found.shapes.size()) return std::nullopt;
    found.shapes[found.count++] = *shape;
  }
  if (found.count == 2 && found.shapes[0].store && !found.shapes[1].store)
    std::swap(found.shapes[0], found.shapes[1]);
  return found;
}

}  // namespace aftercheck::translated
