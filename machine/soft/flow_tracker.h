// Makes the guest's control flow, and the count of its branches, out of Unicorn's block events: where one
// block follows another, the last instruction of the first says what that was.
#pragma once

#include <emmintrin.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>

#include "machine/control_flow.h"
#include "machine/soft/page_tables.h"

using uc_engine = struct uc_struct;  // unicorn/unicorn.h

namespace aftercheck::soft {

// The blocks that have started, by address and size. The vCPU adds to it at every block, so that must cost
// next to nothing: what else is to be seen to then is made known by setting `limit` to nullptr, which any
// thread may do. The blocks' own count is checked wherever that is seen.
struct BlockLog {
  // Guest addresses have 47 bits, and a block ends at most one page behind the page it starts in.
  using Block = uint64_t;
  static constexpr unsigned kAddressBits = 48;
  static Block name(uint64_t address, uint64_t size) { return size << kAddressBits | address; }

  Block* at = nullptr;  // of the next
  std::atomic<Block*> limit{nullptr};

  // False: there is something to do.
  bool add(uint64_t address, uint32_t size) {
    *at = name(address, size);
    return ++at < limit.load(std::memory_order_relaxed);
  }
};

// The vCPU only notes its blocks; what they mean is worked out a thousand at a time, and of every eight in a
// row only once: the next time their outcomes and targets are looked up.
class FlowTracker {
 public:
  // All must outlive the tracker. What the engine has translated before must be forgotten. Sets `log.at` here
  // and whenever the log is read, and leaves `log.limit` alone. `sink` null: branches are only counted.
  FlowTracker(ControlFlow* sink, uc_engine* engine, const PageTables& tables, BlockLog& log);

  // How the engine has stopped.
  enum class Stop : uint8_t {
    inside,        // before the instruction at RIP, wherever that is
    completed,     // behind the one instruction of a single-stepped block
    system_call,   // behind the SYSCALL that ends a block
    untranslated,  // before the block at RIP, which has just been translated for the first time
  };
  // The engine has stopped, and everything is told. What starts next follows nothing.
  void stop(uint64_t rip, Stop how);

  // Where `log.at` must not go beyond.
  BlockLog::Block* log_end() const { return end_; }
  // The log must be read by then, so that the count does not go beyond `count` unseen. After read_log().
  BlockLog::Block* log_end_for(uint64_t count) const {
    const uint64_t left = count > counted_ ? count - counted_ : 1;  // each block has one branch at most
    return left < kLogged ? std::min(end_, &logged_[1 + left]) : end_;
  }
  // Branches that have been executed, as Vcpu::branches() counts. After read_log() or stop().
  uint64_t counted() const { return counted_; }
  void set_counted(uint64_t count) { counted_ = count; }
  void read_log() {
    if (log_.at != &logged_[1]) drain();
  }
  // A block of `size` bytes has been translated, and has not started yet. So does every block whose code has
  // changed.
  void translated(uint64_t address, uint32_t size);
  // The host has executed the instruction at `address`. Only after stop().
  void executed_by_host(uint64_t address, uint64_t end) {
    if (wants_code_) sink_->executed(address, end);
  }

 private:
  using Block = BlockLog::Block;
  static constexpr unsigned kAddressBits = BlockLog::kAddressBits;
  static constexpr Block kNowhere = ~Block{0};  // no block has started
  static uint64_t address_of(Block block) { return block & ((uint64_t{1} << kAddressBits) - 1); }
  static uint32_t size_of(Block block) { return static_cast<uint32_t>(block >> kAddressBits); }
  static uint64_t end_of(Block block) { return address_of(block) + size_of(block); }

  // The last instruction of a block.
  enum class Kind : uint8_t {
    plain,  // goes on behind it
    repeated,
    conditional,
    degenerate,  // a conditional branch to the next instruction: the outcome is not seen by where it leads
    direct,
    indirect,
    nowhere,  // no block has started
  };
  struct Entry {
    int32_t distance = 0;  // of the branch's target from the block's end; 0 where there is none
    uint16_t last = 0;     // where the last instruction starts, counted from the block's start
    Kind kind = Kind::plain;
    bool single = false;  // the last instruction is the only one
    bool operator==(const Entry&) const = default;
  };
  struct Cached {
    Block block = kNowhere;
    Entry entry;
  };

  // What it is that one block follows another.
  enum class Step : uint8_t { nothing, not_taken, taken, indirect, lost };

