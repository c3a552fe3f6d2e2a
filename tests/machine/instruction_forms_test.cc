// Every form of every instruction that the portable CPU model has, on the soft vCPU or the translated machine
// and on KVM, and what the v3 model has more, on the translated machine and on KVM, with random operands and
// control words: exit, registers, memory, all of x87 and SSE must be the same. The forms are those that
// Zydis' tables have: found by decoding all opcodes, with the prefixes and kinds of ModRM that select among
// them. What is left out is printed, with the reason.
//
// The test case does a few rounds of each; "[.long]" (hidden) many.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <iostream>
#include <map>
#include <set>

#include "both_machines.h"
#include "machine/memory_accesses.h"
#include "machine/trapped_instruction.h"
#include "tests/base/sanitized.h"
#include "tests/machine/form_names.h"
#include "tests/machine/random_numbers.h"
#include "x86/decode.h"

namespace aftercheck {
namespace {

using Decoded = x86::WithOperands;

struct Form {
  std::string name;
  std::vector<Code> encodings;  // with different registers; what follows ModRM is filled in
};

// Why a form is not compared; empty: it is.
std::string left_out(const Decoded& decoded, std::span<const uint8_t> code, CpuModelKind model) {
  const ZydisDecodedInstruction& i = decoded.instruction;
  if (model == CpuModelKind::v3) {
    if (!is_more_in_v3(i.meta.isa_ext))
      return fmt::format("not what v3 has more: {}", ZydisISAExtGetString(i.meta.isa_ext));
    return {};
  }
  if (!is_portable(i.meta.isa_ext))
    return fmt::format("not in the portable model: {}", ZydisISAExtGetString(i.meta.isa_ext));
  if (decode_trapped(code)) return "the host answers";
  switch (i.mnemonic) {
    case ZYDIS_MNEMONIC_CPUID:
      return "the host answers";
    case ZYDIS_MNEMONIC_INT1:
      return "its #DB is a step to KVM";
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_GETSEC:
      return "vendors differ";
    case ZYDIS_MNEMONIC_BSWAP:
      if (i.operand_width == 16) return "undefined (SDM vol. 2, BSWAP)";
      break;
    default:
      break;
  }
  if (i.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && (i.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) != 0)
    return "vendors differ";  // branches with 66
  return {};
}

struct Forms {
  std::map<std::string, Form> compared;
  std::map<std::string, std::set<std::string>> left;  // mnemonics by reason
  std::set<ZydisMnemonic> met;
};

void add_encoding(Forms& forms, Code code, CpuModelKind model) {
  Code padded = code;
  padded.resize(kLongestInstruction);
  Decoded decoded;
  if (!x86::decode(padded, decoded) ||
      (decoded.instruction.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
       (model != CpuModelKind::v3 || decoded.instruction.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)))
    return;
  forms.met.insert(decoded.instruction.mnemonic);
  // A prefix that does not count makes no form of its own.
  for (const auto& prefix : std::span(decoded.instruction.raw.prefixes, decoded.instruction.raw.prefix_count))
    if (prefix.type == ZYDIS_PREFIX_TYPE_IGNORED) return;
  const std::string why = left_out(decoded, padded, model);
  if (!why.empty()) {
    forms.left[why].insert(ZydisMnemonicGetString(decoded.instruction.mnemonic));
    return;
  }
  Form& form = forms.compared[form_name(decoded, Repeats::alike)];
  form.name = form_name(decoded, Repeats::alike);
  constexpr size_t kEnough = 6;
  if (form.encodings.size() < kEnough) form.encodings.push_back(std::move(code));
}

// All registers as the second operand only where they select among instructions.
bool selects(size_t map, unsigned opcode) {
  return (map == 0 && opcode >= 0xd8 && opcode <= 0xdf) ||
         (map == 1 && (opcode == 0x01 || opcode == 0xae || opcode == 0xc7));
}

// Operands: memory at RSI, registers low and high; of gathers 8 bytes behind RSI and with an index register
// that random_state() makes small.
void add_vex(Forms& forms) {
  struct Operand {
    unsigned modrm;
    Code sib;
  };
  const Operand operands[] = {{0x06, {}}, {0xc1, {}}, {0xc3, {}}, {0x44, {0x96, 8}}, {0x44, {0x56, 8}}};
  for (unsigned map = 1; map <= 3; ++map)
    for (unsigned opcode = 0; opcode < 256; ++opcode)
      for (unsigned choice = 0; choice < 64; ++choice) {
        const unsigned pp = choice & 3, wide = choice >> 2 & 1, w = choice >> 3 & 1, source = choice >> 4 & 3;
        // VVVV inverted: register 0 (also where there is none: 15 inverted is 0), 5, 13.
        constexpr unsigned kSources[] = {15, 10, 2, 15};
        for (const Operand& operand : operands)
          for (unsigned reg = 0; reg < 8; ++reg) {
            const unsigned high = source == 3 && operand.modrm >= 0xc0 ? 0x00 : 0x60;  // X and B inverted
            Code code = {0xc4, static_cast<uint8_t>((reg & 1) << 7 | high | map),
                         static_cast<uint8_t>(w << 7 | kSources[source] << 3 | wide << 2 | pp),
                         static_cast<uint8_t>(opcode),
                         static_cast<uint8_t>(operand.modrm | ((reg * 3 + opcode) % 8) << 3)};
            code.insert(code.end(), operand.sib.begin(), operand.sib.end());
            // An index in a general register would lead anywhere.
            Code padded = code;
            padded.resize(kLongestInstruction);
            if (!operand.sib.empty() && !is_gather(padded)) continue;
            add_encoding(forms, std::move(code), CpuModelKind::v3);
          }
      }
}

Forms all_forms(CpuModelKind model) {
  const Code maps[] = {{}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};
  const Code prefixes[] = {{}, {0x66}, {0xf2}, {0xf3}, {0xf0}, {0x66, 0xf0}, {0x66, 0xf2}};
  const Code rexes[] = {{}, {0x48}, {0x45}};
  Forms forms;
  if (model == CpuModelKind::v3) add_vex(forms);
  for (size_t map = 0; map < std::size(maps); ++map)
    for (unsigned opcode = 0; opcode < 256; ++opcode)
      for (const Code& prefix : prefixes) {
        if (map == 0 && is_prefix(opcode)) continue;
        for (const Code& rex : rexes)
          for (unsigned reg = 0; reg < 8; ++reg)
            for (const unsigned low : {0x06U, 0xc1U, 0xc3U, 0xc0U, 0xc2U, 0xc4U, 0xc5U, 0xc6U, 0xc7U}) {
              if (low == 6 && !rex.empty() && rex[0] % 2 != 0) continue;  // REX.B: memory elsewhere
              if (low != 6 && low != 0xc1 && low != 0xc3 && !selects(map, opcode)) continue;
              Code code = prefix;
              code.insert(code.end(), rex.begin(), rex.end());
              code.insert(code.end(), maps[map].begin(), maps[map].end());
              code.push_back(static_cast<uint8_t>(opcode));
              code.push_back(static_cast<uint8_t>(low | ((reg * 3 + opcode) % 8) << 3));
              add_encoding(forms, std::move(code), model);
            }
      }
  return forms;
}

class Random : public RandomNumbers {
 public:
  using RandomNumbers::RandomNumbers;

