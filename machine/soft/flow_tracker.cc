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

const FlowTracker::Entry FlowTracker::kNowhere{.block = kNone, .kind = Kind::nowhere};

void FlowTracker::translated(uint64_t address) {
  Entry& entry = entries_[slot(address)];
  if (previous_ == &entry) {
    spare_ = entry;
    previous_ = &spare_;
  }
  entry.block = kNone;
  translated_ = true;
}

void FlowTracker::slow_block(uint64_t address, uint32_t size) {
  translated_ = false;
  const Entry& from = *previous_;
  Entry& entry = entries_[slot(address)];
  if (from.kind == Kind::indirect && !wants_code_ && address + size - from.block > from.last) [[likely]] {
    if (count_ != 0) flush(address);
    sink_.indirect(address);
  } else {
    transition(from, address, size);
  }
  if (entry.block != address || entry.size != size) [[unlikely]]
    decode(address, size, entry);
  previous_ = &entry;
}

void FlowTracker::outcome(bool taken, uint64_t next) {
  bits_ = bits_ << 1 | (taken ? 1 : 0);
  if (++count_ == kMostBits) flush(next);
}

void FlowTracker::flush(uint64_t next) {
  if (count_ != 0) sink_.conditionals(bits_, count_, next);
  bits_ = 0;
  count_ = 0;
}

void FlowTracker::stop(uint64_t rip, Stop how) {
  const Entry& entry = *previous_;
  if (entry.kind != Kind::nowhere && how != Stop::system_call) {
    const bool untranslated = how == Stop::untranslated && translated_;
    const bool between_iterations = entry.kind == Kind::repeated && rip == entry.last_address();
    const bool inside = rip - entry.block < entry.size;
    if ((how == Stop::completed && !between_iterations) || untranslated || !inside) {
      // No block starts, so this one can't have been started again in its middle.
      transition(entry, rip, 0);
    } else if (wants_code_ && rip != entry.block) {
      sink_.executed(entry.block, rip);
    }
  } else if (entry.kind != Kind::nowhere && wants_code_) {
    sink_.executed(entry.block, entry.next());
  }
  flush(rip);
  previous_ = &kNowhere;
  translated_ = false;
}

// `size` of the block that starts at `to`; 0: none does.
void FlowTracker::transition(const Entry& from, uint64_t to, uint32_t size) {
  if (from.kind == Kind::nowhere) return;
  if (to - from.block < from.size && size != 0 && restarts(from, to, size)) {
    if (wants_code_ && to != from.block) sink_.executed(from.block, to);
    return;
  }
  if (wants_code_) tell_code(from, to);
  switch (from.kind) {
    case Kind::conditional:
      if (to == from.target() || to == from.next()) return outcome(to == from.target(), to);
      break;
    case Kind::indirect:
      flush(to);
      return sink_.indirect(to);
    case Kind::direct:
      if (to == from.target()) return;
      break;
    case Kind::plain:
      if (to == from.next()) return;
      break;
    case Kind::repeated:
      if (to == from.next() || to == from.last_address()) return;
      break;
    case Kind::degenerate:
      if (to == from.next()) return outcome(condition_holds(from), to);
      break;
    case Kind::nowhere:
      return;
  }
  flush(to);
  sink_.lost(to);
}

void FlowTracker::decode(uint64_t address, uint32_t size, Entry& entry) const {
  static const ZydisDecoder decoder = make_decoder();
  entry = Entry{.block = address};
  entry.size = size & kMostSize;
  const uint64_t end = address + size;
  ZydisDecodedInstruction instruction;
  for (uint64_t at = address; at < end; at += instruction.length) {
    const std::span<const uint8_t> code = code_at(at, tables_);
    if (code.empty() || !ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, code.data(),
                                                                    code.size(), &instruction)))
      return;  // it faults: nothing follows it by itself
    entry.last = (at - address) & kMostSize;
    entry.single = at == address;
  }
  if (size == 0) return;
  const auto distance = static_cast<int32_t>(instruction.raw.imm[0].value.s);
  switch (instruction.meta.category) {
    case ZYDIS_CATEGORY_COND_BR:
      entry.kind = distance == 0 ? Kind::degenerate : Kind::conditional;
      entry.distance = distance;
      break;
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_CALL:
      entry.kind = is_relative(instruction) ? Kind::direct : Kind::indirect;
      if (entry.kind == Kind::direct) entry.distance = distance;
      break;
    case ZYDIS_CATEGORY_RET:
      entry.kind = Kind::indirect;
      break;
    default:
      entry.kind = is_repeated(instruction) ? Kind::repeated : Kind::plain;
  }
  entry.is_conditional = entry.kind == Kind::conditional;
  entry.is_simple =
      !wants_code_ && (entry.is_conditional || entry.kind == Kind::plain || entry.kind == Kind::direct);
}

// A block that writes into itself is left before the writing instruction, which is then executed as a block
// of its own (precise self-modifying code): execution has only come to `to`, it has not branched there. A
// block of one plain instruction in the middle of one that goes on behind it arises in no other way.
bool FlowTracker::restarts(const Entry& from, uint64_t to, uint32_t size) const {
  if (from.kind == Kind::plain) return true;
  if (to + size > from.last_address()) return false;
  Entry there;
  decode(to, size, there);
  return there.single && there.kind == Kind::plain;
}

// The state is that behind the branch, which changed no flags.
bool FlowTracker::condition_holds(const Entry& from) const {
  uint64_t flags = 0, count = 0;
  uc_reg_read(engine_, UC_X86_REG_EFLAGS, &flags);
  uc_reg_read(engine_, UC_X86_REG_RCX, &count);
  std::span<const uint8_t> code = code_at(from.last_address(), tables_);
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
  const bool again = from.kind == Kind::repeated && to == from.last_address();
  const uint64_t end = again ? to : from.next();
  if (end != from.block) sink_.executed(from.block, end);
}

}  // namespace aftercheck::soft
