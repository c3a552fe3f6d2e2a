#include "tests/machine/random_program.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>

#include "machine/memory_accesses.h"
#include "tests/machine/form_names.h"
#include "tests/machine/random_writer.h"
#include "x86/decode.h"

namespace aftercheck {
namespace {

class Maker : private ProgramWriter {
 public:
  Maker(const FormTable& forms, uint64_t seed, size_t slot) : ProgramWriter(seed, slot), forms_(forms) {}

  Program make() {
    make_state(forms_.model);
    const size_t most = 50 + random_.below(150);
    while (program_.items.size() < most) piece();
    add({.bytes = {0xcc}, .keeps = true});
    for (const size_t function : functions_) make_function(function);
    return std::move(program_);
  }

 private:
  const FormTable& forms_;
  bool within_ = false;  // a loop or a function: the stack pointer stays where it is, and nothing is called
  size_t labels_ = 0;
  std::vector<size_t> functions_;  // their labels

  // --- forms ---

  // An instruction of any form, with the instructions that it needs before it.
  void form() {
    static constexpr FormClass kShares[] = {FormClass::integer, FormClass::integer, FormClass::integer,
                                            FormClass::integer, FormClass::sse,     FormClass::sse,
                                            FormClass::sse,     FormClass::sse,     FormClass::x87,
                                            FormClass::x87,     FormClass::mmx,     FormClass::integer};
    FormClass kind = kShares[random_.below(std::size(kShares))];
    if (random_.in(30)) kind = FormClass::string;
    if (has_vex() && random_.in(2)) kind = FormClass::vex;
    const auto& forms = forms_.by_class[static_cast<size_t>(kind)];
    instruction(forms[random_.below(forms.size())]);
  }

  void instruction(const Form& form) {
    begin_instruction();
    Operand memory;
    std::optional<unsigned> reg;
    switch (form.need) {
      case Need::nothing:
        break;
      case Need::string:
        if (!string_operands(form, memory)) return;
        break;
      case Need::table:
        if (is_reserved(kRbx)) return;
        set(kRbx, safe_address(256));
        break;
      case Need::mask_store:
        if (is_reserved(kRdi)) return;
        set(kRdi, offset(memory.prefixes, address(16, 0)));
        break;
      case Need::bit_offset:
        if (form.memory) {
          reg = free_register();
          // Some 2 KiB to either side.
          set(*reg, random_.below(0x7ffe) - 0x3fff);
          const Range range = home_.writable();
          memory = operand(range.start + range.size() / 2 - 8 + random_.below(16));
          return encode(form, memory, reg);
        }
        break;
      case Need::frame:
        if (within_ || is_reserved(kRbp)) return;
        set(kRbp, home_.stack().start + home_.stack().size() / 2 + 8 * random_.below(64));
        break;
      case Need::gather:
      case Need::gather_wide:
        return gather(form);
      case Need::x87_pointers:
        return saved_x87(form);
    }
    // Some hosts' KVM (kvm_pvm) emulates an access to an address that is not canonical before it finds that
    // out, and has read an MMX register then, which is an MMX instruction of its own. A form with an offset
    // for its address has no register in it.
    if (form.memory && form.modrm)
      memory =
          operand(address(std::max<uint64_t>(form.size, 1), form.alignment, form.kind != FormClass::mmx));
    encode(form, memory, reg);
  }

  bool string_operands(const Form& form, Operand& memory) {
    const Site& low = kSites.back();
    const bool narrow = random_.in(8);
    if (narrow) memory.prefixes.push_back(0x67);
    const auto place = [&] {
      const Range range = narrow ? low.writable() : any_site().writable();
      if (random_.in(12))
        return random_.in(2) ? range.start + random_.below(40) : range.end - random_.below(40);
      const uint64_t at = range.start + range.size() / 2 + random_.below(0x800) - 0x400;
      return narrow ? at | random_.bits() << 32 : at;
    };
    if (is_reserved(kRsi) || is_reserved(kRdi) || (form.repeated && is_reserved(kRcx))) return false;
    set(kRsi, narrow ? place() : offset(memory.prefixes, place()));
    set(kRdi, place());
    if (form.repeated) set(kRcx, random_.below(24) | (narrow ? random_.bits() << 32 : 0));
    return true;
  }