  // Nothing is pending in SSE, and seldom in the x87, so that instructions get to work.
  FpuState ready_fpu() {
    FpuState state = FpuState::initial();
    auto put = [&state](size_t at, auto value) { std::memcpy(&state.fxsave[at], &value, sizeof value); };
    for (size_t at = 160; at < 416; at += 8) put(at, number());
    const bool masked = below(4) != 0;
    const auto flags = static_cast<uint32_t>(below(2) == 0 ? 0 : below(64));
    // None pending. Underflow stays masked: when it is not, PE is not always what a processor makes it.
    const auto masks = static_cast<uint32_t>(masked ? 0x3f : below(64) | flags | 0x10);
    const auto rounding = static_cast<uint32_t>(below(4));
    const uint32_t modes = (below(4) == 0 ? 1U << 15 : 0) | (below(4) == 0 ? 1U << 6 : 0);
    put(24, modes | rounding << 13 | masks << 7 | flags);
    const auto precision = static_cast<uint32_t>(below(2) == 0 ? 3 : below(4));
    const bool pending = below(16) == 0;
    const uint32_t x87_masks =
        masked && !pending ? 0x3f : static_cast<uint32_t>(below(64)) | (pending ? 0 : flags);
    put(0, static_cast<uint16_t>(0x40 | x87_masks | precision << 8 | below(4) << 10));
    const uint32_t raised = flags & ~x87_masks;
    const auto conditions = static_cast<uint32_t>(bits() & 0x4700);
    put(2, static_cast<uint16_t>(flags | (below(4) == 0 ? 0x40 : 0) | conditions | below(8) << 11 |
                                 (raised != 0 ? 0x8080 : 0)));
    put(4, static_cast<uint8_t>(below(2) == 0 ? 0xff : bits()));
    for (size_t at = 32; at < 160; at += 16) {
      const uint64_t kind = below(8);
      put(at, kind == 0   ? uint64_t{0}
              : kind == 1 ? uint64_t{1} << 63
                          : bits() | (kind < 7 ? uint64_t{1} << 63 : 0));
      put(at + 8, static_cast<uint16_t>((bits() & 0x8000) | (kind == 0   ? 0
                                                             : kind == 1 ? 0x7fff * below(2)
                                                             : kind == 2 ? bits() & 0x7fff
                                                                         : 0x3fff + below(128) - 64)));
    }
    return state;
  }
};

struct State {
  Registers registers;
  FpuState fpu;
  std::array<uint8_t, kDataSize> memory;
};

// Operands in memory are at RSI, sometimes misaligned or at the end of what is mapped.
State random_state(Random& random, uint64_t size, CpuModelKind model) {
  State state;
  for (size_t at = 0; at < kDataSize; at += 8) {
    const uint64_t word = random.number();
    std::memcpy(&state.memory[at], &word, sizeof word);
  }
  Registers& r = state.registers;
  r = Registers();
  for (uint64_t* word :
       {&r.rax, &r.rcx, &r.rdx, &r.rbp, &r.r8, &r.r9, &r.r10, &r.r11, &r.r12, &r.r13, &r.r14, &r.r15})
    *word = random.integer();
  r.rsp = kDataMiddle + 8 * random.below(64);
  r.rbx = kDataMiddle - 0x200 + 8 * random.below(64);
  r.rdi = kDataMiddle - 0x400 + 16 * random.below(8) + (random.below(4) == 0 ? random.below(16) : 0);
  switch (random.below(8)) {
    case 0:
      r.rsi = kData + kDataSize - size;
      break;
    case 1:
      r.rsi = kDataMiddle - random.below(32);
      break;
    default:
      r.rsi = kDataMiddle + 0x200 + 16 * random.below(8);
  }
  r.rflags = 0x202 | (random.bits() & rflags::kStatus) | (random.below(4) == 0 ? rflags::kDirection : 0);
  state.fpu = random.ready_fpu();
  if (model != CpuModelKind::v3) return state;
  for (size_t at = 0; at < state.fpu.upper.size(); at += 8) {
    const uint64_t word = random.number();
    std::memcpy(&state.fpu.upper[at], &word, sizeof word);
  }
  // Indices of gathers, in register 2: elements of 64 bits, some beyond what is mapped, or of 32.
  const bool wide = random.below(2) == 0;
  for (size_t i = 0; i < 4; ++i) {
    const auto index = [&] {
      return static_cast<int64_t>(random.below(random.below(8) == 0 ? 8192 : 64)) - 32;
    };
    const auto low = static_cast<uint64_t>(index());
    const uint64_t word = wide ? low : static_cast<uint64_t>(index()) << 32 | (low & UINT32_MAX);
    constexpr size_t kIndex = 2;
    std::byte* const half = i < 2 ? &state.fpu.fxsave[xsave::kXmm0] : state.fpu.upper.data();
    std::memcpy(half + 16 * kIndex + 8 * (i % 2), &word, sizeof word);
  }
  return state;
}

struct Outcome {
  Exit exit;
  bool refused = false;
};

Outcome run(BothMachines& both, size_t machine, uint64_t slot, State& state) {
  std::memcpy(reinterpret_cast<void*>(kData), state.memory.data(), kDataSize);
  Vcpu& vcpu = both.vcpu(machine);
  vcpu.registers() = state.registers;
  vcpu.registers().rip = kCode + slot * kSlot;
  vcpu.set_fpu(state.fpu);
  Outcome outcome;
  try {
    outcome.exit = vcpu.step();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::unsupported) throw;
    outcome.refused = true;
  }
  state.registers = vcpu.registers();
  state.fpu = vcpu.fpu();
  std::memcpy(state.memory.data(), reinterpret_cast<void*>(kData), kDataSize);
  return outcome;
}

std::string differences(MachineKind compared, const Decoded& decoded, const Outcome& outcome,
                        const Outcome& kvm, State a, State b) {
  const bool soft = compared == MachineKind::soft;
  // Before the operand is looked at; Unicorn does it later, where the operand is in memory.
  if (soft && outcome.exit.kind != ExitKind::step && kvm.exit.kind == ExitKind::exception &&
      kvm.exit.vector == vector::kX87Error)
    return {};
  const ZydisMnemonic mnemonic = decoded.instruction.mnemonic;
  // Some hosts' KVM has FXRSTOR read, by itself, from where it may not.
  if ((mnemonic == ZYDIS_MNEMONIC_FXRSTOR || mnemonic == ZYDIS_MNEMONIC_FXRSTOR64) &&
      outcome.exit.kind == ExitKind::exception)
    return {};
  // Undefined where the count is beyond the operand (SDM vol. 2, SHLD, SHRD).
  if ((mnemonic == ZYDIS_MNEMONIC_SHLD || mnemonic == ZYDIS_MNEMONIC_SHRD) &&
      decoded.instruction.operand_width == 16 &&
      (decoded.instruction.raw.imm[0].size == 0 || (decoded.instruction.raw.imm[0].value.u & 31) > 16))
    return {};
  if (outcome.exit != kvm.exit)
    return fmt::format(" exit: {}, KVM {};", describe(outcome.exit), describe(kvm.exit));
  std::string text;
  const bool in_flight = x86::is_repeated(decoded.instruction) && (a.registers.rip - kCode) % kSlot == 0;
  // Between two iterations of a string instruction; ENTER pushes before it faults at the new stack pointer.
  if (in_flight) a.registers.rflags |= rflags::kStatus, b.registers.rflags |= rflags::kStatus;
  if (soft && mnemonic == ZYDIS_MNEMONIC_ENTER && outcome.exit.kind != ExitKind::step) b.memory = a.memory;
  // AMD's processors have pushed when a CALL faults at its target, Intel's have not.
  if (mnemonic == ZYDIS_MNEMONIC_CALL && outcome.exit.kind == ExitKind::exception) b.memory = a.memory;
  // KVM completes an INS that it has allowed (KvmVcpu::port_access_exit).
  if (decoded.instruction.meta.category == ZYDIS_CATEGORY_IOSTRINGOP) b.memory = a.memory;
  // machine/soft/README.md, "What differs".
  if (soft && mnemonic == ZYDIS_MNEMONIC_CMPXCHG && decoded.instruction.operand_width == 32)
    b.registers.rax &= UINT32_MAX, a.registers.rax &= UINT32_MAX;
  if (soft && outcome.exit.kind == ExitKind::exception && outcome.exit.vector == vector::kSimdError)
    for (State* state : {&a, &b}) state->fpu.fxsave[24] &= std::byte{0xc0};
  const uint64_t undefined =
      decoded.instruction.cpu_flags != nullptr ? decoded.instruction.cpu_flags->undefined : 0;
  a.registers.rflags &= ~undefined, b.registers.rflags &= ~undefined;
  for (size_t i = 0; i < kRegisterCount; ++i) {
    const uint64_t x = reinterpret_cast<const uint64_t*>(&a.registers)[i],
                   y = reinterpret_cast<const uint64_t*>(&b.registers)[i];
    if (x != y) text += fmt::format(" {} {:#x}, KVM {:#x};", kRegisterNames[i], x, y);
  }
  for (size_t at = 0; at < kDataSize; ++at)
    if (a.memory[at] != b.memory[at]) {
      text += fmt::format(" memory at +{:#x}: {:#x}, KVM {:#x};", at, a.memory[at], b.memory[at]);
      break;
    }
  constexpr size_t kUsed = 416;
  for (size_t at = 0; at < kUsed; ++at) {
    // MXCSR's mask; and what is told of the last x87 instruction, which depends on what KVM and its host do.
    if ((at >= 6 && at < 24) || (at >= 28 && at < 32)) continue;
    // Unused bytes of x87 registers, and the exponent of those that MMX instructions write.
    const size_t within = at >= 32 && at < 160 ? at % 16 : 0;
    if (within >= 10) continue;
    if (a.fpu.fxsave[at] != b.fpu.fxsave[at])
      text += fmt::format(" fxsave+{}: {:#x}, KVM {:#x};", at, std::to_integer<unsigned>(a.fpu.fxsave[at]),
                          std::to_integer<unsigned>(b.fpu.fxsave[at]));
  }
  for (size_t at = 0; at < a.fpu.upper.size(); ++at)
    if (a.fpu.upper[at] != b.fpu.upper[at])
      text +=
          fmt::format(" upper half of ymm{}+{}: {:#x}, KVM {:#x};", at / 16, at % 16,
                      std::to_integer<unsigned>(a.fpu.upper[at]), std::to_integer<unsigned>(b.fpu.upper[at]));
  return text.empty() ? text : fmt::format(" {}:{}", describe(outcome.exit), text);
}

struct Job {
  const Form* form;
  Code code;
};

struct Result {
  std::map<std::string, std::string> differing;  // the first difference of a form
  std::set<std::string> refused;
  uint64_t runs = 0;
};

void compare(BothMachines& both, CpuModelKind model, std::span<const Job> jobs, unsigned rounds,
             Random& random, Result& result) {
  std::vector<Code> codes;
  for (const Job& job : jobs) codes.push_back(job.code);
  both.put(codes);
  for (size_t slot = 0; slot < jobs.size(); ++slot) {
    Code padded = jobs[slot].code;
    padded.resize(kLongestInstruction, 0x90);
    Decoded decoded;
    if (!x86::decode(padded, decoded)) continue;
    uint64_t size = 1;
    for (const auto& operand : std::span(decoded.operands.data(), decoded.instruction.operand_count))
      if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY) size = std::max<uint64_t>(size, operand.size / 8);
    for (unsigned round = 0; round < rounds; ++round) {
      const State before = random_state(random, size, model);
      State state = before, kvm_state = before;
      const Outcome outcome = run(both, 0, slot, state);
      if (outcome.refused) {
        result.refused.insert(ZydisMnemonicGetString(decoded.instruction.mnemonic));
        break;
      }
      const Outcome kvm = run(both, 1, slot, kvm_state);
      ++result.runs;
      const std::string text = differences(both.compared(), decoded, outcome, kvm, state, kvm_state);
      if (text.empty()) continue;
      result.differing.emplace(
          jobs[slot].form->name,
          fmt::format(
              "{:02x}:{} [rsi {:#x}, there {:02x}]", fmt::join(jobs[slot].code, " "), text,
              before.registers.rsi,
              fmt::join(std::span(before.memory)
                            .subspan(std::min<uint64_t>(before.registers.rsi - kData, kDataSize - 32), 32),
                        " ")));
      break;
    }
  }
}

