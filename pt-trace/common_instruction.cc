#include "pt-trace/common_instruction.h"

#include <array>
#include <cstring>
#include <initializer_list>

namespace aftercheck::pt {
namespace {

// How an opcode goes on. Bits of `Form`.
enum : uint16_t {
  known = 1,  // 0: ask Zydis
  modrm = 2,
  imm8 = 4,
  imm_z = 8,         // 2 bytes with prefix 66, else 4
  imm_v = 16,        // as imm_z, but 8 with REX.W (MOV r, imm)
  memory_only = 32,  // register form is another or no instruction
  no_f2_f3 = 64,     // prefixes F2 and F3 would make it another or no instruction
  no_66 = 128,
  branch = 256,  // relative: immediate is the displacement
  by_reg = 512,  // meaning depends on the ModRM reg field: `reg_allowed` has a bit for each plain one
};

struct Form {
  uint16_t flags = 0;
  uint8_t reg_allowed = 0xff;
  InstructionKind kind = InstructionKind::other;
};

using Map = std::array<Form, 256>;

// Intel SDM vol. 2, appendix A, tables; only opcodes that are valid with every prefix we let
// pass.
constexpr Map make_one_byte() {
  Map map{};
  const auto set = [&map](unsigned first, unsigned last, unsigned flags) {
    for (unsigned op = first; op <= last; ++op) map[op].flags = static_cast<uint16_t>(known | flags);
  };
  for (unsigned op = 0; op < 0x40; op += 8) {  // ADD OR ADC SBB AND SUB XOR CMP
    set(op, op + 3, modrm);
    set(op + 4, op + 4, imm8);
    set(op + 5, op + 5, imm_z);
  }
  set(0x50, 0x5f, 0);
  set(0x63, 0x63, modrm);
  set(0x68, 0x68, imm_z);
  set(0x69, 0x69, modrm | imm_z);
  set(0x6a, 0x6a, imm8);
  set(0x6b, 0x6b, modrm | imm8);
  set(0x70, 0x7f, imm8 | branch | no_66);
  for (unsigned op = 0x70; op <= 0x7f; ++op) map[op].kind = InstructionKind::conditional;
  set(0x80, 0x80, modrm | imm8);
  set(0x81, 0x81, modrm | imm_z);
  set(0x83, 0x83, modrm | imm8);
  set(0x84, 0x8b, modrm);
  set(0x8d, 0x8d, modrm | memory_only);
  set(0x90, 0x99, 0);
  set(0x9c, 0x9f, 0);
  set(0xa4, 0xa7, 0);
  set(0xa8, 0xa8, imm8);
  set(0xa9, 0xa9, imm_z);
  set(0xaa, 0xaf, 0);
  set(0xb0, 0xb7, imm8);
  set(0xb8, 0xbf, imm_v);
  set(0xc0, 0xc1, modrm | imm8 | by_reg);
  set(0xc3, 0xc3, no_66);
  map[0xc3].kind = InstructionKind::near_return;
  set(0xc6, 0xc6, modrm | imm8 | by_reg);
  set(0xc7, 0xc7, modrm | imm_z | by_reg);
  set(0xc9, 0xc9, 0);
  set(0xd0, 0xd3, modrm | by_reg);
  for (const unsigned op : {0xc0u, 0xc1u, 0xd0u, 0xd1u, 0xd2u, 0xd3u}) map[op].reg_allowed = 0xbf;
  map[0xc6].reg_allowed = map[0xc7].reg_allowed = 0x01;
  set(0xe8, 0xe9, imm_z | branch | no_66);
  map[0xe8].kind = InstructionKind::direct_call;
  map[0xe9].kind = InstructionKind::direct_jump;
  set(0xeb, 0xeb, imm8 | branch | no_66);
  map[0xeb].kind = InstructionKind::direct_jump;
  set(0xf6, 0xf7, modrm | by_reg);  // reg 0, TEST, has an immediate: see group3_immediate
  map[0xf6].reg_allowed = map[0xf7].reg_allowed = 0xfd;
  set(0xf8, 0xf9, 0);
  set(0xfc, 0xfd, 0);
  set(0xfe, 0xff, modrm | by_reg);
  map[0xfe].reg_allowed = 0x03;
  map[0xff].reg_allowed = 0x57;  // INC DEC CALL JMP PUSH
  return map;
}

constexpr Map make_two_byte() {
  Map map{};
  const auto set = [&map](unsigned first, unsigned last, unsigned flags) {
    for (unsigned op = first; op <= last; ++op) map[op].flags = static_cast<uint16_t>(known | flags);
  };
  set(0x10, 0x11, modrm);  // MOVUPS and the like: valid with 66, F2, F3
  set(0x1f, 0x1f, modrm | by_reg | no_f2_f3);
  map[0x1f].reg_allowed = 0x01;       // NOP
  set(0x28, 0x29, modrm | no_f2_f3);  // MOVAPS
  set(0x2e, 0x2f, modrm | no_f2_f3);
  set(0x40, 0x4f, modrm | no_f2_f3);  // CMOVcc
  set(0x54, 0x54, modrm | no_f2_f3);
  set(0x57, 0x57, modrm | no_f2_f3);
  for (const unsigned op : {0x58u, 0x59u, 0x5cu, 0x5eu}) set(op, op, modrm);
  for (const unsigned op : {0x6eu, 0x6fu, 0x74u, 0x75u, 0x76u, 0x7fu, 0xd4u, 0xdau, 0xebu, 0xefu, 0xfau,
                            0xfbu, 0xfcu, 0xfdu, 0xfeu})
    set(op, op, modrm | no_f2_f3);
  set(0x80, 0x8f, imm_z | branch | no_66);
  for (unsigned op = 0x80; op <= 0x8f; ++op) map[op].kind = InstructionKind::conditional;
  set(0x90, 0x9f, modrm | no_f2_f3);  // SETcc
  set(0xa2, 0xa2, no_f2_f3);          // CPUID
  for (const unsigned op : {0xa3u, 0xa5u, 0xabu, 0xadu, 0xafu, 0xb0u, 0xb1u, 0xb3u, 0xb6u, 0xb7u, 0xbbu,
                            0xbeu, 0xbfu, 0xc0u, 0xc1u})
    set(op, op, modrm | no_f2_f3);
  set(0xa4, 0xa4, modrm | imm8 | no_f2_f3);
  set(0xac, 0xac, modrm | imm8 | no_f2_f3);
  set(0xba, 0xba, modrm | imm8 | by_reg | no_f2_f3);
  map[0xba].reg_allowed = 0xf0;
  set(0xc8, 0xcf, no_f2_f3);  // BSWAP
  return map;
}

constexpr Map one_byte = make_one_byte();
constexpr Map two_byte = make_two_byte();

// Bytes of ModRM, SIB and displacement with 32- or 64-bit addressing (Intel SDM vol. 2, tables 2-2 and 2-3).
unsigned modrm_size(const uint8_t* at) {
  const unsigned mod = at[0] >> 6;
  const unsigned rm = at[0] & 7;
  if (mod == 3) return 1;
  const bool sib = rm == 4;
  const bool base_is_disp = mod == 0 && (sib ? (at[1] & 7) == 5 : rm == 5);
  const unsigned displacement = mod == 1 ? 1 : (mod == 2 || base_is_disp) ? 4 : 0;
  return 1 + (sib ? 1 : 0) + displacement;
}

int64_t read_signed(const uint8_t* at, unsigned size) {
  if (size == 1) return static_cast<int8_t>(*at);
  int32_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

struct Prefixes {
  bool operand_size = false;
  bool repeat = false;
  uint8_t rex = 0;
  unsigned size = 0;
};

// False when there is a prefix that the tables don't allow for.
bool read_prefixes(const uint8_t* bytes, bool bits64, Prefixes& prefixes) {
  for (; prefixes.size < 4; ++prefixes.size) {
    switch (bytes[prefixes.size]) {
      case 0x66:
        prefixes.operand_size = true;
        continue;
      case 0xf2:
      case 0xf3:
        prefixes.repeat = true;
        continue;
      case 0x2e:
      case 0x36:
      case 0x3e:
      case 0x26:
      case 0x64:
      case 0x65:
        continue;
      case 0x67:
      case 0xf0:
        return false;
      default:
        break;
    }
    if (bits64 && (bytes[prefixes.size] & 0xf0) == 0x40) prefixes.rex = bytes[prefixes.size++];
    return true;
  }
  return false;
}

}  // namespace

Instruction decode_common(const uint8_t* bytes, uint64_t address, ExecMode mode) {
  const bool bits64 = mode == ExecMode::bits64;
  Prefixes prefixes;
  if (!read_prefixes(bytes, bits64, prefixes)) return {};
  const uint8_t* at = bytes + prefixes.size;
  const bool escaped = *at == 0x0f;
  if (escaped) ++at;
  const uint8_t opcode = *at++;
  Form form = (escaped ? two_byte : one_byte)[opcode];
  if (!bits64 && !escaped && (opcode & 0xf0) == 0x40) form.flags = known;  // INC and DEC in 32-bit code
  if ((form.flags & known) == 0) return {};
  if ((form.flags & no_f2_f3) != 0 && prefixes.repeat) return {};
  if ((form.flags & no_66) != 0 && prefixes.operand_size) return {};
  if ((form.flags & modrm) != 0) {
    const unsigned reg = at[0] >> 3 & 7;
    const bool is_register = at[0] >> 6 == 3;
    if ((form.flags & memory_only) != 0 && is_register) return {};
    if ((form.flags & by_reg) != 0) {
      if ((form.reg_allowed >> reg & 1) == 0) return {};
      if (!escaped && opcode == 0xff && (reg == 2 || reg == 4)) {
        if (prefixes.operand_size) return {};
        form.kind = reg == 2 ? InstructionKind::indirect_call : InstructionKind::indirect_jump;
      }
      if (!escaped && (opcode & 0xfe) == 0xf6 && reg == 0)
        form.flags |= opcode == 0xf6 ? imm8 : imm_z;  // TEST
    }
    at += modrm_size(at);
  }
  unsigned immediate = 0;
  if ((form.flags & imm8) != 0) immediate = 1;
  if ((form.flags & (imm_z | imm_v)) != 0) immediate = prefixes.operand_size ? 2 : 4;
  // REX.W wins over prefix 66.
  if ((prefixes.rex & 8) != 0 && immediate == 2) immediate = 4;
  if ((form.flags & imm_v) != 0 && (prefixes.rex & 8) != 0) immediate = 8;
  Instruction result;
  result.kind = form.kind;
  result.size = static_cast<uint8_t>(static_cast<unsigned>(at - bytes) + immediate);
  if (result.size > 15) return {};
  if ((form.flags & branch) != 0) {
    result.target = address + result.size + static_cast<uint64_t>(read_signed(at, immediate));
    if (!bits64) result.target &= 0xffffffff;
  }
  return result;
}

}  // namespace aftercheck::pt
