// Tells the guest's control flow, and what else it does, from what translated code has noted.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "machine/control_flow.h"
#include "machine/instrument.h"
#include "machine/memory_accesses.h"
#include "machine/translated/notes.h"

namespace aftercheck::translated {

// To a ControlFlow.
class FlowTeller {
 public:
  explicit FlowTeller(ControlFlow& flow) : flow_(flow), wants_code_(flow.wants_code()) {}

  bool wants_code() const { return wants_code_; }
  void tell(const NoteBuffer& notes, const Paths& paths);
  void tell(const Path& path, uint64_t target, const Paths& paths);
  // Everything is told.
  void stop();

 private:
  static constexpr size_t kRuns = 256;
  // Such a run has room for another path.
  static constexpr uint32_t kFull = BranchRun::kMost - kMostConditionals;

  ControlFlow& flow_;
  const bool wants_code_;
  uint64_t outcomes_ = 0;
  uint32_t count_ = 0;
  // Where the guest was after what is in them. What came then, and had no branch, may have been a SYSCALL.
  uint64_t behind_ = 0;
  std::array<BranchRun, kRuns> runs_;
  size_t run_count_ = 0;

  void put(uint64_t next, bool indirect);
  void hand_over();
};

// To an Instrument.
class InstrumentTeller {
 public:
  explicit InstrumentTeller(Instrument& instrument) : instrument_(instrument), wants_(instrument.wants()) {}

  const Instrument::Wants& wants() const { return wants_; }
  // What the host has found out of the instruction that comes next, alone.
  std::vector<MemoryAccess> found;

  void tell(const NoteBuffer& notes, const Paths& paths);
  // Of its addresses, those behind what was told last.
  void tell(const Path& path, uint64_t target, const Paths& paths);
  // Without a block.
  void tell_found(uint64_t instruction);
  // Addresses start anew.
  void begin(const NoteBuffer& notes) { address_ = notes.addresses(); }
  void hand_over();

 private:
  static constexpr size_t kMost = 1024;

  Instrument& instrument_;
  const Instrument::Wants wants_;
  const uint64_t* address_ = nullptr;
  std::vector<Executed> events_;

  void add(const Executed& event) {
    events_.push_back(event);
    if (events_.size() >= kMost) hand_over();
  }
};

// To whoever wants to be told. Not thread-safe.
class PathTeller {
 public:
  // All must outlive the teller; one of the first two may be null.
  PathTeller(ControlFlow* flow, Instrument* instrument, NoteBuffer& notes);

  // What has to be noted.
  bool wants_all_paths() const { return instrument_ || flow_->wants_code(); }
  bool wants_accesses() const { return instrument_ && instrument_->wants().accesses; }

  // Notes are of these paths from now on.
  void change_paths(const Paths& paths) {
    if (paths_ == &paths) return;
    drain();
    paths_ = &paths;
  }
  // Everything that is noted is told.
  void drain();
  // The guest went that path, behind everything that is noted; from an indirect branch to `target`. Its
  // accesses are noted, and no others.
  void went(const Path& path, uint64_t target = 0);
  // The host has executed that instruction, which is no branch.
  void executed(uint64_t start, uint64_t end);
  // The indirect branch that was noted last did not come true.
  void take_back_indirect() { notes_.take_back_indirect(); }
  // What the host has found out of the instruction that it is about to execute or have executed alone; only
  // where wants_accesses(). Told with its path, or by tell_accesses() without.
  void expect(std::vector<MemoryAccess> accesses) { instrument_->found = std::move(accesses); }
  void tell_accesses(uint64_t instruction) {
    drain();
    instrument_->tell_found(instruction);
  }
  // Everything is told.
  void stop();

 private:
  std::optional<FlowTeller> flow_;
  std::optional<InstrumentTeller> instrument_;
  NoteBuffer& notes_;
  const Paths* paths_ = nullptr;

  void tell_notes();
  void clear();
};

}  // namespace aftercheck::translated