  // --- what v3 has more ---

  bool has_vex() const { return !forms_.by_class[static_cast<size_t>(FormClass::vex)].empty(); }

  void gather(const Form& form) {
    const auto mask = static_cast<unsigned>(random_.below(16));
    // All elements, or those that the mask happens to choose.
    if (random_.in(2)) {
      Code ones = vex_prefix({.map = 1, .prefix = 1}, kVexLong, {(mask >> 3) * 5, mask}, false);
      append(ones, Code{0x76, byte(0xc0 | (mask & 7) * 9)});  // vpcmpeqd
      put(ones);
    }
    const Operand memory = gathered(form.need == Need::gather_wide, mask);
    encode(form, memory, std::nullopt, mask);
  }

  // --- forms ---

  // What it stores of the last x87 instruction is overwritten.
  void saved_x87(const Form& form) {
    const bool narrow = std::ranges::find(form.prefixes, 0x66) != form.prefixes.end();
    const bool whole = form.escape.size() == 1;  // FXSAVE
    const unsigned reg = plain_pointer(512);
    const unsigned extension = static_cast<unsigned>(std::countr_zero(form.regs));
    Code opcode = form.escape;
    opcode.push_back(form.opcode);
    const size_t store =
        add({.bytes = with_pointer(form.prefixes, form.wide, opcode, extension, reg), .needs = needs_});
    // SDM vol. 1, table 10-2, figures 8-9 to 8-12
    using Places = std::vector<std::pair<uint8_t, uint8_t>>;
    overwrite(reg, store,
              whole    ? Places{{6, 2}, {8, 8}, {16, 8}}
              : narrow ? Places{{6, 2}, {8, 8}}
                       : Places{{12, 4}, {16, 8}, {24, 4}});
  }
  // Zeros at [reg + place], of 2, 4 or 8 bytes; aligned, for the sake of the alignment flag.
  void overwrite(unsigned reg, size_t part_of, const std::vector<std::pair<uint8_t, uint8_t>>& places) {
    for (const auto& [place, size] : places) {
      Code zero = with_pointer(size == 2 ? Code{0x66} : Code{}, size == 8, {0xc7}, 0, reg, place);
      zero.resize(zero.size() + (size == 2 ? 2 : 4));
      add({.bytes = zero, .needs = needs_, .part_of = part_of});
    }
  }

  static uint32_t written(const x86::WithOperands& decoded, bool& moves_stack) {
    uint32_t registers = 0;
    moves_stack = false;
    for (const auto& operand : std::span(decoded.operands.data(), decoded.instruction.operand_count)) {
      constexpr unsigned kWrites = ZYDIS_OPERAND_ACTION_WRITE | ZYDIS_OPERAND_ACTION_CONDWRITE;
      if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER || (operand.actions & kWrites) == 0) continue;
      const ZydisRegister whole =
          ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, operand.reg.value);
      if (whole < ZYDIS_REGISTER_RAX || whole > ZYDIS_REGISTER_R15) continue;
      const auto number = static_cast<unsigned>(whole - ZYDIS_REGISTER_RAX);
      const bool hidden = operand.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
      if (number == kRsp && hidden) continue;
      if (number == kRsp) moves_stack = true;
      registers |= 1U << number;
    }
    return registers;
  }

  // Prefixes that say nothing, now and then.
  Code superfluous() {
    static constexpr uint8_t kSome[] = {0x26, 0x2e, 0x36, 0x3e, 0x66, 0xf2, 0xf3};
    if (!random_.in(24)) return {};
    return {kSome[random_.below(std::size(kSome))]};
  }

