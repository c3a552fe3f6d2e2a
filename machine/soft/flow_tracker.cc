#include "machine/soft/flow_tracker.h"

#include <unicorn/unicorn.h>

#include <algorithm>

#include "machine/registers.h"
#include "machine/soft/fault_analysis.h"
#include "x86/decode.h"

namespace aftercheck::soft {
namespace {

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

FlowTracker::FlowTracker(ControlFlow* sink, uc_engine* engine, const PageTables& tables, BlockLog& log)
    : sink_(sink),
      engine_(engine),
      tables_(tables),
      wants_code_(sink != nullptr && sink->wants_code()),
      log_(log) {
  logged_[0] = kNowhere;
  log_.at = &logged_[1];
}

size_t FlowTracker::cache_slot(Block block) {
  const uint64_t address = address_of(block);
  return (address ^ address >> kCacheBits) % (size_t{1} << kCacheBits);
}

// --- what blocks there are ---

void FlowTracker::translated(uint64_t address, uint32_t size) {
  read_log();  // with what the blocks were until now
  if (blocks_.size() >= kMostBlocks) {
    const Entry entry = first_entry();
    blocks_.clear();
    blocks_.emplace(logged_[0], entry);
    std::fill_n(cache_.get(), size_t{1} << kCacheBits, Cached{});
    ++generation_;
  }
  translated_ = true;
  const Block block = BlockLog::name(address, size);
  const Entry entry = decode(address, size);
  const auto [known, is_new] = blocks_.try_emplace(block, entry);
  if (!is_new && known->second != entry) {
    if (block == logged_[0] && !before_) before_ = known->second;
    known->second = entry;
    cache_[cache_slot(block)].block = kNowhere;
    ++generation_;
  }
  // Its outcome is taken from the flags, so what follows must be looked at when it starts.
  if (entry.kind == Kind::degenerate && sink_ != nullptr) end_ = &logged_[2];
}

FlowTracker::Entry FlowTracker::entry_of(Block block) {
  if (block == kNowhere) return {.kind = Kind::nowhere};
  Cached& cached = cache_[cache_slot(block)];
  if (cached.block != block) {
    auto known = blocks_.find(block);
    if (known == blocks_.end())
      known = blocks_.emplace(block, decode(address_of(block), size_of(block))).first;
    cached = {block, known->second};
  }
  return cached.entry;
}

FlowTracker::Entry FlowTracker::decode(uint64_t address, uint32_t size) const {
  Entry entry;
  const uint64_t end = address + size;
  ZydisDecodedInstruction instruction;
  for (uint64_t at = address; at < end; at += instruction.length) {
    const std::span<const uint8_t> code = code_at(at, tables_);
    if (!x86::decode(code, instruction)) return entry;  // it faults: nothing follows it by itself
    entry.last = static_cast<uint16_t>(at - address);
    entry.single = at == address;
  }
  if (size == 0) return entry;
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
      entry.kind = x86::is_repeated(instruction) ? Kind::repeated : Kind::plain;
  }
  return entry;
}

// --- what follows what ---

// A block that writes into itself is left before the writing instruction, which is then executed as a block
// of its own (precise self-modifying code): execution has only come to `to`, it has not branched there. A
// block of one plain instruction in the middle of one that goes on behind it arises in no other way.
// `size` 0: no block starts.
bool FlowTracker::comes_again(const Entry& from, Block from_block, uint64_t to, uint32_t size) {
  if (size == 0 || to - address_of(from_block) >= size_of(from_block)) return false;
  if (from.kind == Kind::plain) return true;
  if (to + size > address_of(from_block) + from.last) return false;
  const Entry there = entry_of(BlockLog::name(to, size));
  return there.single && there.kind == Kind::plain;
}

FlowTracker::Step FlowTracker::step(const Entry& from, Block from_block, uint64_t to, uint32_t size) {
  if (from.kind == Kind::nowhere || comes_again(from, from_block, to, size)) return Step::nothing;
  const uint64_t next = end_of(from_block);
  const uint64_t target = next + static_cast<uint64_t>(static_cast<int64_t>(from.distance));
  const uint64_t last = address_of(from_block) + from.last;
  switch (from.kind) {
    case Kind::conditional:
      if (to == target) return Step::taken;
      return to == next ? Step::not_taken : Step::lost;
    case Kind::indirect:
      return Step::indirect;
    case Kind::direct:
      return to == target ? Step::nothing : Step::lost;
    case Kind::plain:
      return to == next ? Step::nothing : Step::lost;
    case Kind::repeated:
      return to == next || to == last ? Step::nothing : Step::lost;
    case Kind::degenerate:
      if (to != next) return Step::lost;
      if (sink_ == nullptr) return Step::not_taken;  // or taken: it is one branch
      return condition_holds(last) ? Step::taken : Step::not_taken;
    case Kind::nowhere:
      break;
  }
  return Step::nothing;
}

void FlowTracker::follow(Step step, uint64_t to) {
  switch (step) {
    case Step::nothing:
      return;
    case Step::not_taken:
    case Step::taken:
      ++counted_;
      if (sink_ == nullptr) return;
      outcomes_ = outcomes_ << 1 | (step == Step::taken ? 1 : 0);
      // Those of a path have room behind them.
      if (++count_ > BranchRun::kMost - kSteps) put(to, false);
      return;
    case Step::indirect:
      ++counted_;
      if (sink_ == nullptr) return;
      return put(to, true);
    case Step::lost:
      if (sink_ == nullptr) return;
      if (count_ != 0) put(to, false);
      hand_over();
      return sink_->lost(to);
  }
}

void FlowTracker::put(uint64_t next, bool indirect) {
  runs_[run_count_] = {outcomes_, next, count_, indirect};
  outcomes_ = 0;
  count_ = 0;
  if (++run_count_ >= kRuns) hand_over();
}

void FlowTracker::hand_over() {
  if (run_count_ != 0 && sink_ != nullptr) sink_->branches({runs_.data(), run_count_});
  run_count_ = 0;
}

// --- many at once ---

void FlowTracker::drain() {
  const Block* at = logged_.get();
  const Block* const last = log_.at - 1;
  translated_ = false;
  if (wants_code_) {
    tell_code(first_entry(), at[0], address_of(at[1]), size_of(at[1]));
    for (const Block* from = at + 1; from != last; ++from)
      tell_code(entry_of(from[0]), from[0], address_of(from[1]), size_of(from[1]));
  }
  const auto follow_one = [this, &at](const Entry& from) {
    const uint64_t to = address_of(at[1]);
    follow(step(from, at[0], to, size_of(at[1])), to);
    ++at;
  };
  if (before_) {
    follow_one(*before_);
    before_.reset();
  }
  at = follow_paths(at, last);
  while (at != last) follow_one(entry_of(at[0]));
  logged_[0] = *last;
  log_.at = &logged_[1];
  hand_over();
}

const FlowTracker::Block* FlowTracker::follow_paths(const Block* at, const Block* last) {
  // Copies that stay in registers.
  uint64_t outcomes = outcomes_;
  uint32_t count = count_;
  uint64_t counted = counted_;
  BranchRun* run = &runs_[run_count_];
  const auto store = [&] {
    outcomes_ = outcomes;
    count_ = count;
    counted_ = counted;
    run_count_ = static_cast<size_t>(run - runs_.data());
  };
  for (; last - at >= kSteps; at += kSteps) {
    constexpr std::make_index_sequence<kSteps + 1> kAll;
    Path& path = paths_[path_slot(at, kAll)];
    const uint64_t different = difference(at, path) | (generation_ ^ path.generation);
    if (different != 0 || run >= &runs_[kRuns]) [[unlikely]] {
      store();
      hand_over();
      learn(at, path);
      outcomes = outcomes_;
      count = count_;
      counted = counted_;
      run = &runs_[run_count_];
      continue;
    }
    counted += path.branches;
    if (sink_ == nullptr) continue;
    for (unsigned i = 0; i < path.indirects; ++i) {
      const Path::Indirect& indirect = path.indirect[i];
      *run++ = {outcomes << indirect.count | indirect.outcomes, address_of(at[indirect.to]),
                count + indirect.count, true};
      outcomes = 0;
      count = 0;
    }
    outcomes = outcomes << path.count | path.outcomes;
    count += path.count;
    if (count > BranchRun::kMost - kSteps) {
      *run++ = {outcomes, address_of(at[kSteps]), count, false};
      outcomes = 0;
      count = 0;
    }
  }
  store();
  return at;
}

void FlowTracker::learn(const Block* at, Path& path) {
  Path seen;
  bool always = true;  // it is so whenever these blocks follow each other
  for (unsigned i = 0; i < kSteps; ++i) {
    seen.blocks[i] = at[i];
    const uint64_t to = address_of(at[i + 1]);
    const Entry from = entry_of(at[i]);
    const Step step = this->step(from, at[i], to, size_of(at[i + 1]));
    follow(step, to);
    always &= step != Step::lost && (from.kind != Kind::degenerate || sink_ == nullptr);
    if (step != Step::nothing) ++seen.branches;
    if (step == Step::taken || step == Step::not_taken) {
      seen.outcomes = static_cast<uint8_t>(seen.outcomes << 1 | (step == Step::taken ? 1 : 0));
      ++seen.count;
    } else if (step == Step::indirect) {
      seen.indirect[seen.indirects++] = {seen.outcomes, seen.count, static_cast<uint8_t>(i + 1)};
      seen.outcomes = seen.count = 0;
    }
  }
  if (!always) return;
  seen.blocks[kSteps] = at[kSteps];
  seen.generation = generation_;
  path = seen;
}

void FlowTracker::stop(uint64_t rip, Stop how) {
  read_log();
  const Block block = logged_[0];
  if (block != kNowhere) {
    const Entry entry = first_entry();
    const bool inside = rip - address_of(block) < size_of(block);
    const bool between_iterations = entry.kind == Kind::repeated && rip == address_of(block) + entry.last;
    if (how == Stop::system_call) {
      if (wants_code_) sink_->executed(address_of(block), end_of(block));
    } else if ((how == Stop::completed && !between_iterations) ||
               (how == Stop::untranslated && translated_) || !inside) {
      // No block starts, so this one can't have been started again in its middle.
      if (wants_code_) tell_code(entry, block, rip, 0);
      follow(step(entry, block, rip, 0), rip);
    } else if (wants_code_ && rip != address_of(block)) {
      sink_->executed(address_of(block), rip);
    }
  }
  // SYSCALL is not among them, and came after them.
  const bool called = how == Stop::system_call && block != kNowhere;
  if (count_ != 0) put(called ? address_of(block) : rip, false);
  hand_over();
  logged_[0] = kNowhere;
  before_.reset();
  translated_ = false;
}

// The state is that behind the branch, which changed no flags.
bool FlowTracker::condition_holds(uint64_t address) const {
  uint64_t flags = 0, count = 0;
  uc_reg_read(engine_, UC_X86_REG_EFLAGS, &flags);
  uc_reg_read(engine_, UC_X86_REG_RCX, &count);
  std::span<const uint8_t> code = code_at(address, tables_);
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

void FlowTracker::tell_code(const Entry& from, Block from_block, uint64_t to, uint32_t size) {
  if (from.kind == Kind::nowhere) return;
  // The iterations of a repeated instruction are blocks; the last one counts.
  const bool again = from.kind == Kind::repeated && to == address_of(from_block) + from.last;
  const uint64_t end = again || comes_again(from, from_block, to, size) ? to : end_of(from_block);
  if (end != address_of(from_block)) sink_->executed(address_of(from_block), end);
}

}  // namespace aftercheck::soft
