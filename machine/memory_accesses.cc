#include "machine/memory_accesses.h"

#include <algorithm>
#include <array>

#include "x86/decode.h"

namespace aftercheck {
namespace {

using Decoded = x86::WithOperands;

ZydisRegisterContext context_of(const Registers& r) {
  ZydisRegisterContext context{};
  const std::array<uint64_t, 16> values = {r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi,
                                           r.r8,  r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15};
  for (unsigned i = 0; i < values.size(); ++i) {
    context.values[ZYDIS_REGISTER_RAX + i] = values[i];
    context.values[ZYDIS_REGISTER_EAX + i] = static_cast<uint32_t>(values[i]);
  }
  return context;
}

uint64_t value_of(ZydisRegister reg, const ZydisRegisterContext& context) {
  const ZydisRegister enclosing = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
  return context.values[enclosing];
}

uint64_t bit_string_displacement(const Decoded& decoded, const ZydisRegisterContext& context) {
  if (!x86::is_bit_string(decoded)) return 0;
  const ZydisDecodedOperand& offset = decoded.operands[1];
  auto bits = static_cast<int64_t>(value_of(offset.reg.value, context));
  if (offset.size == 32) bits = static_cast<int32_t>(bits);
  if (offset.size == 16) bits = static_cast<int16_t>(bits);
  const int64_t unit = offset.size;
  const int64_t units = (bits >= 0 ? bits : bits - (unit - 1)) / unit;
  return static_cast<uint64_t>(units * (unit / 8));
}

bool is_stack(const ZydisDecodedOperand& operand) {
  return operand.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && operand.mem.base == ZYDIS_REGISTER_RSP;
}

// PUSH and CALL store below RSP; ENTER's frame pointer too. POP [RSP+x] counts from the RSP after it.
uint64_t stack_displacement(const Decoded& decoded, const ZydisDecodedOperand& operand) {
  const bool hidden_stack = is_stack(operand);
  const bool writes = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
  const uint64_t size = operand.size / 8U;
  if (hidden_stack && writes) return -size;
  if (!hidden_stack && writes && decoded.instruction.mnemonic == ZYDIS_MNEMONIC_POP &&
      operand.mem.base == ZYDIS_REGISTER_RSP)
    return size;
  return 0;
}

// It pushes the frame pointer, the frame pointers that it copies, each after it has been read, and the new
// one; then it looks at where the stack pointer will be (SDM vol. 2, ENTER).
std::vector<MemoryAccess> enter_accesses(const Decoded& decoded, const Registers& registers) {
  constexpr uint64_t kLevels = 32;
  const uint64_t pointer = decoded.instruction.operand_width / 8U;
  const uint64_t frame = decoded.operands[0].imm.value.u, level = decoded.operands[1].imm.value.u % kLevels;
  std::vector<MemoryAccess> result;
  uint64_t top = registers.rsp;
  const auto push = [&] { result.push_back({top -= pointer, pointer, Access::write, true}); };
  push();
  for (uint64_t i = 1; i < level; ++i) {
    result.push_back({registers.rbp - pointer * i, pointer, Access::read, true});
    push();
  }
  if (level != 0) push();
  result.push_back({top - frame, 1, Access::write, true});
  return result;
}

bool does_nothing(const Decoded& decoded, const Registers& registers) {
  if (!x86::is_repeated(decoded.instruction)) return false;
  return decoded.instruction.address_width == 32 ? static_cast<uint32_t>(registers.rcx) == 0
                                                 : registers.rcx == 0;
}

// --- vector registers ---

constexpr size_t kVectorBytes = 32;
using Vector = std::array<std::byte, kVectorBytes>;

Vector vector_of(ZydisRegister reg, const FpuState& fpu) {
  const auto number = static_cast<size_t>(ZydisRegisterGetId(reg)) % 16;
  Vector value;
  std::copy_n(&fpu.fxsave[xsave::kXmm0 + 16 * number], 16, value.begin());
  std::copy_n(&fpu.upper[16 * number], 16, value.begin() + 16);
  return value;
}

// Elements with a clear mask are not touched; it is the highest bit of each.
bool chosen(const Vector& mask, size_t element, size_t size) {
  return (std::to_integer<unsigned>(mask[element * size + size - 1]) & 0x80) != 0;
}

uint64_t segment_base(const ZydisDecodedOperand& operand, const Registers& registers) {
  if (operand.mem.segment == ZYDIS_REGISTER_FS) return registers.fs_base;
  return operand.mem.segment == ZYDIS_REGISTER_GS ? registers.gs_base : 0;
}

// The operand of a gather: base, and in a vector register an index for each element. Operands are
// destination, memory, mask.
void add_gathered(const Decoded& decoded, const ZydisDecodedOperand& operand, const Registers& registers,
                  const ZydisRegisterContext& context, const FpuState& fpu,
                  std::vector<MemoryAccess>& result) {
  const ZydisMnemonic mnemonic = decoded.instruction.mnemonic;
  const bool wide_index = mnemonic == ZYDIS_MNEMONIC_VPGATHERQD || mnemonic == ZYDIS_MNEMONIC_VPGATHERQQ ||
                          mnemonic == ZYDIS_MNEMONIC_VGATHERQPS || mnemonic == ZYDIS_MNEMONIC_VGATHERQPD;
  const bool wide = mnemonic == ZYDIS_MNEMONIC_VPGATHERDQ || mnemonic == ZYDIS_MNEMONIC_VPGATHERQQ ||
                    mnemonic == ZYDIS_MNEMONIC_VGATHERDPD || mnemonic == ZYDIS_MNEMONIC_VGATHERQPD;
  const size_t size = wide ? 8 : 4, index_size = wide_index ? 8 : 4;
  const size_t bytes = decoded.instruction.avx.vector_length / 8U;
  const size_t count = std::min(bytes / size, bytes / index_size);
  const Vector mask = vector_of(decoded.operands[2].reg.value, fpu);
  const Vector indices = vector_of(operand.mem.index, fpu);
  const uint64_t base = operand.mem.base == ZYDIS_REGISTER_NONE ? 0 : value_of(operand.mem.base, context);
  for (size_t i = 0; i < count; ++i) {
    if (!chosen(mask, i, size)) continue;
    int64_t index = 0;
    std::copy_n(&indices[i * index_size], index_size, reinterpret_cast<std::byte*>(&index));
    if (!wide_index) index = static_cast<int32_t>(index);
    uint64_t address = base + static_cast<uint64_t>(index) * operand.mem.scale +
                       static_cast<uint64_t>(operand.mem.disp.value);
    if (decoded.instruction.address_width == 32) address = static_cast<uint32_t>(address);
    result.push_back({address + segment_base(operand, registers), size, Access::read});
  }
}

// The size of an element that a mask in a vector register chooses, 0 where nothing does.
size_t masked_element(ZydisMnemonic mnemonic) {
  switch (mnemonic) {
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
      return 4;
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
      return 8;
    default:
      return 0;
  }
}

// Those that its mask, the second operand, chooses of `whole`.
void add_masked(const Decoded& decoded, const MemoryAccess& whole, const FpuState& fpu,
                std::vector<MemoryAccess>& result) {
  const size_t size = masked_element(decoded.instruction.mnemonic);
  const Vector mask = vector_of(decoded.operands[1].reg.value, fpu);
  for (size_t i = 0; i < whole.size / size; ++i) {
    if (!chosen(mask, i, size)) continue;
    MemoryAccess element = whole;
    element.address += i * size;
    element.size = size;
    result.push_back(element);
  }
}

}  // namespace

std::optional<std::vector<MemoryAccess>> memory_accesses(std::span<const uint8_t> code,
                                                         const Registers& registers, const FpuState* fpu) {
  std::vector<MemoryAccess> result;
  Decoded decoded;
  if (!x86::decode(code, decoded)) return std::nullopt;
  if (does_nothing(decoded, registers)) return result;
  const ZydisRegisterContext context = context_of(registers);
  const auto first = decoded.operands.begin();
  for (const auto& operand : std::span(first, first + decoded.instruction.operand_count)) {
    if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY) continue;
    if (operand.mem.type == ZYDIS_MEMOP_TYPE_VSIB && fpu != nullptr)
      add_gathered(decoded, operand, registers, context, *fpu, result);
    if (operand.mem.type != ZYDIS_MEMOP_TYPE_MEM) continue;
    uint64_t address = 0;
    if (decoded.instruction.mnemonic == ZYDIS_MNEMONIC_LEAVE)
      address = registers.rbp;
    else if (is_stack(operand))
      address = registers.rsp;  // all of it, whatever the address size (SDM vol. 1, 6.2.5)
    else if (!ZYAN_SUCCESS(ZydisCalcAbsoluteAddressEx(&decoded.instruction, &operand, registers.rip, &context,
                                                      &address)))
      continue;
    address += segment_base(operand, registers);
    address += stack_displacement(decoded, operand);
    address += bit_string_displacement(decoded, context);
    if (decoded.instruction.mnemonic == ZYDIS_MNEMONIC_XLAT) address += registers.rax & 0xff;
    const bool writes = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    const MemoryAccess access{address, operand.size / 8U, writes ? Access::write : Access::read,
                              operand.mem.segment == ZYDIS_REGISTER_SS};
    if (fpu != nullptr && masked_element(decoded.instruction.mnemonic) != 0)
      add_masked(decoded, access, *fpu, result);
    else
      result.push_back(access);
  }
  if (decoded.instruction.mnemonic == ZYDIS_MNEMONIC_ENTER) return enter_accesses(decoded, registers);
  std::stable_partition(result.begin(), result.end(),
                        [](const MemoryAccess& a) { return a.access == Access::read; });
  return result;
}

