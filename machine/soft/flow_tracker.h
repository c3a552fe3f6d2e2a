// Makes the guest's control flow out of Unicorn's block events: where one block follows another, the last
// instruction of the first says what that was.
#pragma once

#include <cstdint>
#include <memory>

#include "machine/control_flow.h"
#include "machine/soft/page_tables.h"

typedef struct uc_struct uc_engine;  // unicorn/unicorn.h

namespace aftercheck::soft {

class FlowTracker {
 public:
  // All must outlive the tracker.
  FlowTracker(ControlFlow& sink, uc_engine* engine, const PageTables& tables);

  // How the engine has stopped.
  enum class Stop : uint8_t {
    inside,        // before the instruction at RIP, wherever that is
    completed,     // behind the one instruction of a single-stepped block
    system_call,   // behind the SYSCALL that ends a block
    untranslated,  // before the block at RIP, which has just been translated for the first time
  };
  void start() { previous_ = &kNowhere; }
  void stop(uint64_t rip, Stop how);

  // A block of `size` bytes starts. What is frequent is done here, with one branch that is easy to predict
  // and without saving registers; all else in slow_block().
  void block(uint64_t address, uint32_t size) {
    const Entry& from = *previous_;
    const Entry& entry = entries_[slot(address)];
    const unsigned conditional = from.is_conditional ? 1 : 0, taken = address == from.target() ? 1 : 0;
    // The last: not in the middle of the block before, see restarts().
    const bool simple = from.is_simple & ((taken | (conditional & (address == from.next() ? 1U : 0U))) != 0) &
                        (entry.block == address) & (entry.size == size) & (count_ + 1 < kMostBits) &
                        (address + size - from.block > from.last);
    if (!simple) [[unlikely]]
      return slow_block(address, size);
    bits_ = bits_ << conditional | (taken & conditional);
    count_ += conditional;
    previous_ = &entry;
    translated_ = false;
  }
  // The block at `address` has been translated anew; so does every block whose code has changed start.
  void translated(uint64_t address);
  // The host has executed the instruction at `address`.
  void executed_by_host(uint64_t address, uint64_t end) {
    if (wants_code_) sink_.executed(address, end);
  }

 private:
  // The last instruction of a block.
  enum class Kind : uint32_t {
    plain,  // goes on behind it
    repeated,
    conditional,
    degenerate,  // a conditional branch to the next instruction: the outcome is not seen by where it leads
    direct,
    indirect,
    nowhere,  // no block has started
  };
  // Small, because the tables of the guest's own translated code fill the caches already.
  struct Entry {
    uint64_t block = kNone;
    int32_t distance = 0;    // of the branch's target from the block's end; 0 where there is none
    uint32_t size : 13 = 0;  // of the block: at most 512 instructions, the translator's limit
    uint32_t last : 13 = 0;  // where the last instruction starts, counted from the block's start
    Kind kind : 3 = Kind::plain;
    bool single : 1 = false;  // the last instruction is the only one
    // For block(): plain, direct or conditional, and nobody wants to know the code; conditional.
    bool is_simple : 1 = false, is_conditional : 1 = false;

    uint64_t next() const { return block + size; }
    uint64_t target() const { return next() + static_cast<uint64_t>(static_cast<int64_t>(distance)); }
    uint64_t last_address() const { return block + last; }
  };
  static_assert(sizeof(Entry) == 16);
  static constexpr uint64_t kNone = ~uint64_t{0};
  static constexpr uint32_t kMostSize = (1 << 13) - 1;
  static const Entry kNowhere;
  static constexpr unsigned kEntryBits = 16;
  static constexpr unsigned kMostBits = 48;

  // Neighbours in the code are neighbours here.
  static size_t slot(uint64_t address) {
    return (address >> 1 ^ (address >> 12) * 0x9e3779b97f4a7c15 >> (64 - kEntryBits)) %
           (size_t{1} << kEntryBits);
  }

  void slow_block(uint64_t address, uint32_t size);
  void outcome(bool taken, uint64_t next);
  void flush(uint64_t next);
  void transition(const Entry& from, uint64_t to, uint32_t size);
  void decode(uint64_t address, uint32_t size, Entry& entry) const;
  bool restarts(const Entry& from, uint64_t to, uint32_t size) const;
  bool condition_holds(const Entry& from) const;
  void tell_code(const Entry& from, uint64_t to);

  ControlFlow& sink_;
  uc_engine* engine_;
  const PageTables& tables_;
  const bool wants_code_;
  bool translated_ = false;  // a block was, and has not started yet
  const Entry* previous_ = &kNowhere;
  uint64_t bits_ = 0;
  unsigned count_ = 0;
  Entry spare_;  // what previous_ points to when its place in the table is taken
  // Direct-mapped.
  const std::unique_ptr<Entry[]> entries_ = std::make_unique<Entry[]>(size_t{1} << kEntryBits);
};

}  // namespace aftercheck::soft
