#include "machine/soft/flow_tracker.h"

#include <Zydis/Zydis.h>
#include <unicorn/unicorn.h>

#include "machine/registers.h"
#include "machine/soft/fault_analysis.h"

namespace aftercheck::soft {
namespace {

ZydisDecoder make_decoder() {
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  return decoder;
}

bool is_repeated(const ZydisDecodedInstruction& instruction) {
  constexpr ZydisInstructionAttributes kRepeats =
      ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
  return (instruction.attributes & kRepeats) != 0;
}

bool is_relative(const ZydisDecodedInstruction& instruction) {
  return instruction.raw.imm[0].is_relative != 0;
}

// SDM vol. 1, appendix B: condition codes of Jcc, by the low four bits of the opcode.
bool flags_satisfy(unsigned condition, uint64_t flags) {
  const bool carry = (flags & 1) != 0, parity = (flags & 4) != 0, zero = (flags & 0x40) != 0,
             sign = (flags & 0x80) != 0, overflow = (flags & 0x800) != 0;
  bool holds = false;
  switch (condition >> 1) {
    case 0:
      holds = overflow;
      break;
    case 1:
      holds = carry;
      break;
    case 2:
      holds = zero;
      break;
    case 3:
      holds = carry || zero;
      break;
    case 4:
      holds = sign;
      break;
    case 5:
      holds = parity;
      break;
    case 6:
      holds = sign != overflow;
      break;
    default:
      holds = zero || sign != overflow;
      break;
  }
  return holds != ((condition & 1) != 0);
}

}  // namespace

FlowTracker::FlowTracker(ControlFlow& sink, uc_engine* engine, const PageTables& tables)
    : sink_(sink), engine_(engine), tables_(tables), wants_code_(sink.wants_code()) {}

void FlowTracker::stop(uint64_t rip, Stop how) {
  const bool untranslated = how == Stop::untranslated && translated_;
  if (previous_ != nullptr && how != Stop::system_call) {
    const Entry& entry = *previous_;
    const bool between_iterations = entry.kind == Kind::repeated && rip == entry.last;
    const bool inside = rip - entry.block < entry.size;
    if ((how == Stop::completed && !between_iterations) || untranslated || !inside) {
      // No block starts, so this one can't have been started again in its middle.
      transition(entry, rip, 0);
    } else if (wants_code_ && rip != entry.block) {
      sink_.executed(entry.block, rip);
    }
  } else if (previous_ != nullptr && wants_code_) {
    sink_.executed(previous_->block, previous_->block + previous_->size);
  }
  flush(rip);
  previous_ = nullptr;
  translated_ = false;
}

FlowTracker::Entry FlowTracker::decode(uint64_t address, uint32_t size) const {
  static const ZydisDecoder decoder = make_decoder();
  Entry entry;
  entry.block = address;
  entry.size = size;
  entry.last = address;
  const uint64_t end = address + size;
  ZydisDecodedInstruction instruction;
  for (uint64_t at = address; at < end; at += instruction.length) {
    const std::span<const uint8_t> code = code_at(at, tables_);
    if (code.empty() || !ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, code.data(),
                                                                    code.size(), &instruction)))
      return entry;  // it faults: nothing follows it by itself
    entry.last = at;
    ++entry.instructions;
  }
  if (entry.instructions == 0) return entry;
  const uint64_t target = end + static_cast<uint64_t>(instruction.raw.imm[0].value.s);
  switch (instruction.meta.category) {
    case ZYDIS_CATEGORY_COND_BR:
      entry.kind = target == end ? Kind::degenerate : Kind::conditional;
      entry.target = target;
      break;
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_CALL:
      entry.kind = is_relative(instruction) ? Kind::direct : Kind::indirect;
      entry.target = target;
      break;
    case ZYDIS_CATEGORY_RET:
      entry.kind = Kind::indirect;
      break;
    default:
      entry.kind = is_repeated(instruction) ? Kind::repeated : Kind::plain;
  }
  return entry;
}

// A block that writes into itself is left before the writing instruction, which is then executed as a block
// of its own (precise self-modifying code): execution has only come to `to`, it has not branched there. A
// block of one plain instruction in the middle of one that goes on behind it arises in no other way.
bool FlowTracker::restarts(const Entry& from, uint64_t to, uint32_t size) const {
  if (from.kind == Kind::plain) return true;
  const Entry there = decode(to, size);
  return there.instructions == 1 && there.kind == Kind::plain;
}

// The state is that behind the branch, which changed no flags.
bool FlowTracker::condition_holds(const Entry& from) const {
  uint64_t flags = 0, count = 0;
  uc_reg_read(engine_, UC_X86_REG_EFLAGS, &flags);
  uc_reg_read(engine_, UC_X86_REG_RCX, &count);
  std::span<const uint8_t> code = code_at(from.last, tables_);
  while (code.size() > 2 && code[0] != 0x0f && (code[0] & 0xf0) != 0x70 && (code[0] & 0xfc) != 0xe0) {
    if (code[0] == 0x67) count &= 0xffffffff;  // the address size is that of the counter
    code = code.subspan(1);
  }
  if (code.size() < 2) return false;
  const bool zero = (flags & rflags::kZero) != 0;
  switch (code[0]) {
    case 0xe0:  // LOOPNE
      return count != 0 && !zero;
    case 0xe1:  // LOOPE
      return count != 0 && zero;
    case 0xe2:  // LOOP
      return count != 0;
    case 0xe3:  // JRCXZ
      return count == 0;
    case 0x0f:
      return flags_satisfy(code[1] & 0xf, flags);
    default:
      return flags_satisfy(code[0] & 0xf, flags);
  }
}

void FlowTracker::tell_code(const Entry& from, uint64_t to) {
  // The iterations of a repeated instruction are blocks; the last one counts.
  const bool again = from.kind == Kind::repeated && to == from.last;
  const uint64_t end = again ? from.last : from.block + from.size;
  if (end != from.block) sink_.executed(from.block, end);
}

}  // namespace aftercheck::soft
