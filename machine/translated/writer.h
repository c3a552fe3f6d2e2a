// Writes the translation of single instructions.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "machine/translated/block.h"
#include "machine/translated/context.h"
#include "machine/translated/counting.h"
#include "machine/translated/emitter.h"
#include "machine/translated/growable.h"
#include "machine/translated/guest_code.h"

namespace aftercheck::translated {

// Code of the recorder's in an area: what enters and leaves translated code.
struct Routines {
  uint64_t enter = 0, enter_end = 0;
  uint64_t leave = 0;  // all registers are the guest's; Context::exit says why
  uint64_t leave_by_kick = 0;
  std::array<uint64_t, kTables> missed{};  // no table has the target, which is in RCX
  uint64_t end = 0;                        // of all that goes out or in
  uint64_t load_x87 = 0;  // what comes back to where RCX says, and changes nothing else of the guest's
};

// Addresses below 2 GiB.
struct Places {
  const Context* context = nullptr;
  const Tables* tables = nullptr;

  template <typename Member>
  uint64_t of(Member Context::*member) const {
    return reinterpret_cast<uint64_t>(&(context->*member));
  }
  uint64_t table(Table which) const {
    return reinterpret_cast<uint64_t>(which == Table::jumps ? tables->jumps.data() : tables->returns.data());
  }
  uint64_t slot(size_t number) const {
    return reinterpret_cast<uint64_t>(&context->slots[number % kCountSlots]);
  }
};

// What translated code notes of its own execution: see Style.
struct Notes {
  bool flow = false, code = false, accesses = false;
};

// How instructions are translated.
struct Style {
  CpuModelKind model = CpuModelKind::portable;
  Counting counting = Counting::memory;
  bool stopping = false;   // count down Context::left at each branch, and leave before the last
  bool alone = false;      // one instruction, which goes nowhere but out
  bool journaled = false;  // note stores in the journal, and count down Context::code_left at each block
  bool flow = false;       // note paths, but for those that go through no branch that a trace would tell
  bool code = false;       // with `flow`: note all paths
  bool accesses = false;   // with `code`: note the addresses of what is accessed
  bool loop = false;       // LOOP is fast
};

// Writes the routines at `at`.
Routines write_routines(Emitter& at, const Places& places, const Style& style);

class Writer {
 public:
  // Both parts of the area; `hot` is where code is executed mostly, `cold` has what is executed seldom, and
  // constants.
  Writer(Emitter& hot, Emitter& cold, const Routines& routines, const Places& places, Style style)
      : hot_(hot), cold_(cold), routines_(routines), places_(places), style_(style) {}

  // Where exits and sites get their numbers; where a block starts that translates `target` and is within
  // reach, or 0.
  Growable<ExitPoint>* exits = nullptr;
  Growable<Site>* sites = nullptr;
  Growable<Mark>* marks = nullptr;
  Paths* paths = nullptr;
  std::function<uint64_t(uint64_t target, uint32_t exit)> entry_of;

  void begin_block(uint32_t number, uint64_t guest) {
    block_ = number;
    guest_ = guest;
    start_ = hot_.here();
    x87_loaded_ = false;
    if (!style_.flow) return;
    first_conditional_ = static_cast<uint32_t>(paths->conditionals.size());
    first_access_ = static_cast<uint32_t>(paths->accesses.size());
  }
  // Leaves at `guest`, where a block of so many bytes begins, when no more code may be executed.
  void write_code_left(uint64_t guest, uint64_t bytes);
  // `instruction` is written next, and behind it the branch of this block that is counted here, before both.
  void count_ahead(const Instruction& instruction);
  // `goes_on`: a jump's target, or what is behind a branch, is written next. True where it ends the block.
  bool write(const Instruction& instruction, bool goes_on);
  // Goes on behind the last instruction, which ends at `target`.
  void write_behind(uint64_t target) { jump_on(target, PathEnd::behind, target); }
  // Everything is written but what taken branches lead to.
  void finish_block();

  // How a block is entered by a table, its target in RCX: leaves RCX and the other register as they were, and
  // continues right behind.
  struct TableEntry {
    uint64_t start = 0;  // where it is executed
    uint64_t next = 0;   // where the displacement of the jump to the next block of the slot is executed
  };
  TableEntry write_table_entry(Table table, uint64_t guest);
  static constexpr uint64_t kBeforeTableEntry = 5;  // bytes that it writes before its start

 private:
  Emitter& hot_;
  Emitter& cold_;
  const Routines& routines_;
  const Places places_;
  const Style style_;
  uint32_t block_ = 0;
  uint64_t guest_ = 0;  // where it starts
  uint64_t start_ = 0;
  uint32_t counted_ = 0;     // for the slots
  bool x87_loaded_ = false;  // by the block, before where it is written now
  uint32_t first_conditional_ = 0, first_access_ = 0;
  uint8_t passed_ = 0;    // conditional branches that lie behind
  uint8_t accesses_ = 0;  // that are noted, of instructions that lie behind
  uint8_t own_ = 0;       // and of this one
  // Branches that are taken after their path is noted.
  struct Taken {
    Emitter displacement;
    uint64_t target = 0;
    uint32_t path = 0;
  };
  std::vector<Taken> taken_;
  bool ahead_ = false;  // count_ahead() has counted the next branch

  void mark(Held held, uint64_t guest, unsigned reg = 0);
  uint32_t add_exit(ExitPoint::Kind kind, uint64_t target);
  void leave(ExitPoint::Kind kind, uint64_t target, uint64_t end);
  void jump_on(uint64_t target, PathEnd how, uint64_t end, uint64_t last = 0);
  void note_accesses(const Instruction& instruction);
  void note_access(const Instruction& instruction, const AccessShape& shape);
  uint32_t add_path(uint64_t end, uint64_t next, PathEnd how, uint64_t last = 0);
  void note(uint32_t path);
  void note_number(unsigned reg, uint32_t path);
  void keep(unsigned reg, unsigned vector, uint64_t address);
  void load_kept(unsigned reg, unsigned vector, uint64_t address);
  void add_fs_base();
  void advance_place(unsigned reg, unsigned vector, unsigned size, uint64_t address);
  void note_indirect(uint32_t path, unsigned other);
  void jump_if_taken(const Instruction& instruction);
  void write_counting(const Instruction& instruction);
  void link(uint64_t target);
  void count();
  void stop_if_last(uint64_t address);
  void leave_if_zero(uint64_t spill, ExitPoint::Kind kind, uint64_t target);
  void write_address(const Instruction& instruction);
  void write_operand_address(const Instruction& instruction);
  void note_store(const Instruction& instruction);
  void load_x87(uint64_t guest);
  void push(uint64_t value);
  void load_operand(const Instruction& instruction);
  bool near(const Instruction& instruction, size_t length_left) const;
  void copy_prefixed(const Instruction& instruction, size_t end, bool clears_index);
  void write_copied(const Instruction& instruction);
  void write_far(const Instruction& instruction);
  void write_indirect(const Instruction& instruction);
  void write_lookup(const Instruction& instruction, Table table);
};

}  // namespace aftercheck::translated
