#include "machine/translated/writer.h"

#include <algorithm>
#include <utility>

#include "machine/store_journal.h"
#include "machine/translated/x87_use.h"
#include "x86/decode.h"

namespace aftercheck::translated {
namespace {

constexpr uint64_t kLow = 0x7fff'0000;  // an absolute operand reaches what is below
constexpr uint64_t kReach = 0x7fff'0000;

constexpr uint8_t kFs = 0x64, kGs = 0x65;  // prefixes

// In encoding's order; RSP is last when they are loaded, and first to be free when they are stored.
constexpr std::array<unsigned, 13> kSimple = {2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// SDM vol. 2, 2.1.1
bool is_prefix(uint8_t byte) {
  constexpr std::array<uint8_t, 11> kPrefixes = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65,
                                                 0x66, 0x67, 0xf0, 0xf2, 0xf3};
  return std::ranges::find(kPrefixes, byte) != kPrefixes.end();
}

// Where branches are counted in vectors: an addition may take two cycles, so that each branch had to wait for
// the one before if there were one counter. Their sum counts; what leaves translated code adds them up.
constexpr std::array<unsigned, 2> kCounters = {31, 29};
constexpr unsigned kMainCounter = 31, kOne = 30;
// And of what is noted.
constexpr unsigned kNote = 28, kFour = 27, kNotedTarget = 26, kEight = 25, kSpill = 24, kSpilledRax = 23,
                   kNotedAddress = 22;

// EVEX-encoded (SDM vol. 2, 2.7), all of XMM16 to XMM31. Bits in the first of its bytes are inverted: R,
// which is bit 3 of the vector register's number, and B, bit 3 of the other operand's.
constexpr unsigned evex_register(unsigned vector) { return vector < 24 ? 0x80 : 0; }
constexpr unsigned kEvexB = 0x20;

constexpr unsigned kAdd = 0xd4, kXor = 0xef;
void operate(Emitter& at, unsigned opcode, unsigned first,
             unsigned second) {  // VPADDQ, VPXORQ first, first, second
  at.bytes({0x62, 0x01 | evex_register(first) | (second < 24 ? kEvexB : 0), 0x85U | (~first & 15U) << 3, 0x00,
            opcode, 0xc0U | (first & 7) << 3 | (second & 7)});
}
void load_vector(Emitter& at, unsigned number, uint64_t address) {  // VMOVQ xmm, [address]
  at.bytes({0x62, 0x61 | evex_register(number), 0xfe, 0x08, 0x7e, 0x04 | (number & 7) << 3, 0x25});
  at.word32(address);
}
void store_vector(Emitter& at, unsigned number, uint64_t address) {  // VMOVQ [address], xmm
  at.bytes({0x62, 0x61 | evex_register(number), 0xfd, 0x08, 0xd6, 0x04 | (number & 7) << 3, 0x25});
  at.word32(address);
}
// VMOVQ from a register of the guest's, and to it.
void move_vector(Emitter& at, bool to_vector, unsigned vector, unsigned reg) {
  at.bytes({0x62, 0x41 | evex_register(vector) | (reg < 8 ? kEvexB : 0), 0xfd, 0x08,
            to_vector ? 0x6eU : 0x7eU, 0xc0U | (vector & 7) << 3 | (reg & 7)});
}

// XMM0-15, or YMM0-15 of the v3 model, to the context or from it.
enum class Way : uint8_t { load, store };
void move_vectors(Emitter& at, const Places& places, const Style& style, Way way) {
  const unsigned opcode = way == Way::load ? 0x28 : 0x29;  // (V)MOVAPS
  for (unsigned number = 0; number < 16; ++number) {
    const unsigned modrm = 0x04 | (number & 7) << 3;
    if (style.model == CpuModelKind::v3) {
      at.bytes({0xc5, number < 8 ? 0xfcU : 0x7cU, opcode, modrm, 0x25});
      at.word32(places.of(&Context::ymm) + number * sizeof(Context::ymm[0]));
    } else {
      if (number >= 8) at.byte(0x44);
      at.bytes({0x0f, opcode, modrm, 0x25});
      at.word32(places.of(&Context::fpu) + xsave::kXmm0 + number * 16UL);
    }
  }
}

void load_mxcsr(Emitter& at, uint64_t address) {
  at.bytes({0x0f, 0xae, 0x14, 0x25});
  at.word32(address);
}
void store_mxcsr(Emitter& at, uint64_t address) {
  at.bytes({0x0f, 0xae, 0x1c, 0x25});
  at.word32(address);
}

// MOV QWORD [Context::x87_kept], value
void set_x87_kept(Emitter& at, const Places& places, uint32_t value) {
  at.bytes({0x48, 0xc7, 0x04, 0x25});
  at.word32(places.of(&Context::x87_kept));
  at.word32(value);
}

void write_enter(Emitter& at, const Places& places, const Style& style) {
  at.bytes({0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57});  // push rbx, rbp, r12 to r15
  at.store(kRsp, places.of(&Context::host_rsp));
  move_vectors(at, places, style, Way::load);
  load_mxcsr(at, places.of(&Context::fpu) + xsave::kMxcsr);
  if (style.counting == Counting::vector) {
    load_vector(at, kMainCounter, places.of(&Context::branches));
    load_vector(at, kOne, places.of(&Context::one));
    for (const unsigned number : kCounters)
      if (number != kMainCounter) operate(at, kXor, number, number);
    if (style.flow) {
      load_vector(at, kNote, places.of(&Context::note));
      load_vector(at, kFour, places.of(&Context::four));
      load_vector(at, kNotedTarget, places.of(&Context::noted_target));
      load_vector(at, kEight, places.of(&Context::eight));
      if (style.accesses) load_vector(at, kNotedAddress, places.of(&Context::noted_address));
    }
  }
  at.bytes({0xff, 0x34, 0x25});  // push [flags]
  at.word32(places.of(&Context::flags));
  at.byte(0x9d);  // popfq
  const uint64_t gpr = places.of(&Context::gpr);
  for (const unsigned reg : kSimple) at.load(reg, gpr + 8 * reg);
  for (const unsigned reg : {kRax, kRcx, kRsp}) at.load(reg, gpr + 8 * reg);
  at.bytes({0xff, 0x24, 0x25});  // jmp [target]
  at.word32(places.of(&Context::target));
}

void write_leave(Emitter& at, const Places& places, const Style& style) {
  const uint64_t gpr = places.of(&Context::gpr);
  for (const unsigned reg : {kRax, kRcx, kRsp}) at.store(reg, gpr + 8 * reg);
  for (const unsigned reg : kSimple) at.store(reg, gpr + 8 * reg);
  at.load(kRsp, places.of(&Context::host_rsp));
  at.byte(0x9c);                 // pushfq
  at.bytes({0x8f, 0x04, 0x25});  // pop [flags]
  at.word32(places.of(&Context::flags));
  // The others make no difference to the host.
  constexpr uint64_t kNotInHost =
      rflags::kAlignmentCheck | rflags::kDirection | rflags::kNestedTask | rflags::kTrap;
  at.bytes({0xf7, 0x04, 0x25});  // test dword [flags], ...
  at.word32(places.of(&Context::flags));
  at.word32(kNotInHost);
  at.bytes({0x74, 0x06});                    // jz over the next two
  at.bytes({0x68, 0x02, 0x02, 0, 0, 0x9d});  // push 0x202; popfq
  at.bytes({0x83, 0x3c, 0x25});              // cmp dword [x87_kept], 0
  at.word32(places.of(&Context::x87_kept));
  at.byte(0);
  at.bytes({0x75, 0x17});                    // jnz over the next three
  at.bytes({0x48, 0x0f, 0xae, 0x04, 0x25});  // fxsave64
  at.word32(places.of(&Context::fpu));
  at.bytes({0xdb, 0xe3});  // fninit
  set_x87_kept(at, places, 1);
  move_vectors(at, places, style, Way::store);
  store_mxcsr(at, places.of(&Context::fpu) + xsave::kMxcsr);
  // Intel's processors are slow with SSE where upper halves are in use.
  if (style.model == CpuModelKind::v3) at.bytes({0xc5, 0xf8, 0x77});  // vzeroupper
  if (style.counting == Counting::vector) {
    for (const unsigned number : kCounters)
      if (number != kMainCounter) operate(at, kAdd, kMainCounter, number);
    store_vector(at, kMainCounter, places.of(&Context::branches));
    if (style.flow) {
      store_vector(at, kNote, places.of(&Context::note));
      store_vector(at, kNotedTarget, places.of(&Context::noted_target));
      store_vector(at, kSpill, places.of(&Context::note_spill));
      if (style.accesses) {
        store_vector(at, kNotedAddress, places.of(&Context::noted_address));
        store_vector(at, kSpilledRax, places.of(&Context::note_rax));
      }
    }
  }
  load_mxcsr(at, places.of(&Context::host_mxcsr));
  at.bytes({0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3});  // pop them; ret
}

// FXRSTOR takes XMM0-15 and MXCSR as well. Where it has the upper halves of YMM0-15 go, nobody needs to know.
void write_load_x87(Emitter& at, const Places& places, const Style& style) {
  at.store(kRcx, places.of(&Context::x87_resume));
  move_vectors(at, places, style, Way::store);
  store_mxcsr(at, places.of(&Context::fpu) + xsave::kMxcsr);
  at.bytes({0x48, 0x0f, 0xae, 0x0c, 0x25});  // fxrstor64
  at.word32(places.of(&Context::fpu));
  if (style.model == CpuModelKind::v3) move_vectors(at, places, style, Way::load);
  set_x87_kept(at, places, 0);
  at.bytes({0xff, 0x24, 0x25});  // jmp [x87_resume]
  at.word32(places.of(&Context::x87_resume));
}

}  // namespace

Routines write_routines(Emitter& at, const Places& places, const Style& style) {
  Routines routines;
  routines.enter = at.here();
  write_enter(at, places, style);
  routines.enter_end = at.here();
  routines.leave_by_kick = at.here();
  at.store32(places.of(&Context::exit), kLeftByKick);
  routines.leave = at.here();
  write_leave(at, places, style);
  for (const Table table : {Table::jumps, Table::returns}) {
    routines.missed[static_cast<size_t>(table)] = at.here();
    at.load(table == Table::jumps ? kRax : kR11, places.of(&Context::other_spill));
    at.store(kRcx, places.of(&Context::rip));
    at.load(kRcx, places.of(&Context::rcx_spill));
    at.store32(places.of(&Context::exit), kLeftByTable);
    at.jump(routines.leave);
  }
  routines.end = at.here();
  // Whom it interrupts there, a kick leads on to the instruction.
  routines.load_x87 = at.here();
  write_load_x87(at, places, style);
  return routines;
}

void Writer::mark(Held held, uint64_t guest, unsigned reg) {
  marks->push_back({static_cast<uint32_t>(hot_.here() - start_), held, static_cast<uint8_t>(reg), passed_,
                    accesses_, guest});
}

uint32_t Writer::add_exit(ExitPoint::Kind kind, uint64_t target) {
  exits->push_back({.kind = kind, .block = block_, .target = target});
  return static_cast<uint32_t>(exits->size() - 1);
}

// At `target`, when the code up to `end` has been executed.
void Writer::leave(ExitPoint::Kind kind, uint64_t target, uint64_t end) {
  const uint32_t number = add_exit(kind, target);
  if (style_.flow) exits->back().path = add_path(end, target, PathEnd::behind);
  hot_.store32(places_.of(&Context::exit), number);
  hot_.jump(routines_.leave);
}

// --- noting paths ---

// From the block's start to `end`.
uint32_t Writer::add_path(uint64_t end, uint64_t next, PathEnd how, uint64_t last) {
  const auto taken = static_cast<uint8_t>(how == PathEnd::taken ? 1 : 0);
  paths->paths.push_back({.start = guest_,
                          .end = end,
                          .next = next,
                          .last = last,
                          .first_conditional = first_conditional_,
                          .first_access = first_access_,
                          .conditionals = static_cast<uint8_t>(passed_ + taken),
                          .accesses = static_cast<uint8_t>(accesses_ + own_),
                          .how = how});
  return static_cast<uint32_t>(paths->paths.size() - 1);
}

// Before the instruction: none of its registers has changed.
void Writer::note_accesses(const Instruction& instruction) {
  for (unsigned i = 0; i < instruction.accesses.count; ++i) {
    const AccessShape& shape = instruction.accesses.shapes[i];
    note_access(instruction, shape);
    paths->accesses.push_back({instruction.address, shape.size, shape.store});
  }
  if (instruction.accesses.count != 0) mark(Held::inside, instruction.address);
  own_ = instruction.accesses.count;
}

void Writer::note_access(const Instruction& instruction, const AccessShape& shape) {
  const uint64_t rcx = places_.of(&Context::note_spill), rax = places_.of(&Context::note_rax);
  keep(kRcx, kSpill, rcx);
  keep(kRax, kSpilledRax, rax);
  mark(Held::address, instruction.address);
  switch (shape.place) {
    case AccessShape::Place::operand:
      write_operand_address(instruction);
      if (instruction.in_fs()) add_fs_base();
      break;
    case AccessShape::Place::stack:
      hot_.bytes({0x48, 0x8d, 0x44, 0x24, static_cast<uint8_t>(shape.displacement)});  // lea rax, [rsp + ...]
      break;
    case AccessShape::Place::frame:
      hot_.bytes({0x48, 0x89, 0xe8});  // mov rax, rbp
      break;
  }
  load_kept(kRcx, kNotedAddress, places_.of(&Context::noted_address));
  hot_.bytes({0x48, 0x89, 0x01});  // mov [rcx], rax
  advance_place(kRcx, kNotedAddress, kEight, places_.of(&Context::noted_address));
  load_kept(kRax, kSpilledRax, rax);
  load_kept(kRcx, kSpill, rcx);
}

// Changes no flags. A fault here is that there is no room.
void Writer::note(uint32_t path) {
  const uint64_t rcx = places_.of(&Context::note_spill);
  keep(kRcx, kSpill, rcx);
  mark(Held::note, path, kRcx);
  note_number(kRcx, path);
  load_kept(kRcx, kSpill, rcx);
  mark(Held::inside, guest_);
}

// `reg` is free.
void Writer::note_number(unsigned reg, uint32_t path) {
  load_kept(reg, kNote, places_.of(&Context::note));
  if (reg >= 8) hot_.byte(0x41);
  hot_.bytes({0xc7, reg & 7});  // mov dword [reg], note
  hot_.word32(PathNote(path, (*paths)[path]).word());
  advance_place(reg, kNote, kFour, places_.of(&Context::note));
}

// To the address in RAX. RCX is free.
void Writer::add_fs_base() {
  hot_.load(kRcx, places_.of(&Context::fs_base));
  hot_.bytes({0x48, 0x8d, 0x04, 0x08});  // lea rax, [rax + rcx]
}

// What is kept while something is noted, or from one note to the next, is in a vector register, or where
// there are none at `address`.
void Writer::keep(unsigned reg, unsigned vector, uint64_t address) {
  if (style_.counting == Counting::vector) return move_vector(hot_, true, vector, reg);
  hot_.store(reg, address);
}
void Writer::load_kept(unsigned reg, unsigned vector, uint64_t address) {
  if (style_.counting == Counting::vector) return move_vector(hot_, false, vector, reg);
  hot_.load(reg, address);
}

// Behind it, by what `size` has; `reg` is what load_kept() loaded, and may be changed.
void Writer::advance_place(unsigned reg, unsigned vector, unsigned size, uint64_t address) {
  if (style_.counting == Counting::vector) return operate(hot_, kAdd, vector, size);
  const unsigned low = reg & 7;
  hot_.bytes({reg >= 8 ? 0x4dU : 0x48U, 0x8d, 0x40 | low << 3 | low, size == kFour ? 4U : 8U});  // lea
  hot_.store(reg, address);
}

// The target is in RCX, and RAX or R11 is free.
void Writer::note_indirect(uint32_t path, unsigned other) {
  mark(Held::note, path, other);
  load_kept(other, kNotedTarget, places_.of(&Context::noted_target));
  hot_.bytes({other >= 8 ? 0x49U : 0x48U, 0x89, 0x08 | (other & 7)});  // mov [other], rcx
  // The number comes last: without it a target that is noted counts for nothing.
  note_number(other, path);
  load_kept(other, kNotedTarget, places_.of(&Context::noted_target));
  advance_place(other, kNotedTarget, kEight, places_.of(&Context::noted_target));
}

// The displacement of a conditional jump whose opcode is written.
void Writer::jump_if_taken(const Instruction& instruction) {
  if (!style_.flow) return link(instruction.target);
  paths->conditionals.push_back({instruction.address, instruction.next()});
  taken_.push_back(
      {hot_, instruction.target, add_path(instruction.next(), instruction.target, PathEnd::taken)});
  hot_.word32(0);
}

void Writer::finish_block() {
  for (Taken& taken : taken_) {
    taken.displacement.relative(hot_.here());
    note(taken.path);
    hot_.byte(0xe9);
    link(taken.target);
  }
  taken_.clear();
}

// Goes on at `target`, when the code up to `end` has been executed.
void Writer::jump_on(uint64_t target, PathEnd how, uint64_t end, uint64_t last) {
  if (style_.flow && (passed_ != 0 || style_.code)) note(add_path(end, target, how, last));
  hot_.byte(0xe9);
  link(target);
}

// The displacement of a jump whose opcode is written.
void Writer::link(uint64_t target) {
  const uint32_t number = add_exit(ExitPoint::Kind::link, target);
  ExitPoint& exit = exits->back();
  exit.patch = hot_.here();
  exit.stub = cold_.here();
  cold_.store32(places_.of(&Context::exit), number);
  cold_.jump(routines_.leave);
  const uint64_t entry = style_.alone ? 0 : entry_of(target, number);
  hot_.relative(entry != 0 ? entry : exit.stub);
}

// Changes no flags.
void Writer::count() {
  const size_t number = counted_++ + block_ * 3;
  if (style_.counting == Counting::vector)
    return operate(hot_, kAdd, kCounters[number % kCounters.size()], kOne);
  const uint64_t slot = places_.slot(number);
  hot_.store(kRcx, places_.of(&Context::count_spill));
  hot_.load(kRcx, slot);
  hot_.bytes({0x48, 0x8d, 0x49, 0x01});  // lea rcx, [rcx + 1]
  hot_.store(kRcx, slot);
  hot_.load(kRcx, places_.of(&Context::count_spill));
}

void Writer::stop_if_last(uint64_t address) {
  const uint64_t spill = places_.of(&Context::count_spill), left = places_.of(&Context::left);
  hot_.store(kRcx, spill);
  hot_.load(kRcx, left);
  hot_.bytes({0x48, 0x8d, 0x49, 0xff});  // lea rcx, [rcx - 1]
  hot_.store(kRcx, left);
  leave_if_zero(spill, ExitPoint::Kind::stop, address);
}

// RCX decides; it gets its own value back.
void Writer::leave_if_zero(uint64_t spill, ExitPoint::Kind kind, uint64_t target) {
  const uint64_t stub = cold_.here();
  cold_.load(kRcx, spill);
  const uint32_t number = add_exit(kind, target);
  if (style_.flow) exits->back().path = add_path(target, target, PathEnd::behind);
  cold_.store32(places_.of(&Context::exit), number);
  cold_.jump(routines_.leave);
  hot_.bytes({0xe3, 0x02, 0xeb, 0x05});  // jrcxz over the next; jmp over the one after
  hot_.jump(stub);
  hot_.load(kRcx, spill);
}

// LOOPcc, JRCXZ: with its prefixes, and over the way that it goes when it is not taken.
void Writer::write_counting(const Instruction& instruction) {
  hot_.copy(instruction.code().first(instruction.decoded.length - 1U));
  uint8_t* const displacement = hot_.at();
  hot_.byte(0);
  if (style_.flow) paths->conditionals.push_back({instruction.address, instruction.next()});
  const uint32_t taken =
      style_.flow ? add_path(instruction.next(), instruction.target, PathEnd::taken) : kNoPath;
  ++passed_;
  write_behind(instruction.next());
  *displacement = static_cast<uint8_t>(hot_.at() - displacement - 1);
  if (style_.flow) note(taken);
  hot_.byte(0xe9);
  link(instruction.target);
}

void Writer::write_code_left(uint64_t guest, uint64_t bytes) {
  const uint64_t spill = places_.of(&Context::journal_rcx), left = places_.of(&Context::code_left);
  hot_.store(kRcx, spill);
  hot_.load(kRcx, left);
  hot_.bytes({0x48, 0x8d, 0x89});  // lea rcx, [rcx - bytes]
  hot_.word32(-bytes);
  hot_.store(kRcx, left);
  hot_.bytes({0x8b, 0x0c, 0x25});  // mov ecx, [left + 4]
  hot_.word32(left + 4);
  leave_if_zero(spill, ExitPoint::Kind::code_left, guest);
}

// LEA RAX, where it stores. All registers are the guest's.
void Writer::write_address(const Instruction& instruction) {
  if (instruction.store.kind == StoreKind::push) {
    hot_.bytes({0x48, 0x8d, 0x44, 0x24, 0x100U - instruction.store.size});  // lea rax, [rsp - size]
    return;
  }
  write_operand_address(instruction);
}

void Writer::write_operand_address(const Instruction& instruction) {
  const ZydisDecodedInstruction& decoded = instruction.decoded;
  if (instruction.rip_relative()) return hot_.set(kRax, instruction.operand_address());
  if (decoded.address_width == 32) hot_.byte(0x67);
  unsigned rex = 0x48;
  if ((decoded.attributes & ZYDIS_ATTRIB_HAS_REX) != 0)
    rex |= static_cast<unsigned>(decoded.raw.rex.X << 1 | decoded.raw.rex.B);
  hot_.bytes({rex, 0x8d, instruction.bytes[decoded.raw.modrm.offset] & 0xc7U});
  const size_t sib = decoded.raw.modrm.rm == 4 ? 1 : 0;
  hot_.copy(instruction.code().subspan(decoded.raw.modrm.offset + 1U, sib + decoded.raw.disp.size / 8U));
}

// What the instruction will overwrite goes into the journal. Changes no flags. Reading it faults as the store
// would, but for reads of the instruction's own that come before it; an entry behind the journal's end faults
// too.
void Writer::note_store(const Instruction& instruction) {
  using Entry = StoreJournal::Entry;
  constexpr uint8_t kOld = offsetof(Entry, old), kOldHigh = kOld + 8;
  const unsigned size = instruction.store.size;
  hot_.store(kRax, places_.of(&Context::journal_rax));
  hot_.store(kRcx, places_.of(&Context::journal_rcx));
  write_address(instruction);
  mark(Held::journal, instruction.address);
  if (instruction.in_fs() && instruction.store.kind == StoreKind::operand) add_fs_base();
  hot_.load(kRcx, places_.of(&Context::journal));
  hot_.bytes({0x48, 0x89, 0x01});                                        // mov [rcx], rax
  hot_.bytes({0x48, 0xc7, 0x41, offsetof(Entry, size), size, 0, 0, 0});  // mov qword [rcx + ...], size
  // The lower part first: that is where it faults.
  switch (size) {
    case 1:
      hot_.bytes({0x0f, 0xb6, 0x00});  // movzx eax, byte [rax]
      break;
    case 2:
      hot_.bytes({0x0f, 0xb7, 0x00});  // movzx eax, word [rax]
      break;
    case 4:
      hot_.bytes({0x8b, 0x00});  // mov eax, [rax]
      break;
    default:
      hot_.bytes({0x48, 0x8b, 0x00});  // mov rax, [rax]
  }
  hot_.bytes({0x48, 0x89, 0x41, kOld});  // mov [rcx + ...], rax
  if (size > 8) {
    hot_.bytes({0x48, 0x8b, 0x01});  // mov rax, [rcx]
    if (size == 10)
      hot_.bytes({0x0f, 0xb7, 0x40, 8});  // movzx eax, word [rax + 8]
    else
      hot_.bytes({0x48, 0x8b, 0x40, 8});       // mov rax, [rax + 8]
    hot_.bytes({0x48, 0x89, 0x41, kOldHigh});  // mov [rcx + ...], rax
  }
  hot_.bytes({0x48, 0x8d, 0x49, sizeof(Entry)});  // lea rcx, [rcx + ...]
  hot_.store(kRcx, places_.of(&Context::journal));
  hot_.load(kRcx, places_.of(&Context::journal_rcx));
  hot_.load(kRax, places_.of(&Context::journal_rax));
  mark(Held::inside, instruction.address);
}

// Changes no flags.
void Writer::load_x87(uint64_t guest) {
  if (std::exchange(x87_loaded_, true)) return;
  const uint64_t spill = places_.of(&Context::x87_spill);
  hot_.store(kRcx, spill);
  hot_.load(kRcx, places_.of(&Context::x87_kept));
  hot_.bytes({0xe3, 0x05});  // jrcxz over the next
  hot_.jump(cold_.here());
  cold_.bytes({0x48, 0x8d, 0x0d});  // lea rcx, [rip + ...]
  cold_.relative(hot_.here());
  cold_.jump(routines_.load_x87);
  hot_.load(kRcx, spill);
  mark(Held::inside, guest);
}

void Writer::push(uint64_t value) {
  if (value < 0x8000'0000) {
    hot_.byte(0x68);
    return hot_.word32(value);
  }
  cold_.align();
  const uint64_t constant = cold_.here();
  cold_.word64(value);
  hot_.bytes({0xff, 0x35});  // push [rip + ...]
  hot_.relative(constant);
}

bool Writer::near(const Instruction& instruction, size_t length_left) const {
  if (instruction.decoded.address_width == 32) return false;
  const auto distance = static_cast<int64_t>(instruction.operand_address() - (hot_.here() + length_left));
  return distance > -static_cast<int64_t>(kReach) && distance < static_cast<int64_t>(kReach);
}

// The bytes up to `end`: prefixes and opcode. The guest's FS is the host's GS.
void Writer::copy_prefixed(const Instruction& instruction, size_t end, bool clears_index) {
  uint8_t* const start = hot_.at();
  hot_.copy(std::span(instruction.bytes).first(end));
  if (instruction.in_fs()) {
    // It may be there several times.
    for (uint8_t* at = start; is_prefix(*at); ++at)
      if (*at == kFs) *at = kGs;
  }
  // Another base and index than those that go with RIP.
  if (!clears_index) return;
  if ((instruction.decoded.attributes & ZYDIS_ATTRIB_HAS_REX) != 0)
    start[instruction.decoded.raw.rex.offset] &= 0xfc;
  // X and B are inverted there, and not in the short prefix (SDM vol. 2, 2.3.5).
  constexpr unsigned kLongVex = 3, kIndexAndBase = 0x60;
  if (instruction.decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX &&
      instruction.decoded.raw.vex.size == kLongVex)
    start[instruction.decoded.raw.vex.offset + 1] |= kIndexAndBase;
}

void Writer::write_copied(const Instruction& instruction) {
  const ZydisDecodedInstruction& decoded = instruction.decoded;
  // A prefetch with a register for its operand is a NOP to Intel's processors and Zydis, and undefined to
  // AMD's.
  constexpr uint8_t kPrefetch = 0x0d;
  if (decoded.mnemonic == ZYDIS_MNEMONIC_NOP && decoded.opcode_map == ZYDIS_OPCODE_MAP_0F &&
      decoded.opcode == kPrefetch)
    return hot_.byte(0x90);
  if (!instruction.rip_relative()) return copy_prefixed(instruction, decoded.length, false);
  const uint64_t operand = instruction.operand_address();
  const size_t modrm = decoded.raw.modrm.offset, behind = decoded.raw.disp.offset + 4U;
  const std::span<const uint8_t> immediate = instruction.code().subspan(behind);
  if (near(instruction, decoded.length)) {
    const uint64_t end = hot_.here() + decoded.length;
    copy_prefixed(instruction, decoded.raw.disp.offset, false);
    hot_.word32(operand - end);
    return hot_.copy(immediate);
  }
  if (operand < kLow && decoded.length < instruction.bytes.size()) {  // takes a SIB byte more
    copy_prefixed(instruction, modrm, true);
    hot_.bytes({(instruction.bytes[modrm] & 0x38U) | 4, 0x25});
    hot_.word32(operand);
    return hot_.copy(immediate);
  }
  write_far(instruction);
}

// The address goes into a register that the instruction does not use.
void Writer::write_far(const Instruction& instruction) {
  const ZydisDecodedInstruction& decoded = instruction.decoded;
  x86::WithOperands full;
  uint32_t used = 0;
  if (x86::decode(instruction.code(), full))
    for (size_t i = 0; i < full.instruction.operand_count; ++i) {
      const ZydisDecodedOperand& operand = full.operands[i];
      const auto use = [&used](ZydisRegister reg) {
        const ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
        if (whole >= ZYDIS_REGISTER_RAX && whole <= ZYDIS_REGISTER_R15)
          used |= 1U << (whole - ZYDIS_REGISTER_RAX);
      };
      if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER) use(operand.reg.value);
      if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY) {
        use(operand.mem.base);
        use(operand.mem.index);
      }
    }
  constexpr std::array<unsigned, 6> kCandidates = {1, 0, 2, 3, 6, 7};
  const unsigned reg =
      *std::ranges::find_if(kCandidates, [used](unsigned r) { return (used >> r & 1) == 0; });
  const size_t modrm = decoded.raw.modrm.offset;
  hot_.store(reg, places_.of(&Context::scratch));
  mark(Held::scratch, instruction.address, reg);
  hot_.set(reg, instruction.operand_address());
  copy_prefixed(instruction, modrm, true);
  hot_.byte((instruction.bytes[modrm] & 0x38U) | reg);
  hot_.copy(instruction.code().subspan(decoded.raw.disp.offset + 4U));
  hot_.load(reg, places_.of(&Context::scratch));
}