  // `reg`: in ModRM.reg; `source`: in VVVV.
  void encode(const Form& form, const Operand& memory, std::optional<unsigned> reg,
              std::optional<unsigned> source = std::nullopt) {
    constexpr int kTries = 4;
    for (int attempt = 0; attempt < kTries; ++attempt)
      if (encode_once(form, memory, {reg, source}, attempt)) return;
  }

  struct Fixed {
    std::optional<unsigned> reg, source;
  };
  bool encode_once(const Form& form, const Operand& memory, const Fixed& fixed, int attempt) {
    const auto& reg = fixed.reg;
    Code code = attempt == 0 ? superfluous() : Code{};
    append(code, memory.prefixes);
    append(code, form.prefixes);
    unsigned rex = form.wide ? 8 : 0;
    const bool last = attempt == 3;  // without more than is needed
    const bool by_modrm = form.memory && form.modrm;
    if (by_modrm) rex |= (memory.index_high ? 2U : 0U) | (memory.base_high ? 1U : 0U);
    if (!last && !by_modrm) rex |= static_cast<unsigned>(random_.below(2));
    if (!last && !reg) rex |= static_cast<unsigned>(random_.below(2)) << 2;
    if (reg && *reg >= 8) rex |= 4;
    if (form.vex) {
      unsigned source = fixed.source.value_or(0);
      if (form.vex->source && !fixed.source) source = static_cast<unsigned>(random_.below(16));
      const unsigned choice = one_of(form.vex->choices);
      append(code, vex_prefix(*form.vex, choice, {rex, source}, random_.in(4)));
    } else if (rex != 0 || (!last && random_.in(16))) {
      code.push_back(byte(0x40 | rex));
    }
    append(code, form.escape);
    code.push_back(form.opcode);
    size_t relative_at = 0;
    if (form.modrm) {
      const unsigned field = reg ? *reg & 7 : one_of(form.regs);
      code.push_back(byte(field << 3 | (form.memory ? memory.modrm : 0xc0 | one_of(form.rms))));
      relative_at = code.size();
      append(code, memory.rest);
    } else if (form.memory) {
      append(code, address(form.size, 0));  // its offset; no segment
    } else if (form.need == Need::frame) {
      append(code, static_cast<uint16_t>(random_.below(128)));  // ENTER
      code.push_back(byte(random_.in(2) ? 0 : random_.bits()));
    }
    for (const size_t most = kLongestInstruction; code.size() < most + 8;)
      code.push_back(byte(random_.bits()));
    x86::WithOperands decoded;
    if (!x86::decode(code, decoded) || form_name(decoded, Repeats::apart) != form.name) return false;
    // To a processor, with REX.B, it is XCHG with R8; to Zydis it is not.
    if (decoded.instruction.mnemonic == ZYDIS_MNEMONIC_PAUSE && (rex & 1) != 0) return false;
    bool moves_stack = false;
    uint32_t changed = written(decoded, moves_stack);
    // Zydis does not tell of CMPS and SCAS.
    if (form.need == Need::string) changed |= 1U << kRsi | 1U << kRdi;
    if (moves_stack || (changed & reserved_) != 0) return false;
    code.resize(decoded.instruction.length);
    Item item{.bytes = code, .needs = needs_};
    if (by_modrm && memory.relative) {
      item.kind = Item::Kind::rip_relative;
      item.at = relative_at;
      item.target = *memory.relative;
    }
    add(std::move(item));
    forget(changed);
    return true;
  }

  unsigned one_of(uint8_t bits) {
    for (;;) {
      const auto bit = static_cast<unsigned>(random_.below(8));
      if ((bits >> bit & 1) != 0) return bit;
    }
  }

  // --- control words and flags ---

