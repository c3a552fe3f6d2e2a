// Writes the items of a random program: its state at the start, registers that hold what instructions need,
// operands in memory.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "tests/machine/random_program.h"

namespace aftercheck {

// By number in encoding.
inline constexpr unsigned kRcx = 1, kRbx = 3, kRsp = 4, kRbp = 5, kRsi = 6, kRdi = 7, kR11 = 11;
inline constexpr unsigned kRegisters = 16;
// Of VEX, as VexFields::choices has them.
inline constexpr unsigned kVexWide = 1, kVexLong = 2;
// Where no guest has anything.
inline constexpr uint64_t kNotCanonical = 0x8000'1234'5678'9abc, kKernel = 0xffff'8000'0000'1000;

template <typename Integer>
void append(Code& code, Integer value) {
  std::array<uint8_t, sizeof value> bytes{};
  std::memcpy(bytes.data(), &value, sizeof value);
  code.insert(code.end(), bytes.begin(), bytes.end());
}
inline void append(Code& code, const Code& more) { code.insert(code.end(), more.begin(), more.end()); }

inline uint8_t byte(uint64_t value) { return static_cast<uint8_t>(value); }
inline bool fits8(uint64_t value) { return static_cast<uint64_t>(static_cast<int8_t>(value)) == value; }
inline bool fits32(uint64_t value) { return static_cast<uint64_t>(static_cast<int32_t>(value)) == value; }

// An operand in memory as an instruction has it.
struct Operand {
  Code prefixes{};                     // segment, address size
  bool index_high = false;             // REX.X
  bool base_high = false;              // REX.B
  uint8_t modrm = 0;                   // without reg
  Code rest{};                         // SIB and displacement
  std::optional<uint64_t> relative{};  // to RIP: what the displacement leads to
};

// What makers of programs write with. It keeps to what makes a program harmless: an address is in a register
// that was set to it, by an item which the instruction names among its needs, and which nothing has changed
// in between.
class ProgramWriter {
 public:
  // Where the program's slot is decides where most of its data is.
  ProgramWriter(uint64_t seed, size_t slot)
      : random_(seed), home_(site_of_slot(slot)), code_(start_of_slot(slot)) {
    program_.seed = seed;
    program_.slot = slot;
  }

 protected:
  struct Known {
    uint64_t value;
    size_t item;  // that has set it
  };

  RandomNumbers random_;
  const Site& home_;
  uint64_t code_;
  Program program_;
  std::array<std::optional<Known>, kRegisters> known_{};  // since the last place that a jump may come to
  uint32_t reserved_ = 1U << kRsp;                        // registers that no form may write
  // Of the instruction that is being made: what it needs, and the registers that hold it.
  std::vector<size_t> needs_;
  uint32_t used_ = 0;

  // The program's state at the start.
  void make_state(CpuModelKind model);
  // The program's own, mostly.
  const Site& any_site();

  // --- items ---

  // Both return its number.
  size_t add(Item item);
  size_t put(Code bytes) { return add({.bytes = std::move(bytes)}); }
  void begin_instruction();
  void put_label(size_t label);
  // They hold something else now; a bit for each.
  void forget(uint32_t registers);

  bool is_reserved(unsigned reg) const { return (reserved_ >> reg & 1) != 0; }
  // A register that holds nothing which the instruction relies on.
  unsigned free_register();

  // The register has the value before the instruction that is being made.
  void set(unsigned reg, uint64_t value);
  size_t put_set(unsigned reg, uint64_t value);

  // --- addresses ---

  // Writable, aligned, with room for what is stored whole.
  uint64_t safe_address(uint64_t size);
  // One of 25 may not be accessed, or not all of it, or not so. `alignment`: a power of two, or 0 where it
  // need not be aligned. `odd`: it may be where no guest has anything.
  uint64_t address(uint64_t size, uint64_t alignment, bool odd = true);

  // Of the segment: its base. AMD's processors raise #GP where the offset by itself is not canonical, though
  // the sum with the base is; to KVM, which emulates an access that fails so, the sum counts.
  uint64_t choose_segment(Code& prefixes, uint64_t address);

  // Within the segment, which the prefixes name.
  uint64_t offset(Code& prefixes, uint64_t address) { return address - choose_segment(prefixes, address); }

  uint64_t displacement();

  // At that address, in any of the ways that encodings have.
  Operand operand(uint64_t address);

  // By a base register, and perhaps an index.
  void based(Operand& made, uint64_t offset, bool narrow);

  void encode_base(Operand& made, unsigned base, unsigned index, unsigned scale, uint64_t distance);

  // [register], which holds an address where all of it can be stored: what surrounds a control word and the
  // like. Its encoding takes no SIB byte, and no displacement.
  unsigned plain_pointer(uint64_t size);
  // Instruction with [reg] or [reg + distance].
  static Code with_pointer(Code prefixes, bool wide, const Code& opcode, unsigned extension, unsigned reg,
                           uint8_t distance = 0);

  // --- VEX ---

  struct VexOperands {
    unsigned extensions;  // R, X and B, as REX has them
    unsigned source;      // VVVV; 0 where it has to be 1111
  };
  // `choice`: W + 2 L. The prefix of two bytes where that can be, unless it is to be the long one.
  static Code vex_prefix(const VexFields& form, unsigned choice, const VexOperands& operands, bool is_long);

  // The vector register has four elements of 64 bits, or eight of 32, before the instruction that is being
  // made.
  void set_vector(unsigned vector, const std::array<uint64_t, 4>& words);

  // Of a gather: a base, and indices of 32 or 64 bits in another register than the mask. Some KiB to either
  // side of one place; now and then an element is where nothing is mapped.
  Operand gathered(bool wide, unsigned mask);

  // An instruction that is none.
  Code undefined_vex();
};

}  // namespace aftercheck
