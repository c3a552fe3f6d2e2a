// Guest programs made at random: straight stretches, forward branches, loops and calls, of all forms of
// instruction of a CPU model. What is the same in two programs of one seed: everything.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "machine/registers.h"
#include "tests/machine/random_forms.h"
#include "tests/machine/random_numbers.h"
#include "tests/machine/random_places.h"

namespace aftercheck {

// An instruction, or a place that branches go to.
struct Item {
  enum class Kind : uint8_t {
    plain,         // `bytes`
    rip_relative,  // `bytes`, with a displacement of 4 bytes at `at` that leads to `target`
    label,         // none
    jump,  // bytes[0] is the opcode with a displacement of one byte: JMP, Jcc, LOOP and its kind, JRCXZ;
           // `prefixed` where an address-size prefix comes before. To `label`
    call,  // to `label`
    address_of,  // `bytes`, with 8 bytes at `at` that are the address of `label`
  };
  Kind kind = Kind::plain;
  Code bytes{};
  size_t at = 0;
  uint64_t target = 0;
  size_t label = 0;
  bool prefixed = false;
  // What must be there for it to do no harm: numbers of items that come before. Without the address in a
  // register an access would go anywhere, and translated code shares the process with this test.
  std::vector<size_t> needs{};
  // It goes where this one goes: removed with it, and only with it.
  std::optional<size_t> part_of{};
  bool keeps = false;  // it stays: ends of the program and of functions, labels
};

struct Program {
  uint64_t seed = 0;
  size_t slot = 0;
  std::vector<Item> items;
  std::vector<std::pair<uint64_t, uint64_t>> words;  // of memory: addresses and what they hold at the start
  Registers registers;
  FpuState fpu;
};

// A program's code as it lies in its slot.
struct Laid {
  uint64_t start = 0;
  Code code;
  // Ascending: where instructions begin, and where the next one does.
  std::vector<std::pair<uint64_t, uint64_t>> instructions;
  uint64_t end = 0;  // the INT3 at which the program ends
};
// Of items that `left` has (all where it is empty). Nothing where it is larger than a slot.
std::optional<Laid> lay(const Program& program, const std::vector<bool>& left = {});

// Some 50 to 200 instructions as they are written down; loops execute some several times.
Program make_program(const FormTable& forms, uint64_t seed, size_t slot);

// A line for each instruction.
std::string listing(const Laid& laid);

}  // namespace aftercheck
