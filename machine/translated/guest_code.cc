#include "machine/translated/guest_code.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/guarded_copy.h"
#include "machine/memory_accesses.h"
#include "x86/decode.h"

namespace aftercheck::translated {
namespace {

Special special_of(Standing standing) {
  switch (standing) {
    case Standing::trapped:
      return Special::trapped;
    case Standing::cpuid:
      return Special::cpuid;
    case Standing::invalid_opcode:
      return Special::invalid_opcode;
    case Standing::general_protection:
      return Special::general_protection;
    case Standing::debug:
      return Special::debug;
    case Standing::breakpoint:
      return Special::breakpoint;
    case Standing::kernel_tables:
    case Standing::plain:
      break;
  }
  return Special::unsupported;
}

// They store FIP, or all of the FPU (SDM vol. 1, 8.1.8).
bool stores_x87_pointer(ZydisMnemonic mnemonic) {
  return mnemonic == ZYDIS_MNEMONIC_FNSTENV || mnemonic == ZYDIS_MNEMONIC_FNSAVE ||
         mnemonic == ZYDIS_MNEMONIC_FXSAVE || mnemonic == ZYDIS_MNEMONIC_FXSAVE64;
}

// UD2 also stands for trapped instructions (kTrapBytes).
bool is_undefined(ZydisMnemonic mnemonic) {
  return mnemonic == ZYDIS_MNEMONIC_UD0 || mnemonic == ZYDIS_MNEMONIC_UD1 || mnemonic == ZYDIS_MNEMONIC_UD2;
}

bool moves_flags(ZydisMnemonic mnemonic) {
  return mnemonic == ZYDIS_MNEMONIC_PUSHF || mnemonic == ZYDIS_MNEMONIC_PUSHFQ ||
         mnemonic == ZYDIS_MNEMONIC_POPF || mnemonic == ZYDIS_MNEMONIC_POPFQ;
}

void set_special(Instruction& instruction, Special special) {
  instruction.form = Form::special;
  instruction.special = special;
}

bool is_relative(const ZydisDecodedInstruction& decoded) {
  return decoded.raw.imm[0].size != 0 && decoded.raw.imm[0].is_relative != 0;
}

// AMD's processors take an operand-size prefix on a near branch at its word, Intel's ignore it: what Zydis
// decodes (SDM vol. 2, 2.2.1.6 and APM vol. 3, 1.2.2).
bool has_short_branch_prefix(const ZydisDecodedInstruction& decoded) {
  return (decoded.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) != 0 && decoded.raw.rex.W == 0;
}

void classify_branch(Instruction& instruction) {
  const ZydisDecodedInstruction& decoded = instruction.decoded;
  instruction.target = instruction.next() + static_cast<uint64_t>(decoded.raw.imm[0].value.s);
  switch (decoded.meta.category) {
    case ZYDIS_CATEGORY_COND_BR: {
      constexpr uint8_t kLoops = 0xe0;  // LOOPNE, LOOPE, LOOP, JRCXZ (SDM vol. 2, table A-2)
      instruction.form = decoded.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && decoded.opcode >= kLoops
                             ? Form::counting
                             : Form::conditional;
      break;
    }
    case ZYDIS_CATEGORY_CALL:
      instruction.form = is_relative(decoded) ? Form::call : Form::indirect_call;
      break;
    case ZYDIS_CATEGORY_RET:
      instruction.form = Form::ret;
      break;
    default:
      instruction.form = is_relative(decoded) ? Form::jump : Form::indirect_jump;
  }
  if (has_short_branch_prefix(decoded)) {
    static const bool amd = [] {
      __builtin_cpu_init();
      return __builtin_cpu_is("amd") != 0;
    }();
    if (amd) set_special(instruction, Special::unsupported);
  }
}

void classify(Instruction& instruction, CpuModelKind model) {
  const ZydisDecodedInstruction& decoded = instruction.decoded;
  instruction.form = Form::copied;
  if (const Standing is = standing(decoded, instruction.code(), model); is != Standing::plain)
    return set_special(instruction, special_of(is));
  switch (decoded.meta.category) {
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
      classify_branch(instruction);
      break;
    case ZYDIS_CATEGORY_SYSCALL:
      instruction.form = Form::system_call;
      return;
    case ZYDIS_CATEGORY_INTERRUPT:
      return set_special(instruction, decoded.mnemonic == ZYDIS_MNEMONIC_INT3 ? Special::breakpoint
                                                                              : Special::general_protection);
    default:
      break;
  }
  if (is_undefined(decoded.mnemonic)) return set_special(instruction, Special::invalid_opcode);
  if (moves_flags(decoded.mnemonic)) return set_special(instruction, Special::flags);
  if (stores_x87_pointer(decoded.mnemonic)) return set_special(instruction, Special::x87_pointer);
  if ((decoded.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS) != 0) set_special(instruction, Special::guest_gs);
}

}  // namespace

bool fuse(const Instruction& first, const Instruction& second) {
  if (first.form != Form::copied || second.form != Form::conditional || first.rip_relative()) return false;
  const ZydisDecodedInstruction& decoded = first.decoded;
  const bool in_memory = decoded.raw.modrm.offset != 0 && decoded.raw.modrm.mod != 3;
  switch (decoded.mnemonic) {
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_TEST:
      return true;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
      return !in_memory;
    default:
      return false;
  }
}

bool CodeReader::fetchable(uint64_t address) {
  if (executable_.contains(address)) return true;
  const Mapping* mapping = space_.find(address);
  if (mapping == nullptr || (mapping->prot & PROT_EXEC) == 0) return false;
  // Of a file some pages may not be there.
  const uint64_t page = page_down(address);
  uint8_t byte = 0;
  if (!guarded_copy(&byte, reinterpret_cast<const void*>(page), 1)) return false;
  executable_ = {page, page + kPageSize};
  return true;
}

bool CodeReader::lasting(uint64_t page) const {
  const Mapping* mapping = space_.find(page);
  return mapping != nullptr && mapping->backing == Backing::file && !mapping->shared &&
         mapping->number == 0 && (mapping->prot & PROT_EXEC) != 0 && (mapping->prot & PROT_WRITE) == 0;
}

uint64_t CodeReader::mapping_of(uint64_t page) const {
  const Mapping* mapping = space_.find(page);
  return mapping == nullptr ? 0 : mapping->start;
}

void CodeReader::read(uint64_t address, Instruction& instruction) {
  instruction.address = address;
  size_t size = 0;
  // At most two pages.
  while (size < instruction.bytes.size() && is_canonical(address + size) && fetchable(address + size)) {
    const size_t here =
        std::min<size_t>(instruction.bytes.size() - size, page_up(address + size + 1) - (address + size));
    std::memcpy(instruction.bytes.data() + size, reinterpret_cast<const void*>(address + size), here);
    size += here;
  }
  ZyanStatus status = ZYDIS_STATUS_NO_MORE_DATA;
  if (size != 0)
    status = ZydisDecoderDecodeInstruction(&x86::decoder(), nullptr, instruction.bytes.data(), size,
                                           &instruction.decoded);
  if (ZYAN_SUCCESS(status)) return classify(instruction, model_);
  instruction.decoded = {};
  instruction.decoded.length = 1;
  if (status != ZYDIS_STATUS_NO_MORE_DATA || size == instruction.bytes.size())
    return set_special(instruction, special_of(standing_of_undecodable(status)));
  instruction.target = address + size;
  set_special(instruction, is_canonical(address) ? Special::no_fetch : Special::general_protection);
}

}  // namespace aftercheck::translated
