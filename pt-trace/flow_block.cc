#include "pt-trace/flow_block.h"

#include <algorithm>

namespace aftercheck::pt {
namespace {

// Straight code of any length, and loops of direct jumps, are cut into pieces of this size.
constexpr uint32_t most_instructions = 1024;
// Parts asked for by addresses in the trace, which may be nonsense; found again when forgotten.
constexpr size_t most_parts = 1 << 18;

}  // namespace

bool BlockCache::refresh() {
  if (generation_ == image_.generation()) return false;
  const auto changes = image_.changes_since(generation_);
  generation_ = image_.generation();
  const auto touches_code = [&](const CodeImage::Change& change) {
    const uint64_t first = change.address >> page_shift;
    const uint64_t last = (change.address + (change.size - 1)) >> page_shift;
    if (last - first < code_pages_.size()) {
      for (uint64_t page = first; page <= last; ++page)
        if (code_pages_.contains(page)) return true;
      return false;
    }
    return std::any_of(code_pages_.begin(), code_pages_.end(),
                       [&](uint64_t page) { return page >= first && page <= last; });
  };
  if (!any_unmapped_ && std::none_of(changes.begin(), changes.end(), touches_code)) return false;
  ++epoch_;
  slots_.assign(slots_.size(), {});
  for (auto& links : links_) links.taken_block = links.next_block = 0;
  code_pages_.clear();
  last_code_page_ = ~uint64_t{0};
  any_unmapped_ = false;
  return true;
}

BlockId BlockCache::find_slow(uint64_t ip, ExecMode mode) {
  auto& map = by_ip_[static_cast<size_t>(mode)];
  BlockId id;
  if (const auto it = map.find(ip); it != map.end()) {
    id = it->second;
    if (links_[id].epoch != epoch_) {
      id = renew(id);
      if (id == nowhere) return id;
      it->second = id;
    }
  } else {
    id = decode(ip, mode);
    if (id == nowhere) return id;
    map.emplace(ip, id);
    if (map.size() > slots_.size() / 2 && slots_.size() < most_slots) {
      --slot_shift_;
      slots_.assign(slots_.size() * 2, {});
    }
  }
  slots_[slot_index(ip, mode)] = {ip, id, mode};
  return id;
}

// Decodes a block again. The same one, if nothing has changed that matters: so memory does not grow with the
// number of changes elsewhere.
BlockId BlockCache::renew(BlockId id) {
  const BlockId now = decode(blocks_[id].ip, blocks_[id].mode);
  if (now == nowhere) return now;
  const BlockLinks &before = links_[id], &after = links_[now];
  if (before.shape != after.shape || before.end != after.end || before.taken != after.taken ||
      before.next != after.next)
    return now;
  returns_.resize(after.first_call);
  blocks_.pop_back();
  links_.pop_back();
  links_[id].epoch = epoch_;
  return id;
}

BlockId BlockCache::resolve(BlockId id, bool taken) {
  const uint64_t address = taken ? links_[id].taken : links_[id].next;
  const BlockId found = find(address, blocks_[id].mode);
  if (found == nowhere) return found;
  (taken ? links_[id].taken_block : links_[id].next_block) = found;
  return found;
}

BlockId BlockCache::decode(uint64_t ip, ExecMode mode) {
  FlowBlock block{ip, ip, 0, mode};
  BlockLinks links;
  links.first_call = static_cast<uint32_t>(returns_.size());
  links.epoch = epoch_;
  uint64_t at = ip;
  const uint64_t mask = mode == ExecMode::bits64 ? ~uint64_t{0} : 0xffffffff;
  bool open = true;
  // Bytes of one mapping from `code_start` on: most instructions lie in that of the one before.
  uint64_t code_start = at;
  std::span<const uint8_t> code;
  while (open) {
    if (block.instructions == most_instructions) {
      links.end = BlockEnd::straight;
      links.next = at;
      break;
    }
    if (at - code_start >= code.size()) {
      code_start = at;
      code = image_.at(at);
    }
    const Instruction instruction = decoder_.decode(code.subspan(at - code_start), image_, at, mode);
    if (instruction.size == 0) {
      links.end = BlockEnd::unmapped;
      links.next = at;
      any_unmapped_ = true;
      break;
    }
    note_code(at, instruction.size);
    links.shape = (links.shape + (at << 4 | static_cast<uint64_t>(instruction.kind))) * 0x9e3779b97f4a7c15;
    ++block.instructions;
    block.end = at;
    const uint64_t behind = (at + instruction.size) & mask;
    at = behind;
    switch (instruction.kind) {
      case InstructionKind::other:
        break;
      case InstructionKind::write_cr3:
        if (links.cr3_writes < UINT8_MAX) ++links.cr3_writes;
        break;
      case InstructionKind::direct_call:
        // A call to the next instruction only reads its own address; the processor doesn't count it as a call
        // either.
        if (instruction.target != behind) returns_.push_back(behind);
        at = instruction.target;
        break;
      case InstructionKind::direct_jump:
        at = instruction.target;
        break;
      case InstructionKind::conditional:
        links.end = BlockEnd::conditional;
        links.taken = instruction.target;
        links.next = behind;
        open = false;
        break;
      case InstructionKind::near_return:
        links.end = BlockEnd::near_return;
        open = false;
        break;
      case InstructionKind::indirect_call:
        returns_.push_back(behind);
        [[fallthrough]];
      case InstructionKind::indirect_jump:
      case InstructionKind::far_call:
      case InstructionKind::far_return:
        links.end = BlockEnd::indirect;
        links.far =
            instruction.kind == InstructionKind::far_call || instruction.kind == InstructionKind::far_return;
        links.next = behind;
        open = false;
        break;
    }
  }
  if (block.instructions == 0) {
    blocks_[nowhere] = block;
    links_[nowhere] = links;
    return nowhere;
  }
  links.call_count = static_cast<uint32_t>(returns_.size()) - links.first_call;
  blocks_.push_back(block);
  links_.push_back(links);
  return static_cast<BlockId>(blocks_.size() - 1);
}

// Walks the block again and asks `stop(ip, instruction)` before each instruction: -1 stop before it, 1 behind
// it, 0 go on. The part so found becomes a block of its own.
template <typename Stop>
BlockId BlockCache::part(BlockId whole, Part key, Stop stop) {
  if (const auto it = parts_.find(key); it != parts_.end()) return it->second;
  const FlowBlock from = blocks_[whole];
  FlowBlock block{from.ip, from.ip, 0, from.mode};
  BlockLinks links;
  links.end = BlockEnd::partial;
  links.first_call = static_cast<uint32_t>(returns_.size());
  const uint64_t mask = from.mode == ExecMode::bits64 ? ~uint64_t{0} : 0xffffffff;
  uint64_t at = from.ip;
  BlockId result = no_block;
  for (uint32_t i = 0; i <= from.instructions; ++i) {
    const Instruction instruction = decoder_.decode(image_, at, from.mode);
    const int decision = stop(at, instruction);
    if (decision < 0) {
      result = 0;
      break;
    }
    if (i == from.instructions || instruction.size == 0) break;
    ++block.instructions;
    block.end = at;
    const uint64_t behind = (at + instruction.size) & mask;
    at = behind;
    if (instruction.kind == InstructionKind::direct_call) {
      if (instruction.target != behind) returns_.push_back(behind);
      at = instruction.target;
    } else if (instruction.kind == InstructionKind::direct_jump) {
      at = instruction.target;
    } else if (i + 1 == from.instructions && links_[whole].end != BlockEnd::straight &&
               links_[whole].end != BlockEnd::unmapped) {
      // Behind the last instruction the trace decides; there is no "next" to stop before.
      if (decision > 0) result = 0;
      break;
    }
    if (decision > 0) {
      result = 0;
      break;
    }
  }
  links.call_count = static_cast<uint32_t>(returns_.size()) - links.first_call;
  if (result == 0 && block.instructions > 0) {
    blocks_.push_back(block);
    links_.push_back(links);
    result = static_cast<BlockId>(blocks_.size() - 1);
  } else {
    returns_.resize(links.first_call);
  }
  if (parts_.size() >= most_parts) parts_.clear();
  parts_.emplace(key, result);
  return result;
}

BlockId BlockCache::up_to(BlockId whole, uint64_t stop) {
  return part(whole, {whole, stop, 'b'},
              [stop](uint64_t ip, const Instruction&) { return ip == stop ? -1 : 0; });
}

BlockId BlockCache::up_to_branch(BlockId whole, uint64_t target) {
  const BlockId found = part(whole, {whole, target, 't'}, [target](uint64_t, const Instruction& instruction) {
    const bool direct =
        instruction.kind == InstructionKind::direct_jump || instruction.kind == InstructionKind::direct_call;
    return direct && instruction.target == target ? 1 : 0;
  });
  return found == no_block ? whole : found;
}

BlockId BlockCache::up_to_end_of_tracing(BlockId whole, unsigned cr3_writes,
                                         std::span<const AddressRange> filter) {
  if (links_[whole].cr3_writes <= cr3_writes && filter.empty()) return whole;
  const auto stop = [left = cr3_writes, filter](uint64_t, const Instruction& instruction) mutable {
    switch (instruction.kind) {
      case InstructionKind::write_cr3:
        return left-- == 0 ? 1 : 0;
      case InstructionKind::direct_jump:
      case InstructionKind::direct_call:
        return !filter.empty() && !in_ranges(filter, instruction.target) ? 1 : 0;
      default:
        return 0;
    }
  };
  const BlockId found = part(whole, {whole, cr3_writes, 'o'}, stop);
  return found == no_block ? whole : found;
}

}  // namespace aftercheck::pt