// What follows ModRM: displacements of encodings that have any, immediates.
Code filled(Code code, Random& random) {
  while (code.size() < kLongestInstruction) code.push_back(static_cast<uint8_t>(random.bits()));
  return code;
}

void compare_all(MachineKind compared, unsigned variants, unsigned rounds,
                 CpuModelKind model = CpuModelKind::portable) {
  BothMachines both(compared, model);
  if (!both.has_kvm()) {
    std::cout << "SKIPPED: " << both.why_not_kvm() << std::endl;
    return;
  }
  const Forms forms = all_forms(model);
  Random random(20261126 + Catch::rngSeed());  // --rng-seed N: other operands
  std::vector<Job> jobs;
  for (const auto& [name, form] : forms.compared)
    for (unsigned i = 0; i < variants; ++i)
      jobs.push_back({&form, filled(form.encodings[i % form.encodings.size()], random)});
  Result result;
  for (size_t from = 0; from < jobs.size(); from += kBatch)
    compare(both, model, std::span(jobs).subspan(from, std::min<size_t>(kBatch, jobs.size() - from)), rounds,
            random, result);
  std::cout << fmt::format("{} forms, {} comparisons\n", forms.compared.size(), result.runs);
  std::cout << fmt::format("refused by name ({}): {}\n", name(compared), fmt::join(result.refused, " "));
  for (const auto& [why, mnemonics] : forms.left)
    std::cout << fmt::format("left out, {}: {}\n", why, fmt::join(mnemonics, " "));
  for (const auto& [name, text] : result.differing) {
    INFO(name << ": " << text);
    CHECK(false);
  }
}

}  // namespace

