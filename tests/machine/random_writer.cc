#include "tests/machine/random_writer.h"

#include <algorithm>

namespace aftercheck {

void ProgramWriter::make_state(CpuModelKind model) {
  Registers& r = program_.registers;
  for (const auto reg : kByEncoding) r.*reg = random_.integer();
  r.rsp = home_.stack().start + home_.stack().size() / 2 + 8 * random_.below(64);
  r.rflags = rflags::kFixed | (random_.bits() & rflags::kStatus) | (random_.in(4) ? rflags::kDirection : 0);
  r.fs_base = random_.in(4) ? 0 : any_site().writable().start + 8 * random_.below(0x200);
  r.gs_base = random_.in(4) ? 0 : any_site().writable().start + random_.below(0x1000);
  program_.fpu = random_.fpu();
  if (model == CpuModelKind::v3) random_.fill_upper(program_.fpu);
  constexpr size_t kWords = 48;
  for (size_t i = 0; i < kWords; ++i) {
    const Range range = random_.in(4) ? any_site().stack() : any_site().writable();
    program_.words.emplace_back(range.start + 8 * random_.below(range.size() / 8), random_.number());
  }
}

const Site& ProgramWriter::any_site() {
  if (!random_.in(3)) return home_;
  return kSites[random_.below(kSites.size())];
}

size_t ProgramWriter::add(Item item) {
  program_.items.push_back(std::move(item));
  return program_.items.size() - 1;
}

void ProgramWriter::begin_instruction() {
  needs_.clear();
  used_ = 0;
}

void ProgramWriter::put_label(size_t label) {
  add({.kind = Item::Kind::label, .label = label, .keeps = true});
  known_.fill({});
}

void ProgramWriter::forget(uint32_t registers) {
  for (unsigned reg = 0; reg < kRegisters; ++reg)
    if ((registers >> reg & 1) != 0) known_[reg].reset();
}

unsigned ProgramWriter::free_register() {
  for (;;) {
    const auto reg = static_cast<unsigned>(random_.below(kRegisters));
    if (((used_ | reserved_) >> reg & 1) == 0) return reg;
  }
}

void ProgramWriter::set(unsigned reg, uint64_t value) {
  used_ |= 1U << reg;
  if (!known_[reg] || known_[reg]->value != value) known_[reg] = Known{value, put_set(reg, value)};
  needs_.push_back(known_[reg]->item);
}

size_t ProgramWriter::put_set(unsigned reg, uint64_t value) {
  const uint8_t high = byte(reg >> 3), low = byte(reg & 7);
  Code code;
  // A jump to here is rarer than what its length, which is not known yet, could matter for.
  const uint64_t distance = value - code_;
  if (fits32(distance + 2 * kProgramSize) && fits32(distance - 2 * kProgramSize) && random_.in(2)) {
    code = {byte(0x48 | high << 2), 0x8d, byte(5 | low << 3), 0, 0, 0, 0};  // lea reg, [rip + ...]
    return add({.kind = Item::Kind::rip_relative, .bytes = code, .at = 3, .target = value});
  }
  if (value <= UINT32_MAX && random_.in(4, 3)) {
    if (high != 0) code.push_back(0x41);
    code.push_back(byte(0xb8 | low));
    append(code, static_cast<uint32_t>(value));
  } else if (fits32(value)) {
    code = {byte(0x48 | high), 0xc7, byte(0xc0 | low)};
    append(code, static_cast<uint32_t>(value));
  } else {
    code = {byte(0x48 | high), byte(0xb8 | low)};
    append(code, value);
  }
  return put(code);
}

uint64_t ProgramWriter::safe_address(uint64_t size) {
  const Range range = any_site().writable();
  return range.start + 16 * random_.below((range.size() - size) / 16);
}

uint64_t ProgramWriter::address(uint64_t size, uint64_t alignment, bool odd) {
  const Site& site = any_site();
  const Range range = random_.in(8) ? site.stack() : site.writable();
  switch (random_.below(100)) {
    case 0:
      return site.read_only().start + random_.below(kPageSize);
    case 1:
      return site.hole().start + random_.below(site.hole().size());
    case 2:
      return range.start - random_.below(size + 1);
    case 3:
      return range.end - random_.below(size + 1);
    case 4:
      if (!odd) break;
      return random_.in(3) ? kNotCanonical : random_.in(2) ? kKernel : random_.below(64);
    case 5:
    case 6:
    case 7:  // two pages
      return range.start + kPageSize - (alignment != 0 && !random_.in(8) ? 0 : random_.below(size + 1));
    default:
      break;
  }
  const uint64_t at = range.start + random_.below(range.size() - std::min(size, range.size() - 1));
  if (alignment != 0) return random_.in(24) ? at : at & ~(alignment - 1);
  return random_.in(2) ? at & ~uint64_t{7} : at;
}

uint64_t ProgramWriter::choose_segment(Code& prefixes, uint64_t address) {
  constexpr uint8_t kFs = 0x64, kGs = 0x65;
  if (random_.in(10, 9)) return 0;
  const bool fs = random_.in(2);
  const uint64_t base = fs ? program_.registers.fs_base : program_.registers.gs_base;
  if (!is_canonical(address) || !is_canonical(address - base)) return 0;
  prefixes.push_back(fs ? kFs : kGs);
  return base;
}

uint64_t ProgramWriter::displacement() {
  switch (random_.below(8)) {
    case 0:
    case 1:
    case 2:
      return 0;
    case 3:
    case 4:
      return random_.below(256) - 128;
    case 5:
      return static_cast<uint64_t>(static_cast<int32_t>(random_.bits()));
    default:
      return random_.below(0x2000) - 0x1000;
  }
}

Operand ProgramWriter::operand(uint64_t address) {
  Operand made;
  const uint64_t offset = this->offset(made.prefixes, address);
  const uint64_t distance = offset - code_;
  if (fits32(distance + 2 * kProgramSize) && fits32(distance - 2 * kProgramSize) && random_.in(4)) {
    made.modrm = 5;
    made.rest.resize(4);
    made.relative = offset;
    // They say nothing here (SDM vol. 2, 2.2.1.6); an address of 32 bits is all of it in low memory.
    made.index_high = random_.in(8);
    made.base_high = random_.in(8);
    if (offset <= INT32_MAX && random_.in(8)) made.prefixes.push_back(0x67);
    return made;
  }
  if (fits32(offset) && random_.in(3)) {  // absolute
    made.modrm = 4;
    made.rest = {0x25};
    append(made.rest, static_cast<uint32_t>(offset));
    return made;
  }
  const bool narrow = offset <= INT32_MAX && random_.in(6);
  if (narrow) made.prefixes.push_back(0x67);
  based(made, offset, narrow);
  return made;
}

void ProgramWriter::based(Operand& made, uint64_t offset, bool narrow) {
  unsigned index = kRsp, scale = 0;
  uint64_t rest = offset;
  if (random_.in(4)) {
    index = free_register();
    scale = static_cast<unsigned>(random_.below(4));
    const uint64_t value =
        known_[index] && fits32(known_[index]->value) ? known_[index]->value : random_.below(128) - 64;
    set(index, value);
    rest -= value << scale;
  }
  std::optional<unsigned> base;
  for (unsigned reg = 0; reg < kRegisters && !narrow; ++reg)
    if (known_[reg] && (used_ >> reg & 1) == 0 && fits32(rest - known_[reg]->value) && random_.in(3))
      base = reg;
  if (base) {
    set(*base, known_[*base]->value);
  } else {
    base = free_register();
    uint64_t value = rest - displacement();
    // The upper half does not count.
    if (narrow) value = (value & UINT32_MAX) | random_.bits() << 32;
    set(*base, value);
  }
  uint64_t distance = rest - known_[*base]->value;
  if (narrow) distance = static_cast<uint64_t>(static_cast<int32_t>(distance));
  encode_base(made, *base, index, scale, distance);
}

void ProgramWriter::encode_base(Operand& made, unsigned base, unsigned index, unsigned scale,
                                uint64_t distance) {
  const uint8_t low = base & 7;
  uint8_t mod = fits8(distance) && random_.in(8, 7) ? 0x40 : 0x80;
  if (distance == 0 && low != 5 && random_.in(4, 3)) mod = 0;
  made.base_high = base >= 8;
  made.index_high = index >= 8;
  if (index != kRsp || low == 4 || random_.in(16)) {
    made.modrm = mod | 4;
    made.rest = {byte(scale << 6 | (index & 7) << 3 | low)};
  } else {
    made.modrm = mod | low;
  }
  if (mod == 0x40) made.rest.push_back(byte(distance));
  if (mod == 0x80) append(made.rest, static_cast<uint32_t>(distance));
}

unsigned ProgramWriter::plain_pointer(uint64_t size) {
  unsigned reg = free_register();
  while ((reg & 7) == 4 || (reg & 7) == 5) reg = free_register();
  set(reg, safe_address(size));
  return reg;
}

Code ProgramWriter::with_pointer(Code prefixes, bool wide, const Code& opcode, unsigned extension,
                                 unsigned reg, uint8_t distance) {
  const uint8_t rex = byte((wide ? 0x48 : 0x40) | reg >> 3);
  if (rex != 0x40) prefixes.push_back(rex);
  append(prefixes, opcode);
  prefixes.push_back(byte((distance != 0 ? 0x40 : 0) | extension << 3 | (reg & 7)));
  if (distance != 0) prefixes.push_back(distance);
  return prefixes;
}
}  // namespace aftercheck
