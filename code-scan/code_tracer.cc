#include "code-scan/code_tracer.h"

#include <algorithm>
#include <new>

#include "x86/decode.h"

namespace aftercheck {
namespace {

// Each search passes over the whole text once, and finds the callers of what the one before left open:
// routines without FDE or symbol that are called from such routines only. Data in open regions keeps searches
// going for nothing.
constexpr int kMaxSearches = 4;
// A sweep reveals branches into other holes; more than one round matters only for tables within the text.
constexpr int kMaxSweeps = 4;

bool ends_flow(ZydisMnemonic mnemonic) {
  static constexpr ZydisMnemonic kEnds[] = {
      ZYDIS_MNEMONIC_RET,     ZYDIS_MNEMONIC_IRET,   ZYDIS_MNEMONIC_IRETD, ZYDIS_MNEMONIC_IRETQ,
      ZYDIS_MNEMONIC_SYSEXIT, ZYDIS_MNEMONIC_SYSRET, ZYDIS_MNEMONIC_UD0,   ZYDIS_MNEMONIC_UD1,
      ZYDIS_MNEMONIC_UD2,     ZYDIS_MNEMONIC_HLT,  // HLT: privileged, glibc ends abort() and _start with it
  };
  return std::find(std::begin(kEnds), std::end(kEnds), mnemonic) != std::end(kEnds);
}

}  // namespace

CodeTracer::CodeTracer(std::span<const uint8_t> bytes, uint64_t vaddr, const ElfFunctions& functions)
    : bytes_(bytes),
      state_(static_cast<uint8_t*>(std::calloc(bytes.size() + 1, 1))),
      decoder_(x86::make_decoder(x86::Mode::bits64, x86::Detail::minimal)) {
  // calloc gives big areas as untouched zero pages: regions that are never decoded cost nothing.
  if (!state_) throw std::bad_alloc();
  size_t at = 0;
  for (const FrameRange& function : functions.ranges) {
    const size_t start = function.start - vaddr, end = function.end - vaddr;
    if (start > at) regions_.push_back({.start = at, .end = start});
    regions_.push_back({.start = start, .end = end, .is_function = true, .hidden_blocks = function.has_lsda});
    at = end;
  }
  if (at < bytes.size()) regions_.push_back({.start = at, .end = bytes.size()});
  for (const uint64_t entry : functions.entries) entries_.push_back(entry - vaddr);
}

size_t CodeTracer::region_index(size_t offset) const {
  const auto it = std::upper_bound(regions_.begin(), regions_.end(), offset,
                                   [](size_t value, const Region& region) { return value < region.start; });
  return static_cast<size_t>(it - regions_.begin()) - 1;
}

void CodeTracer::want(size_t index) {
  Region& region = regions_[index];
  if (region.wanted) return;
  region.wanted = true;
  if (region.is_function) worklist_.push_back(region.start);
  for (auto it = std::lower_bound(entries_.begin(), entries_.end(), region.start);
       it != entries_.end() && *it < region.end; ++it)
    worklist_.push_back(*it);
}

bool CodeTracer::decode(size_t offset, size_t end, ZydisDecodedInstruction* insn) const {
  const size_t size = std::min(end - offset, size_t{ZYDIS_MAX_INSTRUCTION_LENGTH});
  return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder_, nullptr, bytes_.data() + offset, size, insn));
}

void CodeTracer::mark(size_t offset, size_t length) {
  state_[offset] |= kStart;
  for (size_t i = 1; i < length; ++i) state_[offset + i] |= kInside;
}

void CodeTracer::push_target(size_t target) {
  if (target < bytes_.size() && !is_instruction(target) && regions_[region_index(target)].wanted)
    worklist_.push_back(target);
}

// Queues where the instruction branches to; `goes_on`: whether it can also continue with the next one.
void CodeTracer::handle_flow(const ZydisDecodedInstruction& insn, size_t next, Region& region,
                             bool* goes_on) {
  const bool is_jump = insn.mnemonic == ZYDIS_MNEMONIC_JMP;
  const auto& immediate = insn.raw.imm[0];
  if (immediate.size != 0 && immediate.is_relative) {  // JMP, Jcc, CALL, LOOPcc, JRCXZ, XBEGIN
    push_target(next + static_cast<size_t>(immediate.value.s));
  } else if (is_jump) {
    region.hidden_blocks |= region.is_function;
  }
  *goes_on = !is_jump && !ends_flow(insn.mnemonic);
}