  // Never NT, which a vCPU has until its next exit only: nor where PUSH has faulted, and POPF takes what is
  // there.
  void flags() {
    uint64_t value = random_.bits() & rflags::kStatus;
    const auto sometimes = [&](uint64_t flag, uint64_t of) { value |= random_.in(of) ? flag : 0; };
    sometimes(rflags::kDirection, 4);
    sometimes(rflags::kTrap, 60);
    sometimes(rflags::kAlignmentCheck, 40);
    sometimes(rflags::kId, 8);
    sometimes(rflags::kInterrupt, 2);
    sometimes(0x3000, 8);  // IOPL
    const bool narrow = random_.in(8);
    Code push = narrow ? Code{0x66, 0x68} : Code{0x68};
    narrow ? append(push, static_cast<uint16_t>(value)) : append(push, static_cast<uint32_t>(value));
    const size_t pushed = put(push);
    const size_t cleared =
        add({.bytes = {0x66, 0x81, 0x24, 0x24, 0xff, 0xbf}, .needs = {pushed}});  // and word [rsp], ~NT
    add({.bytes = narrow ? Code{0x66, 0x9d} : Code{0x9d}, .needs = {pushed, cleared}});
  }

  void sse_control() {
    begin_instruction();
    const unsigned reg = plain_pointer(4);
    Code store = with_pointer({}, false, {0xc7}, 0, reg);
    append(store, random_.in(40) ? static_cast<uint32_t>(random_.bits()) : random_.mxcsr());
    needs_.push_back(add({.bytes = store, .needs = needs_}));
    Code load = with_pointer({}, false, {0x0f, 0xae}, 2, reg);
    if (has_vex() && random_.in(2)) {
      load = vex_prefix({.map = 1}, 0, {reg >> 3, 0}, random_.in(2));
      append(load, Code{0xae, byte(2 << 3 | (reg & 7))});
    }
    add({.bytes = load, .needs = needs_});
  }

  void x87_control() {
    begin_instruction();
    if (random_.in(4)) put(random_.in(2) ? Code{0xdb, 0xe2} : Code{0xdb, 0xe3});  // FNCLEX, FNINIT
    const unsigned reg = plain_pointer(2);
    Code store = with_pointer({0x66}, false, {0xc7}, 0, reg);
    append(store, random_.in(40) ? static_cast<uint16_t>(random_.bits()) : random_.control_word());
    needs_.push_back(add({.bytes = store, .needs = needs_}));
    add({.bytes = with_pointer({}, false, {0xd9}, 5, reg), .needs = needs_});
  }

  // Something to calculate with: a stack of random instructions soon holds nothing but not-a-numbers.
  void x87_numbers() {
    begin_instruction();
    if (!random_.in(3)) put({0xdb, 0xe3});  // FNINIT
    const unsigned reg = plain_pointer(256);
    for (uint64_t left = 2 + random_.below(4); left != 0; --left) {
      const auto distance = byte(random_.below(15) * 8);
      switch (random_.below(6)) {
        case 0:
          put({0xd9, byte(0xe8 + random_.below(7))});  // constants
          break;
        case 1:
          add({.bytes = with_pointer({}, false, {0xd9}, 0, reg, distance), .needs = needs_});
          break;
        case 2:
          add({.bytes = with_pointer({}, false, {0xdb}, 5, reg, distance), .needs = needs_});
          break;
        case 3:
          add({.bytes = with_pointer({}, false, {0xdf}, 5, reg, distance), .needs = needs_});
          break;
        default:
          add({.bytes = with_pointer({}, false, {0xdd}, 0, reg, distance), .needs = needs_});
      }
    }
    const auto& forms = forms_.by_class[static_cast<size_t>(FormClass::x87)];
    for (uint64_t left = 2 + random_.below(5); left != 0; --left)
      instruction(forms[random_.below(forms.size())]);
  }

  void move_stack() {
    if (within_) return;
    const Range stack = home_.stack();
    switch (random_.below(4)) {
      case 0:
        put({0x48, 0x83, 0xe4, 0xf0});  // and rsp, -16
        return;
      case 1:
        put({0x48, 0x8d, 0x64, 0x24, byte(random_.bits())});  // lea rsp, [rsp + ...]
        return;
      case 2:
        put_set(kRsp,
                stack.start + stack.size() / 2 + (random_.in(2) ? 8 * random_.below(64) : random_.below(64)));
        return;
      default:
        if (random_.in(3))
          put_set(kRsp, (random_.in(2) ? stack.start : stack.end) + 8 * random_.below(8) - 32);
    }
  }