// MOV RCX, the operand of an indirect jump or call.
void Writer::load_operand(const Instruction& instruction) {
  const ZydisDecodedInstruction& decoded = instruction.decoded;
  const uint8_t modrm = instruction.bytes[decoded.raw.modrm.offset];
  const auto segment = [&] {
    // Alone, it may have one in the guest's own GS.
    if (instruction.in_fs() || (decoded.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS) != 0) hot_.byte(kGs);
  };
  if (instruction.rip_relative()) {
    const uint64_t operand = instruction.operand_address();
    constexpr size_t kLength = 8;
    if (near(instruction, kLength)) {
      segment();
      hot_.bytes({0x48, 0x8b, 0x0d});
      return hot_.relative(operand);
    }
    if (operand < kLow) {
      segment();
      hot_.bytes({0x48, 0x8b, 0x0c, 0x25});
      return hot_.word32(operand);
    }
    hot_.set(kRcx, operand);
    mark(Held::rcx, instruction.address);
    segment();
    return hot_.bytes({0x48, 0x8b, 0x09});
  }
  segment();
  if (decoded.address_width == 32) hot_.byte(0x67);
  unsigned rex = 0x48;
  if ((decoded.attributes & ZYDIS_ATTRIB_HAS_REX) != 0)
    rex |= static_cast<unsigned>(decoded.raw.rex.X << 1 | decoded.raw.rex.B);
  hot_.bytes({rex, 0x8b, (modrm & 0xc7U) | kRcx << 3});
  const size_t behind = decoded.raw.modrm.offset + 1U;
  const size_t sib = decoded.raw.modrm.mod != 3 && decoded.raw.modrm.rm == 4 ? 1 : 0;
  hot_.copy(instruction.code().subspan(behind, sib + decoded.raw.disp.size / 8U));
}

