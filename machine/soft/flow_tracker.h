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
  void start() { previous_ = nullptr; }
  void stop(uint64_t rip, Stop how);

  // A block of `size` bytes starts.
  void block(uint64_t address, uint32_t size) {
    translated_ = false;
    Entry* entry = &entries_[slot(address)];
    if (previous_ != nullptr) transition(*previous_, address, size);
    if (entry->block != address || entry->size != size) [[unlikely]]
      *entry = decode(address, size);
    previous_ = entry;
  }
  // The block at `address` has been translated anew; so does every block whose code has changed start.
  void translated(uint64_t address) {
    Entry& entry = entries_[slot(address)];
    if (previous_ == &entry) {
      spare_ = entry;
      previous_ = &spare_;
    }
    entry.block = kNone;
    translated_ = true;
  }
  // The host has executed the instruction at `address`.
  void executed_by_host(uint64_t address, uint64_t end) {
    if (wants_code_) sink_.executed(address, end);
  }

 private:
  // The last instruction of a block.
  enum class Kind : uint8_t {
    plain,  // goes on behind it
    repeated,
    conditional,
    degenerate,  // a conditional branch to the next instruction: the outcome is not seen by where it leads
    direct,
    indirect,
  };
  struct Entry {
    uint64_t block = kNone;
    uint64_t target = 0;  // of direct and conditional branches
    uint64_t last = 0;    // its address
    uint32_t size = 0;    // of the block
    uint32_t instructions = 0;
    Kind kind = Kind::plain;
  };
  static constexpr uint64_t kNone = ~uint64_t{0};
  static constexpr size_t kEntries = size_t{1} << 14;
  static constexpr unsigned kMostBits = 48;

  static size_t slot(uint64_t address) { return (address ^ address >> 14) % kEntries; }

  void transition(const Entry& from, uint64_t to, uint32_t size) {
    if (to - from.block < from.size && size != 0 && (from.kind == Kind::plain || to + size <= from.last) &&
        restarts(from, to, size)) [[unlikely]] {
      if (wants_code_ && to != from.block) sink_.executed(from.block, to);
      return;
    }
    if (wants_code_) [[unlikely]]
      tell_code(from, to);
    const uint64_t next = from.block + from.size;
    switch (from.kind) {
      case Kind::conditional:
        if (to == from.target || to == next) return outcome(to == from.target, to);
        break;
      case Kind::indirect:
        flush(to);
        return sink_.indirect(to);
      case Kind::direct:
        if (to == from.target) return;
        break;
      case Kind::plain:
        if (to == next) return;
        break;
      case Kind::repeated:
        if (to == next || to == from.last) return;
        break;
      case Kind::degenerate:
        if (to == next) return outcome(condition_holds(from), to);
        break;
    }
    flush(to);
    sink_.lost(to);
  }

  void outcome(bool taken, uint64_t next) {
    bits_ = bits_ << 1 | (taken ? 1 : 0);
    if (++count_ == kMostBits) flush(next);
  }
  void flush(uint64_t next) {
    if (count_ != 0) sink_.conditionals(bits_, count_, next);
    bits_ = 0;
    count_ = 0;
  }

  Entry decode(uint64_t address, uint32_t size) const;
  bool restarts(const Entry& from, uint64_t to, uint32_t size) const;
  bool condition_holds(const Entry& from) const;
  void tell_code(const Entry& from, uint64_t to);

  ControlFlow& sink_;
  uc_engine* engine_;
  const PageTables& tables_;
  const bool wants_code_;
  bool translated_ = false;  // a block was, and has not started yet
  const Entry* previous_ = nullptr;
  uint64_t bits_ = 0;
  unsigned count_ = 0;
  Entry spare_;  // what previous_ points to when its place in the table is taken
  const std::unique_ptr<Entry[]> entries_ = std::make_unique<Entry[]>(kEntries);  // direct-mapped
};

}  // namespace aftercheck::soft
