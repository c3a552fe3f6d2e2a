#include "tests/machine/random_forms.h"

#include <map>
#include <span>

#include "base/error.h"
#include "machine/instruction_standing.h"
#include "machine/memory_accesses.h"
#include "tests/machine/form_names.h"

namespace aftercheck {
namespace {

bool is_of(CpuModelKind model, const ZydisDecodedInstruction& i) {
  const bool v3 = model == CpuModelKind::v3;
  if (v3 && is_more_in_v3(i.meta.isa_ext))
    return i.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY || i.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
  return i.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && is_portable(i.meta.isa_ext);
}

bool left_out(CpuModelKind model, const ZydisDecodedInstruction& i, std::span<const uint8_t> code) {
  // What is trapped is left out by the former: of v3 XGETBV, XSAVE and XRSTOR, which KVM's guest executes and
  // a recorder replaces there.
  if (!is_of(model, i) || standing(i, code, model) != Standing::plain ||
      i.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
    return true;
  switch (i.mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
    case ZYDIS_MNEMONIC_GETSEC:
    // With operands of the program's choice.
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_FLDCW:
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
      return true;
    default:
      return i.meta.category == ZYDIS_CATEGORY_INTERRUPT;
  }
}

Need need_of(const x86::WithOperands& decoded) {
  const ZydisDecodedInstruction& i = decoded.instruction;
  if (i.meta.category == ZYDIS_CATEGORY_STRINGOP) return Need::string;
  switch (i.mnemonic) {
    case ZYDIS_MNEMONIC_XLAT:
      return Need::table;
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
      return Need::mask_store;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
      return decoded.operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER ? Need::bit_offset : Need::nothing;
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_LEAVE:
      return Need::frame;
    case ZYDIS_MNEMONIC_VGATHERDPS:
    case ZYDIS_MNEMONIC_VGATHERDPD:
    case ZYDIS_MNEMONIC_VPGATHERDD:
    case ZYDIS_MNEMONIC_VPGATHERDQ:
      return Need::gather;
    case ZYDIS_MNEMONIC_VGATHERQPS:
    case ZYDIS_MNEMONIC_VGATHERQPD:
    case ZYDIS_MNEMONIC_VPGATHERQD:
    case ZYDIS_MNEMONIC_VPGATHERQQ:
      return Need::gather_wide;
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
      return Need::x87_pointers;
    default:
      return Need::nothing;
  }
}

FormClass class_of(const x86::WithOperands& decoded) {
  const ZydisDecodedInstruction& i = decoded.instruction;
  if (i.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) return FormClass::vex;
  if (i.meta.category == ZYDIS_CATEGORY_STRINGOP) return FormClass::string;
  if (i.meta.isa_ext == ZYDIS_ISA_EXT_X87) return FormClass::x87;
  for (const auto& operand : std::span(decoded.operands.data(), i.operand_count)) {
    if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER) continue;
    const ZydisRegisterClass kind = ZydisRegisterGetClass(operand.reg.value);
    if (kind == ZYDIS_REGCLASS_MMX) return FormClass::mmx;
    if (kind == ZYDIS_REGCLASS_XMM) return FormClass::sse;
  }
  return i.meta.isa_ext == ZYDIS_ISA_EXT_MMX ? FormClass::mmx : FormClass::integer;
}

void describe_memory(const x86::WithOperands& decoded, Form& form) {
  const ZydisDecodedInstruction& i = decoded.instruction;
  for (const auto& operand : std::span(decoded.operands.data(), i.operand_count)) {
    const bool encoded = operand.encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ||
                         operand.encoding == ZYDIS_OPERAND_ENCODING_DISP16_32_64;
    if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY || !encoded) continue;
    form.memory = true;
    form.accesses = operand.mem.type == ZYDIS_MEMOP_TYPE_MEM && i.mnemonic != ZYDIS_MNEMONIC_NOP &&
                    i.meta.category != ZYDIS_CATEGORY_PREFETCH;
    form.size = operand.size / 8;
    if (x86::requires_alignment(decoded) || i.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B)
      form.alignment = static_cast<uint8_t>(form.size);
  }
}

using Found = std::map<std::string, Form>;

struct Shape {
  Code prefixes, escape;
  bool wide;
  uint8_t opcode, modrm;
};

// What the encoding has no part in.
void describe(const x86::WithOperands& decoded, const std::string& name, Form& form) {
  form.name = name;
  form.modrm = (decoded.instruction.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
  form.repeated = x86::is_repeated(decoded.instruction);
  form.need = need_of(decoded);
  form.kind = class_of(decoded);
  describe_memory(decoded, form);
}

void add(Found& found, CpuModelKind model, const Shape& shape) {
  Code code = shape.prefixes;
  if (shape.wide) code.push_back(0x48);
  code.insert(code.end(), shape.escape.begin(), shape.escape.end());
  code.push_back(shape.opcode);
  code.push_back(shape.modrm);
  code.resize(kLongestInstruction);
  x86::WithOperands decoded;
  if (!x86::decode(code, decoded) || left_out(model, decoded.instruction, code)) return;
  const ZydisDecodedInstruction& i = decoded.instruction;
  // Undefined (SDM vol. 2, BSWAP).
  if (i.mnemonic == ZYDIS_MNEMONIC_BSWAP && i.operand_width == 16) return;
  // A prefix that does not count makes no form of its own.
  for (const auto& prefix : std::span(i.raw.prefixes, i.raw.prefix_count))
    if (prefix.type == ZYDIS_PREFIX_TYPE_IGNORED) return;
  const std::string name = form_name(decoded, Repeats::apart);
  Form& form = found[name];
  if (form.name.empty()) {
    describe(decoded, name, form);
    form.prefixes = shape.prefixes;
    form.escape = shape.escape;
    form.opcode = shape.opcode;
    form.wide = shape.wide;
  }
  // Another encoding of the same would mix their ModRMs.
  if (form.opcode != shape.opcode || form.prefixes != shape.prefixes || form.wide != shape.wide) return;
  form.regs |= static_cast<uint8_t>(1U << (shape.modrm >> 3 & 7));
  if (!form.memory) form.rms |= static_cast<uint8_t>(1U << (shape.modrm & 7));
}

void add_vex(Found& found, uint8_t map, uint8_t prefix, unsigned choice, uint8_t opcode, uint8_t modrm) {
  const bool vsib = (modrm & 0xc7) == 4;
  // Inverted: none, and for a gather one that is neither index nor destination.
  constexpr unsigned kNoSource = 15, kSource = 10;
  const unsigned w = choice & 1, length = choice >> 1;
  Code code = {0xc4, static_cast<uint8_t>(0xe0 | map),
               static_cast<uint8_t>(w << 7 | (vsib ? kSource : kNoSource) << 3 | length << 2 | prefix),
               opcode, modrm};
  if (vsib) code.push_back(0x96);  // [rsi + 4 * xmm2]
  code.resize(kLongestInstruction);
  x86::WithOperands decoded;
  if (!x86::decode(code, decoded) || left_out(CpuModelKind::v3, decoded.instruction, code)) return;
  if (vsib != is_gather(code)) return;
  const std::string name = form_name(decoded, Repeats::apart);
  Form& form = found[name];
  if (form.name.empty()) {
    describe(decoded, name, form);
    form.opcode = opcode;
    form.vex = {.map = map, .prefix = prefix};
    for (const auto& operand : std::span(decoded.operands.data(), decoded.instruction.operand_count))
      if (operand.encoding == ZYDIS_OPERAND_ENCODING_NDSNDD) form.vex->source = true;
    form.rms = 0xff;
  }
  if (form.opcode != opcode || !form.vex || form.vex->map != map || form.vex->prefix != prefix) return;
  form.vex->choices |= static_cast<uint8_t>(1U << choice);
  form.regs |= static_cast<uint8_t>(1U << (modrm >> 3 & 7));
}

void add_vex(Found& found) {
  for (uint8_t map = 1; map <= 3; ++map)
    for (unsigned opcode = 0; opcode < 256; ++opcode)
      for (uint8_t prefix = 0; prefix < 4; ++prefix)
        for (unsigned choice = 0; choice < 4; ++choice)
          for (unsigned reg = 0; reg < 8; ++reg)
            // A register, memory, memory by way of a SIB byte, which gathers need.
            for (const unsigned operand : {0xc1U, 0x06U, 0x04U})
              add_vex(found, map, prefix, choice, static_cast<uint8_t>(opcode),
                      static_cast<uint8_t>(operand | reg << 3));
}

}  // namespace

size_t FormTable::count() const {
  size_t all = 0;
  for (const auto& forms : by_class) all += forms.size();
  return all;
}

FormTable all_forms(CpuModelKind model) {
  if (model == CpuModelKind::host)
    fail(ErrorKind::internal, "random programs are of instructions that a model of our own has, not of {}",
         name(model));
  const Code maps[] = {{}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};
  const Code prefixes[] = {{}, {0x66}, {0xf2}, {0xf3}, {0xf0}, {0x66, 0xf0}, {0x66, 0xf2}, {0x66, 0xf3}};
  Found found;
  for (const Code& map : maps)
    for (unsigned opcode = 0; opcode < 256; ++opcode) {
      if (map.empty() && is_prefix(opcode)) continue;
      for (const Code& prefix : prefixes)
        for (const bool wide : {false, true})
          for (unsigned reg = 0; reg < 8; ++reg)
            for (unsigned low = 0; low < 9; ++low)
              add(found, model,
                  {prefix, map, wide, static_cast<uint8_t>(opcode),
                   static_cast<uint8_t>((low == 8 ? 0x06 : 0xc0 | low) | reg << 3)});
    }
  if (model == CpuModelKind::v3) add_vex(found);
  FormTable table;
  table.model = model;
  for (auto& [name, form] : found) table.by_class[static_cast<size_t>(form.kind)].push_back(std::move(form));
  return table;
}

}  // namespace aftercheck