void CodeTracer::follow(size_t at) {
  Region* region = &regions_[region_index(at)];
  while (at < bytes_.size() && !is_instruction(at)) {
    if (at >= region->end) {  // falls through into the next region
      region = &regions_[region_index(at)];
      if (!region->wanted) return;
    }
    ZydisDecodedInstruction insn;
    if (!decode(at, bytes_.size(), &insn)) return;
    mark(at, insn.length);
    at += insn.length;
    bool goes_on = false;
    handle_flow(insn, at, *region, &goes_on);
    if (!goes_on) return;
  }
}

void CodeTracer::run() {
  while (!worklist_.empty()) {
    const size_t at = worklist_.back();
    worklist_.pop_back();
    follow(at);
  }
}

// Decodes bytes that no branch reaches from end to end. All or nothing: data rarely decodes that well.
bool CodeTracer::sweep_hole(Region& region, size_t start, size_t end) {
  std::vector<uint8_t> lengths;
  ZydisDecodedInstruction insn;
  for (size_t at = start; at < end; at += insn.length) {
    if (!decode(at, end, &insn)) return false;
    lengths.push_back(insn.length);
  }
  size_t at = start;
  for (const uint8_t length : lengths) {
    decode(at, end, &insn);
    mark(at, length);
    at += length;
    bool goes_on = false;
    handle_flow(insn, at, region, &goes_on);
  }
  return true;
}

void CodeTracer::sweep(size_t index) {
  Region& region = regions_[index];
  for (int round = 0; round < kMaxSweeps && region.hidden_blocks; ++round) {
    bool found = false;
    for (size_t at = region.start; at < region.end;) {
      const auto* const limit = state_.get() + region.end;
      const auto* const hole = std::find(state_.get() + at, state_.get() + region.end, 0);
      const auto* const hole_end = std::find_if(hole, limit, [](uint8_t state) { return state != 0; });
      const auto start = static_cast<size_t>(hole - state_.get());
      at = static_cast<size_t>(hole_end - state_.get());
      found |= start < at && sweep_hole(region, start, at);
    }
    run();
    if (!found) return;
  }
}

// Decodes wanted regions as far as they can be decoded without a look at others.
void CodeTracer::settle(std::span<const size_t> regions) {
  run();
  for (const size_t region : regions) sweep(region);
}

// Some parts are entered only from other functions: cold parts of functions (an FDE of their own, entered in
// many places), assembler routines without any symbol or FDE. Finds the branches into the open regions,
// decodes the functions that hold them to see which are real, and follows those. Returns the regions that
// hold branches of which this isn't known either.
std::vector<size_t> CodeTracer::search_entries(std::span<const size_t> open) {
  std::vector<Interval> intervals;
  for (const size_t region : open) {
    regions_[region].searched = true;
    intervals.push_back({regions_[region].start, regions_[region].end});
  }
  std::vector<BranchSite> sites = find_branches_into(bytes_, intervals);
  std::erase_if(
      sites, [this](const BranchSite& s) { return is_instruction(s.target) || state_[s.site] == kInside; });

  std::vector<size_t> holders;
  for (const BranchSite& s : sites) holders.push_back(region_index(s.site));
  std::sort(holders.begin(), holders.end());
  holders.erase(std::unique(holders.begin(), holders.end()), holders.end());
  for (const size_t holder : holders) want(holder);
  // Branches decoded from here on are followed into the open regions by themselves; earlier ones were not, if
  // the region was not wanted yet.
  for (const BranchSite& s : sites)
    if (is_instruction(s.site)) push_target(s.target);
  settle(holders);
  settle(open);

  std::vector<size_t> unknown;
  for (const BranchSite& s : sites)
    if (state_[s.site] == 0) unknown.push_back(region_index(s.site));
  return unknown;
}

void CodeTracer::trace(std::span<const size_t> offsets) {
  std::vector<size_t> asked;
  for (const size_t offset : offsets) {
    const size_t region = region_index(offset);
    if (asked.empty() || asked.back() != region) asked.push_back(region);
  }
  for (const size_t region : asked) want(region);
  settle(asked);

  std::vector<size_t> open;
  for (const size_t offset : offsets)
    if (state_[offset] == 0) open.push_back(region_index(offset));
  for (int search = 0; search < kMaxSearches; ++search) {
    std::sort(open.begin(), open.end());
    open.erase(std::unique(open.begin(), open.end()), open.end());
    std::erase_if(open, [this](size_t region) { return regions_[region].searched; });
    if (open.empty()) return;
    open = search_entries(open);
  }
}

}  // namespace aftercheck