  // Exits of their own, and what ring 3 may not. RDTSC and CPUID are not among them: some hosts' KVM
  // (kvm_pvm) lets the guest execute them, and a recorder replaces them there.
  void trap() {
    struct Trap {
      Code code;
      uint32_t changes;
    };
    static const Trap kTraps[] = {
        {{0x0f, 0x05}, 1U << kRcx | 1U << kR11},  // syscall
        {{0x0f, 0x05}, 1U << kRcx | 1U << kR11},
        {{0xcc}, 0},        // int3
        {{0xcd, 0x80}, 0},  // int 0x80
        {{0x0f, 0x0b}, 0},  // ud2
        {{0xf4}, 0},        // hlt
        {{0xfa}, 0},        // cli
        {{0xe4, 0x60}, 0},  // in al, 0x60
    };
    if (has_vex() && random_.in(3)) {
      put(undefined_vex());
      return;
    }
    const Trap& chosen = kTraps[random_.below(std::size(kTraps))];
    if ((chosen.changes & reserved_) != 0) return;
    begin_instruction();
    put(chosen.code);
    forget(chosen.changes);
  }

  // --- control flow ---

  void forms(uint64_t count) {
    for (; count != 0; --count) form();
  }

  void forward_jump() {
    const size_t label = labels_++;
    Item jump{.kind = Item::Kind::jump, .label = label};
    const uint64_t which = random_.below(12);
    if (which == 0) jump.bytes = {0xeb};
    if (which == 1) jump.bytes = {0xe3}, jump.prefixed = random_.in(3);
    if (which > 1) jump.bytes = {byte(0x70 + random_.below(16))};
    if (which > 9)
      jump.bytes = {byte(0xe0 + random_.below(3))}, jump.prefixed = random_.in(3);  // LOOP, forwards
    const bool counts = jump.bytes[0] >= 0xe0 && jump.bytes[0] <= 0xe2;
    if (counts && is_reserved(kRcx)) return;
    add(std::move(jump));
    if (counts) forget(1U << kRcx);
    forms(1 + random_.below(6));
    put_label(label);
  }

  void loop() {
    if (within_) return;
    within_ = true;
    begin_instruction();
    const bool counting = random_.in(2);
    const bool narrow = counting && random_.in(4);
    const unsigned counter = counting ? kRcx : free_register();
    set(counter, (1 + random_.below(6)) | (narrow ? random_.bits() << 32 : 0));
    const std::vector<size_t> needs = needs_;
    reserved_ |= 1U << counter;
    const size_t label = labels_++;
    put_label(label);
    forms(1 + random_.below(6));
    if (random_.in(3)) forward_jump();
    Item jump{.kind = Item::Kind::jump, .label = label, .prefixed = narrow, .needs = needs};
    if (counting) {
      jump.bytes = {byte(random_.in(2) ? 0xe2 : 0xe0 + random_.below(2))};
    } else {
      // DEC comes before it, and goes with it.
      const size_t dec = put({byte(0x48 | counter >> 3), 0xff, byte(0xc8 | (counter & 7))});
      program_.items[dec].part_of = dec + 1;
      jump.bytes = {0x75};
    }
    add(std::move(jump));
    reserved_ &= ~(1U << counter);
    known_.fill({});
    within_ = false;
  }