bool is_xsave_or_hypercall(std::span<const uint8_t> code) {
  constexpr std::array kCategories = {ZYDIS_CATEGORY_XSAVE, ZYDIS_CATEGORY_XSAVEOPT, ZYDIS_CATEGORY_VTX};
  ZydisDecodedInstruction instruction;
  return x86::decode(code, instruction) &&
         (instruction.mnemonic == ZYDIS_MNEMONIC_VMMCALL ||
          std::find(kCategories.begin(), kCategories.end(), instruction.meta.category) != kCategories.end());
}

bool is_gather(std::span<const uint8_t> code) {
  ZydisDecodedInstruction instruction;
  return x86::decode(code, instruction) && instruction.meta.isa_ext == ZYDIS_ISA_EXT_AVX2GATHER;
}

std::optional<PortAccess> port_access(std::span<const uint8_t> code) {
  ZydisDecodedInstruction instruction;
  if (!x86::decode(code, instruction)) return std::nullopt;
  const bool string = instruction.meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
  if (!string && instruction.meta.category != ZYDIS_CATEGORY_IO) return std::nullopt;
  // SDM vol. 2: the lowest bit of the opcode tells bytes from words; there are no quadwords. The second tells
  // IN from OUT.
  const uint64_t word = instruction.operand_width == 16 ? 2 : 4;
  return PortAccess{.length = instruction.length,
                    .size = (instruction.opcode & 1) == 0 ? 1 : word,
                    .out = (instruction.opcode & 2) != 0,
                    .string = string,
                    .repeated = x86::is_repeated(instruction),
                    .wide = instruction.address_width == 64};
}