TEST_CASE("every form of the portable model's instructions gives on the soft vCPU what it gives on KVM") {
  compare_all(MachineKind::soft, 3, 6);
}
namespace {
// Random addresses reach what the host has mapped, and most of what it has is AddressSanitizer's shadow.
bool without_a_wall() {
  if (test::kSanitized)
    std::cout << "SKIPPED: translated code reaches AddressSanitizer's memory" << std::endl;
  return test::kSanitized;
}
}  // namespace
TEST_CASE(
    "every form of the portable model's instructions gives on the translated machine what it gives on KVM") {
  if (!lacking(MachineKind::translated) && !without_a_wall()) compare_all(MachineKind::translated, 3, 6);
}
TEST_CASE("every form that the v3 model has more gives on the translated machine what it gives on KVM") {
  if (!lacking(MachineKind::translated, CpuModelKind::v3) && !without_a_wall())
    compare_all(MachineKind::translated, 6, 8, CpuModelKind::v3);
}
TEST_CASE("the same with many operands, of what v3 has more", "[.long]") {
  if (!lacking(MachineKind::translated, CpuModelKind::v3))
    compare_all(MachineKind::translated, 60, 60, CpuModelKind::v3);
}
// What the instruction does where stores are journaled, in a block, against what it does alone; and that
// nothing of it is left when it is undone.
namespace {

// All turns of a repeated one, with one step after the other.
Outcome run_steps(BothMachines& both, uint64_t slot, State& state) {
  Outcome outcome = run(both, 1, slot, state);
  constexpr unsigned kMost = 10'000;
  for (unsigned turn = 0; turn < kMost && !outcome.refused && outcome.exit.kind == ExitKind::step &&
                          state.registers.rip == kCode + slot * kSlot;
       ++turn)
    outcome = run(both, 1, slot, state);
  return outcome;
}

std::string journal_differences(BothMachines& both, const Decoded& decoded, uint64_t slot,
                                const State& before) {
  State expected = before, state = before;
  const Outcome wanted = run_steps(both, slot, expected);
  if (wanted.refused) return {};
  const uint64_t start = kCode + slot * kSlot, next = start + decoded.instruction.length;
  if (x86::is_repeated(decoded.instruction) && expected.registers.rip == start) return {};  // endless
  std::memcpy(reinterpret_cast<void*>(kData), state.memory.data(), kDataSize);
  Vcpu& vcpu = both.vcpu(0);
  vcpu.registers() = state.registers;
  vcpu.registers().rip = start;
  vcpu.set_fpu(state.fpu);
  vcpu.set_bounds(0, 1 << 20);
  const bool goes_on = wanted.exit.kind == ExitKind::step && expected.registers.rip == next;
  Outcome outcome;
  outcome.exit = goes_on || wanted.exit.kind != ExitKind::step ? vcpu.run() : vcpu.step();
  state.registers = vcpu.registers();
  state.fpu = vcpu.fpu();
  std::memcpy(state.memory.data(), reinterpret_cast<void*>(kData), kDataSize);
  both.journal().undo();
  std::string text;
  if (std::memcmp(before.memory.data(), reinterpret_cast<void*>(kData), kDataSize) != 0)
    text += " it is not undone;";
  // INT3 behind it.
  if (goes_on && outcome.exit == Exit{.kind = ExitKind::breakpoint}) outcome.exit = wanted.exit;
  return text + differences(MachineKind::translated, decoded, outcome, wanted, state, expected);
}

void journal_all(unsigned variants, unsigned rounds, CpuModelKind model) {
  BothMachines both{BothMachines::Journaled{model}};
  const Forms forms = all_forms(model);
  Random random(20261127 + Catch::rngSeed());
  std::vector<Job> jobs;
  for (const auto& [name, form] : forms.compared)
    for (unsigned i = 0; i < variants; ++i)
      jobs.push_back({&form, filled(form.encodings[i % form.encodings.size()], random)});
  std::map<std::string, std::string> differing;
  uint64_t runs = 0;
  for (size_t from = 0; from < jobs.size(); from += kBatch) {
    const std::span<const Job> batch =
        std::span(jobs).subspan(from, std::min<size_t>(kBatch, jobs.size() - from));
    std::vector<Code> codes;
    std::vector<std::optional<Decoded>> decoded(batch.size());
    for (size_t slot = 0; slot < batch.size(); ++slot) {
      codes.push_back(batch[slot].code);
      Decoded one;
      if (!x86::decode(batch[slot].code, one)) continue;
      // Only INT3 is behind it.
      codes.back().resize(one.instruction.length);
      decoded[slot] = one;
    }
    both.put(codes);
    for (size_t slot = 0; slot < batch.size(); ++slot) {
      if (!decoded[slot]) continue;
      for (unsigned round = 0; round < rounds; ++round, ++runs) {
        const std::string text =
            journal_differences(both, *decoded[slot], slot, random_state(random, 16, model));
        if (text.empty()) continue;
        differing.emplace(batch[slot].form->name,
                          fmt::format("{:02x}:{}", fmt::join(codes[slot], " "), text));
        break;
      }
    }
  }
  std::cout << fmt::format("{} forms, {} comparisons\n", forms.compared.size(), runs);
  CHECK(runs > 10'000);
  for (const auto& [name, text] : differing) {
    INFO(name << ": " << text);
    CHECK(false);
  }
}

}  // namespace

TEST_CASE("every form of instruction does the same where stores are journaled, and nothing is left of it") {
  if (!lacking(MachineKind::translated) && !without_a_wall()) journal_all(3, 6, CpuModelKind::portable);
}
TEST_CASE("every form that v3 has more does the same where stores are journaled, and nothing is left of it") {
  if (!lacking(MachineKind::translated, CpuModelKind::v3) && !without_a_wall())
    journal_all(3, 6, CpuModelKind::v3);
}
TEST_CASE("the same with many operands, where stores are journaled", "[.long]") {
  if (!lacking(MachineKind::translated)) journal_all(60, 20, CpuModelKind::portable);
}
TEST_CASE("the same with many operands, on the soft vCPU", "[.long]") {
  compare_all(MachineKind::soft, 60, 60);
}
TEST_CASE("the same with many operands, on the translated machine", "[.long]") {
  if (!lacking(MachineKind::translated)) compare_all(MachineKind::translated, 60, 60);
}

}  // namespace aftercheck