void Writer::write_lookup(const Instruction& instruction, Table table) {
  const unsigned other = table == Table::jumps ? kRax : kR11;
  hot_.store(other, places_.of(&Context::other_spill));
  Site& site = sites->emplace_back();
  site.address = instruction.address;
  site.form = instruction.form;
  if (instruction.form == Form::ret)
    site.dropped = static_cast<uint16_t>(instruction.decoded.raw.imm[0].value.u);
  hot_.store32(places_.of(&Context::site), static_cast<uint32_t>(sites->size() - 1));
  if (style_.flow) {
    const PathEnd how = instruction.form == Form::ret             ? PathEnd::ret
                        : instruction.form == Form::indirect_call ? PathEnd::indirect_call
                                                                  : PathEnd::indirect_jump;
    site.path = add_path(instruction.next(), 0, how, instruction.address);
    site.accesses = accesses_;
    note_indirect(site.path, other);
  }
  if (style_.alone) return hot_.jump(routines_.missed[static_cast<size_t>(table)]);
  if (table == Table::jumps)
    hot_.bytes({0x0f, 0xb7, 0xc1, 0xff, 0x24, 0xc5});  // movzx eax, cx; jmp [table + rax * 8]
  else
    hot_.bytes({0x44, 0x0f, 0xb7, 0xd9, 0x42, 0xff, 0x24, 0xdd});  // movzx r11d, cx; jmp [table + r11 * 8]
  hot_.word32(places_.table(table));
}

