// What is kept of translated code.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "machine/translated/guest_code.h"
#include "machine/translated/notes.h"

namespace aftercheck::translated {

// How the guest's registers are to be had in translated code from a place on.
enum class Held : uint8_t {
  boundary,  // all in place, and an instruction of the guest begins here
  inside,    // all in place
  counted,   // all in place, but the branch behind the instruction is counted already
  rcx,       // RCX is in Context::rcx_spill
  scratch,   // register Mark::reg is in Context::scratch
  journal,   // RAX and RCX are in Context::journal_rax and journal_rcx; a fault here is a store's
  // A path is noted, whose number is in Mark::guest. RCX is in Context::note_spill, or with RAX or R11 as
  // Mark::reg that is in Context::other_spill, RCX in rcx_spill and the target in RCX.
  note,
  // The address of an access is noted. RCX and RAX are in Context::note_spill and note_rax.
  address,
};

struct Mark {
  uint32_t offset = 0;  // in the block's code
  Held held = Held::inside;
  uint8_t reg = 0;
  // Of the block: conditional branches that have been executed, none of them taken; and accesses.
  uint8_t passed = 0, accesses = 0;
  uint64_t guest = 0;  // the instruction
};

constexpr uint32_t kNoBlock = 0xffff'ffff, kNoExit = 0xffff'ffff;

// A way out of translated code, by number.
struct ExitPoint {
  enum class Kind : uint8_t {
    link,         // the guest goes on at `target`; jumps there directly once that is translated
    special,      // the host has to do the instruction at `target`
    breakpoint,   // INT3; `target`: its last byte
    system_call,  // `target`: the next instruction
    stop,         // of a stopping translator: before the branch at `target`
    code_left,    // Context::code_left is used up, before `target`
  };
  Kind kind = Kind::link;
  uint32_t block = 0;
  uint64_t target = 0;
  // Link: where the displacement of its jump is executed, and where that goes while it is not linked.
  uint64_t patch = 0, stub = 0;
  // What the guest has been through, where that is noted but not by translated code.
  uint32_t path = kNoPath;
  // Where it is linked: to which block, and the next exit that is linked to that one.
  uint32_t linked_to = kNoBlock, next_linked = kNoExit;
};

// An indirect branch, by number.
struct Site {
  uint64_t address = 0;
  Form form = Form::ret;
  uint16_t dropped = 0;     // RET: bytes of arguments
  uint32_t path = kNoPath;  // that ends with it, where that is noted
  uint8_t accesses = 0;     // of the path before it
};

// Which table leads to a block.
enum class Table : uint8_t { jumps, returns };
constexpr size_t kTables = 2;
// Where each has the block that begins at `guest`.
constexpr uint16_t slot_of(uint64_t guest) { return static_cast<uint16_t>(guest); }

struct Block {
  uint64_t guest = 0, last = 0;  // its first byte and its last one
  uint64_t entry = 0, end = 0;   // where it is executed
  uint32_t first_mark = 0, marks = 0;
  uint32_t first_conditional = 0, first_access = 0;  // of Paths
  uint8_t area = 0;
  bool valid = true;
  bool whole = true;  // false: it ends where nothing can be fetched
  // For each table: where it is entered by it (0: not), where the displacement of the jump to the next of the
  // same table slot is executed, and that one.
  std::array<uint64_t, kTables> by_table{}, jump_to_next{};
  std::array<uint32_t, kTables> next_in_slot{kNoBlock, kNoBlock};
  uint32_t first_linked = kNoExit;  // of the exits that jump here
};

}  // namespace aftercheck::translated
