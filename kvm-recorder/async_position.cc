#include "kvm-recorder/async_position.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>

#include "machine/memory_accesses.h"
#include "recording/digest.h"
#include "x86/decode.h"

namespace aftercheck {
namespace {

// A step costs an exit; these are a few milliseconds on the slowest host met.
constexpr int kStepsForReturn = 100;

// Of the processors met, and at the same time what a replay can compare in 10 ns.
constexpr uint64_t kLine = 64;
constexpr size_t kMostSamples = 32, kMostStored = 12;
constexpr uint64_t kBelowStack = 128,
                   kAboveStack = 192;  // the red zone (psABI 3.2.2), and what a frame begins with

struct Decoded {
  bool allowed = false, returns = false;
};

using Code = std::array<uint8_t, ZYDIS_MAX_INSTRUCTION_LENGTH>;

// How many bytes of code there are at `rip`; 0: none.
size_t read_code(const AddressSpace& space, uint64_t rip, Code& code) {
  const size_t size = std::min<uint64_t>(code.size(), kPageSize - rip % kPageSize);
  if (!space.read(rip, code.data(), size)) return 0;
  const bool more = size < code.size() && space.read(rip + size, &code[size], code.size() - size);
  return more ? code.size() : size;
}

Decoded decode(const Registers& registers, const AddressSpace& space, std::vector<uint64_t>& stores) {
  Code code{};
  const size_t size = read_code(space, registers.rip, code);
  ZydisDecodedInstruction instruction;
  if (size == 0 || !x86::decode({code.data(), size}, instruction)) return {};
  const bool string = instruction.meta.category == ZYDIS_CATEGORY_STRINGOP ||
                      instruction.meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
  const bool special = std::ranges::any_of(
      std::array{ZYDIS_MNEMONIC_SYSCALL, ZYDIS_MNEMONIC_INT, ZYDIS_MNEMONIC_INT1, ZYDIS_MNEMONIC_INT3,
                 ZYDIS_MNEMONIC_UD2, ZYDIS_MNEMONIC_PUSHF, ZYDIS_MNEMONIC_PUSHFQ, ZYDIS_MNEMONIC_POPF,
                 ZYDIS_MNEMONIC_POPFQ, ZYDIS_MNEMONIC_LAHF, ZYDIS_MNEMONIC_IRETQ, ZYDIS_MNEMONIC_IRETD},
      [&](ZydisMnemonic one) { return one == instruction.mnemonic; });
  if (const auto accesses = memory_accesses({code.data(), size}, registers))
    for (const MemoryAccess& access : *accesses)
      if (access.access == Access::write) stores.push_back(access.address);
  return {.allowed = !string && !special && !x86::is_repeated(instruction) &&
                     !decode_trapped({code.data(), size}).has_value(),
          .returns = instruction.mnemonic == ZYDIS_MNEMONIC_RET};
}

}  // namespace

Approach step_to_position(Vcpu& vcpu, const AddressSpace& space) {
  Approach approach;
  bool returned = false;
  for (int steps = 0;; ++steps) {
    const size_t before = approach.stored.size();
    const Decoded here = decode(vcpu.registers(), space, approach.stored);
    if (here.allowed && (returned || steps >= kStepsForReturn)) {
      approach.stored.resize(before);  // not executed
      return approach;
    }
    const Exit exit = vcpu.step();
    if (exit.kind != ExitKind::step && exit.kind != ExitKind::kick) {
      approach.exit = exit;
      return approach;
    }
    returned = here.returns;
  }
}

Approach step_to_counted_position(Vcpu& vcpu, const AddressSpace& space, unsigned further, bool* found) {
  constexpr unsigned kSteps = 32;
  Approach approach;
  *found = false;
  for (unsigned steps = 0; steps < further + kSteps; ++steps) {
    *found = steps >= further && decode(vcpu.registers(), space, approach.stored).allowed;
    if (*found) break;
    const Exit exit = vcpu.step();
    if (exit.kind == ExitKind::step || exit.kind == ExitKind::kick) continue;
    approach.exit = exit;
    break;
  }
  return approach;
}

bool comes_again_uncounted(uint64_t rip, const AddressSpace& space) {
  // Loops of that kind are short: who spins forever does little.
  constexpr int kLongest = 1000;
  uint64_t at = rip;
  for (int i = 0; i < kLongest; ++i) {
    Code code{};
    const size_t size = read_code(space, at, code);
    ZydisDecodedInstruction instruction;
    if (size == 0 || !x86::decode({code.data(), size}, instruction)) return false;
    at += instruction.length;
    switch (instruction.meta.category) {
      case ZYDIS_CATEGORY_UNCOND_BR:
      case ZYDIS_CATEGORY_CALL:
        if (!instruction.raw.imm[0].is_relative) return false;
        at += static_cast<uint64_t>(instruction.raw.imm[0].value.s);
        break;
      case ZYDIS_CATEGORY_COND_BR:
      case ZYDIS_CATEGORY_RET:
      case ZYDIS_CATEGORY_SYSCALL:
      case ZYDIS_CATEGORY_INTERRUPT:
        return false;
      default:
        break;
    }
    if (at == rip) return true;
  }
  return false;
}

std::vector<recording::MemoryDigest> sample_memory(const AddressSpace& space, const Registers& registers,
                                                   std::span<const uint64_t> stored) {
  std::vector<recording::MemoryDigest> samples;
  const auto add = [&](uint64_t address) {
    const uint64_t line = address & ~(kLine - 1);
    const Mapping* mapping = space.find(line);
    // A replay may have breakpoints in code, and others may write to shared files.
    if (samples.size() == kMostSamples || mapping == nullptr ||
        (mapping->shared && mapping->backing == Backing::file) ||
        (mapping->prot & (PROT_READ | PROT_WRITE | PROT_EXEC)) != (PROT_READ | PROT_WRITE) ||
        std::ranges::any_of(samples, [&](const auto& sample) { return sample.address == line; }))
      return;
    std::array<std::byte, kLine> bytes;
    if (space.read(line, bytes.data(), bytes.size()))
      samples.push_back({line, kLine, recording::digest128(bytes)});
  };
  for (size_t i = stored.size(); i-- > 0 && samples.size() < kMostStored;) add(stored[i]);
  for (uint64_t at = registers.rsp - kBelowStack; at != registers.rsp + kAboveStack; at += kLine) add(at);
  for (const uint64_t pointer : {registers.rbp, registers.rax, registers.rbx, registers.rcx, registers.rdx,
                                 registers.rsi, registers.rdi, registers.r8, registers.r9, registers.r10,
                                 registers.r11, registers.r12, registers.r13, registers.r14, registers.r15})
    add(pointer);
  return samples;
}

}  // namespace aftercheck