// Whatever can fault comes first; then the branch is counted.
void Writer::write_indirect(const Instruction& instruction) {
  hot_.store(kRcx, places_.of(&Context::rcx_spill));
  mark(Held::inside, instruction.address);
  if (instruction.form == Form::ret) {
    hot_.byte(0x59);  // pop rcx
    if (const uint64_t dropped = instruction.decoded.raw.imm[0].value.u; dropped != 0) {
      hot_.bytes({0x48, 0x8d, 0xa4, 0x24});  // lea rsp, [rsp + ...]
      hot_.word32(dropped);
    }
    count();
    return write_lookup(instruction, Table::returns);
  }
  load_operand(instruction);
  if (instruction.form == Form::indirect_call) {
    mark(Held::rcx, instruction.address);
    push(instruction.next());
  }
  count();
  write_lookup(instruction, Table::jumps);
}

void Writer::count_ahead(const Instruction& instruction) {
  mark(Held::boundary, instruction.address);
  count();
  ahead_ = true;
}

bool Writer::write(const Instruction& instruction, bool goes_on) {
  accesses_ = static_cast<uint8_t>(accesses_ + std::exchange(own_, uint8_t{0}));
  if (!ahead_)
    mark(Held::boundary, instruction.address);
  else
    mark(instruction.form == Form::copied ? Held::counted : Held::inside, instruction.address);
  if (instruction.form == Form::copied && touches_x87(instruction)) load_x87(instruction.address);
  const auto counted = [&] {
    if (style_.stopping) {
      stop_if_last(instruction.address);
      mark(Held::inside, instruction.address);
    }
  };
  if (instruction.store.kind == StoreKind::operand || instruction.store.kind == StoreKind::push)
    note_store(instruction);
  if (style_.accesses) note_accesses(instruction);
  switch (instruction.form) {
    case Form::copied:
      write_copied(instruction);
      return false;
    case Form::conditional:
      counted();
      if (!std::exchange(ahead_, false)) count();
      hot_.bytes({0x0f, 0x80U | (instruction.decoded.opcode & 15U)});
      jump_if_taken(instruction);
      ++passed_;
      if (goes_on) return false;
      write_behind(instruction.next());
      return true;
    case Form::counting:
      counted();
      count();
      write_counting(instruction);
      return true;
    case Form::jump:
      if (goes_on) return false;
      jump_on(instruction.target, PathEnd::jump, instruction.next(), instruction.address);
      return true;
    case Form::call:
      push(instruction.next());
      jump_on(instruction.target, PathEnd::call, instruction.next(), instruction.address);
      return true;
    case Form::indirect_jump:
    case Form::indirect_call:
    case Form::ret:
      counted();
      write_indirect(instruction);
      return true;
    case Form::system_call:
      leave(ExitPoint::Kind::system_call, instruction.next(), instruction.next());
      return true;
    case Form::special:
      // The two-byte form is as the one-byte INT3 that ends there.
      if (instruction.special == Special::breakpoint)
        leave(ExitPoint::Kind::breakpoint, instruction.next() - 1, instruction.address);
      else
        leave(ExitPoint::Kind::special, instruction.address, instruction.address);
      return true;
  }
  return true;
}

