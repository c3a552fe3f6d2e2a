// Guest code as the translator reads it: decoded instructions, and what is to be done with each.
#pragma once

#include <Zydis/Zydis.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "machine/address_space.h"
#include "machine/instruction_standing.h"
#include "machine/translated/accesses.h"
#include "machine/translated/stores.h"

namespace aftercheck::translated {

enum class Form : uint8_t {
  copied,         // executes as it is, but for its operand's address
  conditional,    // Jcc
  counting,       // LOOPcc, JRCXZ: they have a short displacement only
  jump,           // direct
  call,           // direct
  indirect_jump,  // through a register or memory
  indirect_call,
  ret,
  system_call,
  special,  // the host does it: see Special
};

// What the host does about an instruction of Form::special.
enum class Special : uint8_t {
  trapped,
  cpuid,
  invalid_opcode,
  general_protection,
  debug,
  breakpoint,   // INT3, in its two-byte form too
  flags,        // PUSHF, POPF: they would show or set the host's trap flag
  guest_gs,     // has an operand in GS, which is the guest's FS while it runs
  x87_pointer,  // stores the address of the last x87 instruction, which has to be the guest's
  no_fetch,     // can't be fetched at `fault`
  noted,        // where stores are journaled, or accesses noted: the host has to do that
  unsupported,
};

struct Instruction {
  ZydisDecodedInstruction decoded;
  uint64_t address = 0;
  uint64_t target = 0;  // conditional, counting, jump, call; no_fetch: the address that can't be fetched
  std::array<uint8_t, 15> bytes{};
  Form form = Form::copied;
  Special special = Special::unsupported;
  StoreShape store;       // where stores are journaled
  AccessShapes accesses;  // where accesses are noted

  uint64_t next() const { return address + decoded.length; }
  std::span<const uint8_t> code() const { return {bytes.data(), decoded.length}; }
  bool in_fs() const { return (decoded.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS) != 0; }
  bool rip_relative() const {
    return decoded.raw.modrm.offset != 0 && decoded.raw.modrm.mod == 0 && decoded.raw.modrm.rm == 5;
  }
  // Of a RIP-relative one: what it points to.
  uint64_t operand_address() const {
    const uint64_t operand = next() + static_cast<uint64_t>(decoded.raw.disp.value);
    return decoded.address_width == 32 ? static_cast<uint32_t>(operand) : operand;
  }
};

// Do processors make one of the two where they stand side by side: what compares or tests, stores nothing and
// borrows no register in translated code, and the branch on it?
bool fuse(const Instruction& first, const Instruction& second);

// Reads code out of an address space. Remembers the mapping that it read last: to be told of changes.
class CodeReader {
 public:
  CodeReader(AddressSpace& space, CpuModelKind model) : space_(space), model_(model) {}
  void forget() { executable_ = {}; }

  // Can the byte at `address` be executed, and its page be read?
  bool fetchable(uint64_t address);
  // Will all that is in the page be the same as long as its mapping is?
  bool lasting(uint64_t page) const;
  // Where the mapping begins that it is of; 0: none.
  uint64_t mapping_of(uint64_t page) const;
  // The instruction at `address`, classified.
  void read(uint64_t address, Instruction& instruction);

 private:
  AddressSpace& space_;
  const CpuModelKind model_;
  Range executable_;  // whole pages that can be fetched and read
};

}  // namespace aftercheck::translated