bool protection_fault(std::span<const uint8_t> code, const Registers& registers, const FpuState* fpu) {
  constexpr std::array kNeverUndefined = {ZYDIS_MNEMONIC_INT,       ZYDIS_MNEMONIC_LDMXCSR,
                                          ZYDIS_MNEMONIC_VLDMXCSR,  ZYDIS_MNEMONIC_FXRSTOR,
                                          ZYDIS_MNEMONIC_FXRSTOR64, ZYDIS_MNEMONIC_CMPXCHG16B};
  Decoded decoded;
  // Other encodings, and UD0 and UD1, are #UD whatever their operands are where the processor lacks them.
  const auto is_known = [fpu](ZydisInstructionEncoding encoding) {
    return encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
           (fpu != nullptr && encoding == ZYDIS_INSTRUCTION_ENCODING_VEX);
  };
  if (!x86::decode(code, decoded) || !is_known(decoded.instruction.encoding) ||
      decoded.instruction.mnemonic == ZYDIS_MNEMONIC_UD0 ||
      decoded.instruction.mnemonic == ZYDIS_MNEMONIC_UD1)
    return false;
  if (std::find(kNeverUndefined.begin(), kNeverUndefined.end(), decoded.instruction.mnemonic) !=
      kNeverUndefined.end())
    return true;
  const auto accesses = memory_accesses(code, registers, fpu);
  if (!accesses) return false;
  const bool aligned = x86::requires_alignment(decoded);
  return std::any_of(accesses->begin(), accesses->end(), [aligned](const MemoryAccess& access) {
    return !is_canonical(access.address) ||
           (aligned && access.size >= 16 && access.address % access.size != 0);
  });
}

}  // namespace aftercheck