// LOOP, which changes no flags, goes on where RCX is one: then no branch is taken where the target is the
// right one. JRCXZ, of which that is not true, is for processors whose LOOP is slow.
Writer::TableEntry Writer::write_table_entry(Table table, uint64_t guest) {
  const unsigned other = table == Table::jumps ? kRax : kR11;
  // LEA RCX, [RCX + other]
  const auto add = [other](Emitter& at) {
    at.bytes({other == kRax ? 0x48U : 0x4aU, 0x8d, 0x0c, other == kRax ? 0x01U : 0x19U});
  };
  TableEntry entry;
  const uint64_t mismatch = cold_.here();
  cold_.set(other, guest);
  add(cold_);
  cold_.byte(0xe9);
  entry.next = cold_.here();
  cold_.word32(0);
  const uint64_t out = hot_.here(), match = style_.loop ? 1 : 0;
  hot_.jump(mismatch);
  entry.start = hot_.here();
  if (guest < kLow) {
    hot_.bytes({0x48, 0x8d, 0x89});  // lea rcx, [rcx - guest + match]
    hot_.word32(match - guest);
  } else {
    hot_.set(other, match - guest);
    add(hot_);
  }
  if (style_.loop) {
    hot_.bytes({0xe2, static_cast<unsigned>(out - (hot_.here() + 2))});  // loop out
  } else {
    hot_.bytes({0xe3, 0x02});                                            // jrcxz over the next
    hot_.bytes({0xeb, static_cast<unsigned>(out - (hot_.here() + 2))});  // jmp out
  }
  hot_.load(other, places_.of(&Context::other_spill));
  hot_.load(kRcx, places_.of(&Context::rcx_spill));
  return entry;
}

}  // namespace aftercheck::translated
