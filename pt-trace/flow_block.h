// Blocks of instructions, decoded once. Internal to pt-trace except for FlowBlock, BlockId and AddressRange.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "pt-trace/code_image.h"
#include "pt-trace/instruction.h"
#include "pt-trace/packet.h"

namespace aftercheck::pt {

// Number of a block in its decoder; valid as long as the decoder. 0 is no block.
using BlockId = uint32_t;

// Instructions that execute one after the other without asking the trace anything: direct jumps and calls are
// followed, so they need not be contiguous. `end` is the address of the last instruction.
struct FlowBlock {
  uint64_t ip = 0;
  uint64_t end = 0;
  uint32_t instructions = 0;
  ExecMode mode = ExecMode::unknown;
};

// Addresses that are traced, as the address filters of the processor have them: `last` is in.
struct AddressRange {
  uint64_t first = 0, last = 0;
};
inline bool in_ranges(std::span<const AddressRange> ranges, uint64_t address) {
  for (const AddressRange& range : ranges)
    if (address >= range.first && address <= range.last) return true;
  return false;
}

// How a block ends.
enum class BlockEnd : uint8_t {
  conditional,  // the trace has an outcome
  indirect,     // the trace has a target: indirect jump or call, far transfers
  near_return,  // a target, or a taken outcome with return compression
  straight,     // cut at the size limit: goes on at `next`
  partial,      // stops before or behind an instruction for an event; nothing follows by itself
  unmapped,     // the image has no (whole) instruction at `next`
};

// What the decoder knows of a block besides FlowBlock.
struct BlockLinks {
  uint64_t taken = 0;  // conditional: target
  uint64_t next = 0;   // conditional, indirect calls: the address behind; straight, unmapped: see BlockEnd
  BlockId taken_block = 0;
  BlockId next_block = 0;
  uint32_t first_call = 0;  // return addresses that its calls push: range in BlockCache::returns()
  uint32_t call_count = 0;
  BlockEnd end = BlockEnd::unmapped;
  bool far = false;
  uint8_t cr3_writes = 0;  // at most 255
  uint32_t epoch = 0;      // when the code was looked at last
  uint64_t shape = 0;      // hash of the instructions' addresses and kinds
};

// Decodes blocks and finds them by address. Memory grows with the code executed, not with the trace.
class BlockCache {
 public:
  explicit BlockCache(const CodeImage& image) : image_(image), generation_(image.generation()) {}

  // The block that starts at `ip`; decoded if it is new. Never 0. Where the image has no instruction at all,
  // it is nowhere(), whose links tell the last such address: a hostile trace must not fill memory with bad
  // addresses.
  BlockId find(uint64_t ip, ExecMode mode) {
    const Slot& slot = slots_[slot_index(ip, mode)];
    if (slot.id != 0 && slot.ip == ip && slot.mode == mode) [[likely]]
      return slot.id;
    return find_slow(ip, mode);
  }

  // The part of a block before the first instruction at `stop`; 0 when that is empty, no_block when the block
  // doesn't come by `stop`.
  BlockId up_to(BlockId block, uint64_t stop);
  // The part of a block up to and including the first direct branch to `target`; the whole block if there is
  // none.
  BlockId up_to_branch(BlockId block, uint64_t target);
  // The part up to and including the first instruction that may switch tracing off without an address in the
  // trace: a write to CR3 behind `cr3_writes` of them, or a direct branch out of `filter` (empty: none;
  // always the same one). The whole block if there is none.
  BlockId up_to_end_of_tracing(BlockId block, unsigned cr3_writes, std::span<const AddressRange> filter);
  static constexpr BlockId no_block = ~BlockId{0};
  static constexpr BlockId nowhere = 1;

  const FlowBlock& block(BlockId id) const { return blocks_[id]; }
  const BlockLinks& links(BlockId id) const { return links_[id]; }
  BlockId taken(BlockId id) {
    BlockLinks& l = links_[id];
    return l.taken_block != 0 ? l.taken_block : resolve(id, true);
  }
  BlockId next(BlockId id) {
    BlockLinks& l = links_[id];
    return l.next_block != 0 ? l.next_block : resolve(id, false);
  }
  std::span<const uint64_t> calls(BlockId id) const {
    return std::span(returns_).subspan(links_[id].first_call, links_[id].call_count);
  }
  size_t size() const { return blocks_.size() - 2; }
  Instruction instruction(uint64_t ip, ExecMode mode) const { return decoder_.decode(image_, ip, mode); }

  // Notices changes of the image: what is known may be outdated and is looked at again before it is given
  // out. A block that has changed gets another id; the old one stays the name of what was executed. True when
  // blocks that were found before must be found again.
  bool refresh();

 private:
  struct Slot {
    uint64_t ip = 0;
    BlockId id = 0;
    ExecMode mode = ExecMode::unknown;
  };
  static constexpr unsigned first_slot_bits = 6;
  static constexpr size_t most_slots = 1 << 16;
  static constexpr unsigned page_shift = 12;
  size_t slot_index(uint64_t ip, ExecMode mode) const {
    return (ip + static_cast<uint64_t>(mode)) * 0x9e3779b97f4a7c15 >> slot_shift_;
  }
  struct Part {
    BlockId block;
    uint64_t address;
    char what;
    bool operator==(const Part&) const = default;
  };
  struct PartHash {
    size_t operator()(const Part& p) const {
      return (p.block * 0x9e3779b97f4a7c15 ^ p.address) * 0xbf58476d1ce4e5b9 + static_cast<size_t>(p.what);
    }
  };

  BlockId find_slow(uint64_t ip, ExecMode mode);
  BlockId renew(BlockId id);
  BlockId resolve(BlockId id, bool taken);
  BlockId decode(uint64_t ip, ExecMode mode);
  template <typename Stop>
  BlockId part(BlockId block, Part key, Stop stop);
  void note_code(uint64_t ip, uint8_t size) {
    const uint64_t first = ip >> page_shift;
    const uint64_t last = (ip + (size - 1)) >> page_shift;
    if (first != last_code_page_) code_pages_.insert(first);
    if (last != first) code_pages_.insert(last);
    last_code_page_ = last;
  }

  const CodeImage& image_;
  InstructionDecoder decoder_;
  uint64_t generation_;
  uint32_t epoch_ = 0;  // grows when the code may have changed
  std::vector<FlowBlock> blocks_ = std::vector<FlowBlock>(2);
  std::vector<BlockLinks> links_ = std::vector<BlockLinks>(2);
  std::vector<uint64_t> returns_;
  // Grows with the number of blocks.
  std::vector<Slot> slots_ = std::vector<Slot>(size_t{1} << first_slot_bits);
  unsigned slot_shift_ = 64 - first_slot_bits;
  std::unordered_map<uint64_t, BlockId> by_ip_[4];
  std::unordered_map<Part, BlockId, PartHash> parts_;
  std::unordered_set<uint64_t> code_pages_;
  uint64_t last_code_page_ = ~uint64_t{0};
  bool any_unmapped_ = false;
};

}  // namespace aftercheck::pt
