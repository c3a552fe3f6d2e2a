// Tells instructions from data in a program's text by following its control flow.
#pragma once

#include <Zydis/Zydis.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "code-scan/code_search.h"
#include "code-scan/elf_functions.h"

namespace aftercheck {

// All positions are offsets into `bytes`. The text is divided into regions: functions, and the gaps between
// them. Regions are decoded only when asked for. Each offset is decoded as an instruction at most once on the
// control flow, so the time is linear in the text even when it is hostile.
class CodeTracer {
 public:
  // `bytes` must outlive the tracer and begin at `vaddr` of the file that `functions` describes.
  // Throws std::bad_alloc when there is no memory for one byte per byte of text.
  CodeTracer(std::span<const uint8_t> bytes, uint64_t vaddr, const ElfFunctions& functions);

  // Decodes the regions that hold these offsets (ascending), and what is needed to know how they are entered.
  void trace(std::span<const size_t> offsets);

  // True when an instruction that can be executed begins here, as far as `trace` was asked to look.
  bool is_instruction(size_t offset) const { return (state_[offset] & kStart) != 0; }

 private:
  static constexpr uint8_t kStart = 1;  // an instruction begins here
  static constexpr uint8_t kInside =
      2;  // a later byte of one. Both: code that jumps past a LOCK prefix, for example

  struct Region {
    size_t start = 0, end = 0;
    bool is_function = false;    // else a gap between functions
    bool hidden_blocks = false;  // jump tables or landing pads: code that no branch of its own leads to
    bool wanted = false;         // is to be decoded
    bool searched = false;       // branches into it were looked for
  };

  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };

  size_t region_index(size_t offset) const;
  void want(size_t region);
  void run();
  void follow(size_t start);
  void mark(size_t offset, size_t length);
  void handle_flow(const ZydisDecodedInstruction& insn, size_t next, Region& region, bool* goes_on);
  void push_target(size_t target);
  bool decode(size_t offset, size_t end, ZydisDecodedInstruction* insn) const;
  void sweep(size_t region);
  bool sweep_hole(Region& region, size_t start, size_t end);
  void settle(std::span<const size_t> regions);
  std::vector<size_t> search_entries(std::span<const size_t> open);

  std::span<const uint8_t> bytes_;
  std::unique_ptr<uint8_t[], Free> state_;
  std::vector<Region> regions_;   // ascending, without holes
  std::vector<size_t> entries_;   // known starts of code besides the functions' own, ascending
  std::vector<size_t> worklist_;  // offsets still to be followed
  const ZydisDecoder decoder_;
};

}  // namespace aftercheck