  // Some steps in a row, and what they come to.
  static constexpr unsigned kSteps = 8;
  struct alignas(64) Path {
    std::array<Block, kSteps + 1> blocks{};
    uint32_t generation = 0;
    uint8_t indirects = 0;
    uint8_t outcomes = 0, count = 0;  // of conditional branches behind the last indirect one
    uint8_t branches = 0;             // all
    struct Indirect {
      uint8_t outcomes, count;  // of conditional branches before it, back to the indirect one before
      uint8_t to;               // which of `blocks`
    };
    std::array<Indirect, kSteps> indirect{};
  };
  static_assert(sizeof(Path) == 128);

  static constexpr size_t kLogged = 1024, kRuns = 256;
  static constexpr unsigned kPathBits = 12, kCacheBits = 12;
  static constexpr size_t kMostBlocks = size_t{1} << 20;

  // Odd constants without a pattern, of a size that instructions can hold: bits 24 and up of the sum depend
  // on the lower, telling bits of all addresses.
  static constexpr std::array<int64_t, 9> kFactors = {0x5851f42d, 0x4c957f2d, 0x14057b7f,
                                                      0x767814f1, 0x2545f491, 0x4f6cdd1d,
                                                      0x369dea0f, 0x31a53f85, 0x27bb2ee7};
  static_assert(kSteps < kFactors.size());
  // Both written out for all blocks, by the compiler.
  template <size_t... I>
  static size_t path_slot(const Block* at, std::index_sequence<I...>) {
    return (((at[I] * static_cast<uint64_t>(kFactors[I])) + ...) >> 24) % (size_t{1} << kPathBits);
  }
  // Not 0 unless the blocks are those of the path. Two at a time, which the compiler does not see by itself.
  static uint64_t difference(const Block* at, const Path& path) {
    static_assert(kSteps == 8);
    const auto pair = [&](unsigned i) {
      const auto* these = reinterpret_cast<const __m128i*>(at + i);
      const auto* those = reinterpret_cast<const __m128i*>(&path.blocks[i]);
      return _mm_xor_si128(_mm_loadu_si128(these), _mm_load_si128(those));
    };
    const __m128i different = _mm_or_si128(_mm_or_si128(pair(0), pair(2)), _mm_or_si128(pair(4), pair(6)));
    const __m128i folded = _mm_or_si128(different, _mm_unpackhi_epi64(different, different));
    return static_cast<uint64_t>(_mm_cvtsi128_si64(folded)) | (at[8] ^ path.blocks[8]);
  }
  static size_t cache_slot(Block block);
  void drain();
  const Block* follow_paths(const Block* at, const Block* last);
  void learn(const Block* at, Path& path);
  Step step(const Entry& from, Block from_block, uint64_t to, uint32_t size);
  void follow(Step step, uint64_t to);
  void put(uint64_t next, bool indirect);
  void hand_over();
  Entry entry_of(Block block);
  Entry first_entry() { return before_ ? *before_ : entry_of(logged_[0]); }
  Entry decode(uint64_t address, uint32_t size) const;
  bool comes_again(const Entry& from, Block from_block, uint64_t to, uint32_t size);
  bool condition_holds(uint64_t address) const;
  void tell_code(const Entry& from, Block from_block, uint64_t to, uint32_t size);

  ControlFlow* const sink_;
  uc_engine* engine_;
  const PageTables& tables_;
  const bool wants_code_;
  bool translated_ = false;  // a block was, and has not started yet
  BlockLog& log_;
  // Of the log; the first is the block before those that wait.
  const std::unique_ptr<Block[]> logged_ = std::make_unique<Block[]>(1 + kLogged);
  Block* end_ = &logged_[1 + kLogged];
  // Outcomes that wait for their run to end; runs that wait to be handed over.
  uint64_t outcomes_ = 0;
  uint32_t count_ = 0;
  size_t run_count_ = 0;
  uint64_t counted_ = 0;
  std::array<BranchRun, kRuns + kSteps + 1> runs_;  // follow_paths() looks at their number once a path
  // Direct-mapped: the paths; and of `blocks_` those that were asked for last.
  const std::unique_ptr<Path[]> paths_ = std::make_unique<Path[]>(size_t{1} << kPathBits);
  const std::unique_ptr<Cached[]> cache_ = std::make_unique<Cached[]>(size_t{1} << kCacheBits);
  uint32_t generation_ = 1;  // paths of others are out of date
  // What the first of `logged_` was when it ran, where its code has changed since (it wrote over itself).
  std::optional<Entry> before_;
  // As they were translated last.
  std::unordered_map<Block, Entry> blocks_;
};

}  // namespace aftercheck::soft