  // JMP or CALL by a register or memory, which hold the address of the label.
  void indirect(unsigned extension, size_t label) {
    begin_instruction();
    const unsigned reg = free_register();
    Code load = {byte(0x48 | reg >> 3), byte(0xb8 | (reg & 7))};
    append(load, uint64_t{0});
    const size_t loaded = add({.kind = Item::Kind::address_of, .bytes = load, .at = 2, .label = label});
    known_[reg].reset();
    used_ |= 1U << reg;
    if (random_.in(2)) {
      Code code;
      if (reg >= 8) code.push_back(0x41);
      append(code, Code{0xff, byte(0xc0 | extension << 3 | (reg & 7))});
      add({.bytes = code, .needs = {loaded}});
      return;
    }
    const uint64_t place = safe_address(8);
    const unsigned pointer = [&] {
      unsigned chosen = free_register();
      while ((chosen & 7) == 4 || (chosen & 7) == 5) chosen = free_register();
      set(chosen, place);
      return chosen;
    }();
    // mov [pointer], reg
    const Code store = {byte(0x48 | reg >> 3 << 2 | pointer >> 3), 0x89,
                        byte((reg & 7) << 3 | (pointer & 7))};
    std::vector<size_t> needs = needs_;
    needs.push_back(loaded);
    const size_t stored = add({.bytes = store, .needs = needs});
    begin_instruction();
    const Operand memory = operand(place);
    needs_.push_back(stored);
    Code code = memory.prefixes;
    const unsigned rex = (memory.index_high ? 2U : 0U) | (memory.base_high ? 1U : 0U);
    if (rex != 0) code.push_back(byte(0x40 | rex));
    append(code, Code{0xff, byte(memory.modrm | extension << 3)});
    Item item{.bytes = code, .at = code.size(), .needs = needs_};
    append(item.bytes, memory.rest);
    if (memory.relative) item.kind = Item::Kind::rip_relative, item.target = *memory.relative;
    add(std::move(item));
  }

  void call() {
    if (within_) return;
    if (functions_.size() < 3) functions_.push_back(labels_++);
    const size_t function = functions_[random_.below(functions_.size())];
    if (random_.in(2)) {
      add({.kind = Item::Kind::call, .label = function});
    } else {
      constexpr unsigned kCall = 2;
      indirect(kCall, function);
    }
    known_.fill({});
  }

  void indirect_jump() {
    constexpr unsigned kJump = 4;
    if (random_.in(30)) {
      begin_instruction();
      const unsigned reg = free_register();
      set(reg, random_.in(8) ? safe_address(16) : kNotCanonical);  // the former ends the program
      Code code;
      if (reg >= 8) code.push_back(0x41);
      append(code, Code{0xff, byte(0xc0 | kJump << 3 | (reg & 7))});
      add({.bytes = code, .needs = needs_});
      return;
    }
    const size_t label = labels_++;
    indirect(kJump, label);
    forms(random_.below(3));
    put_label(label);
  }

  void make_function(size_t label) {
    within_ = true;
    put_label(label);
    forms(1 + random_.below(5));
    if (random_.in(2)) forward_jump();
    Code ret = {0xc3};
    if (random_.in(4)) ret = {0xc2, byte(8 * random_.below(4)), 0};
    if (random_.in(8)) ret = {0xf3, 0xc3};
    add({.bytes = ret, .keeps = true});
    add({.bytes = {0xcc}, .keeps = true});
    within_ = false;
  }

  void piece() {
    if (has_vex() && random_.in(40)) {
      put({0xc5, byte(random_.in(4) ? 0xfc : 0xf8), 0x77});  // VZEROALL, VZEROUPPER
      return;
    }
    const uint64_t which = random_.below(200);
    if (which < 8) return forward_jump();
    if (which < 12) return loop();
    if (which < 16) return call();
    if (which < 18) return indirect_jump();
    if (which < 21) return flags();
    if (which < 23) return sse_control();
    if (which < 26) return x87_control();
    if (which < 30) return x87_numbers();
    if (which < 34) return move_stack();
    if (which < 35) return random_.in(2) ? trap() : form();
    form();
  }
};

}  // namespace

Program make_program(const FormTable& forms, uint64_t seed, size_t slot) {
  return Maker(forms, seed, slot).make();
}

}  // namespace aftercheck
