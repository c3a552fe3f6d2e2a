#include "machine/trapped_answer.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "machine/memory_accesses.h"

namespace aftercheck {
namespace {

void store(const TrappedInstruction& instruction, uint64_t value, Registers& registers) {
  constexpr unsigned kWord = 16, kDoubleWord = 32;
  uint64_t& target = registers.*kByEncoding[instruction.operand % kByEncoding.size()];
  if (instruction.operand_bits == kWord)
    target = (target & ~uint64_t{UINT16_MAX}) | (value & UINT16_MAX);
  else
    target = instruction.operand_bits == kDoubleWord ? static_cast<uint32_t>(value) : value;
}

// Linear address of the operand of the FXSAVE that a patch has replaced.
uint64_t fxsave_operand(const AddressSpace& space, const Registers& registers) {
  const CodePatch* patch = space.patch_at(registers.rip);
  if (patch == nullptr) fail(ErrorKind::unsupported, "FXSAVE in code made at run time");
  const auto accesses = memory_accesses(patch->original, registers);
  if (!accesses || accesses->empty()) fail(ErrorKind::unsupported, "FXSAVE that can't be decoded");
  return accesses->front().address;
}

std::optional<Exit> save_fpu(const TrappedSources& sources, const AddressSpace& space, Vcpu& vcpu) {
  // SDM vol. 1, table 10-2: bytes 6..23 are FOP, FIP and FDP, 28..31 the mask of MXCSR; from 416 on nothing
  // is stored.
  constexpr size_t kStored = 416, kLastInstruction = 6, kMxcsr = 24, kMask = 28;
  constexpr uint64_t kAlignment = 16;  // SDM vol. 2, FXSAVE
  const uint64_t address = fxsave_operand(space, vcpu.registers());
  FpuState state = vcpu.fpu();
  const FpuState reference = FpuState::initial();
  std::fill(&state.fxsave[kLastInstruction], &state.fxsave[kMxcsr], std::byte{0});
  std::copy_n(&reference.fxsave[kMask], sizeof(uint32_t), &state.fxsave[kMask]);
  if (address % kAlignment != 0)
    return Exit{.kind = ExitKind::exception, .vector = vector::kGeneralProtection};
  if (!sources.write(address, std::span(state.fxsave).first(kStored)))
    return Exit{.kind = ExitKind::memory_fault,
                .address = space.accessible(address, 1, PROT_WRITE) ? page_up(address + 1) : address,
                .access = Access::write};
  return std::nullopt;
}

}  // namespace

void answer_cpuid(const CpuModel& cpu, Registers& registers) {
  const CpuidResult result =
      cpu.cpuid(static_cast<uint32_t>(registers.rax), static_cast<uint32_t>(registers.rcx));
  registers.rax = result.eax;
  registers.rbx = result.ebx;
  registers.rcx = result.ecx;
  registers.rdx = result.edx;
}

std::optional<Exit> answer_trapped(const TrappedInstruction& instruction, const TrappedSources& sources,
                                   const AddressSpace& space, Vcpu& vcpu) {
  Registers& registers = vcpu.registers();
  switch (instruction.kind) {
    case TrappedKind::rdtscp:
      registers.rcx = 0;  // IA32_TSC_AUX: processor 0
      [[fallthrough]];
    case TrappedKind::rdtsc:
      registers.rax = static_cast<uint32_t>(sources.clock);
      registers.rdx = sources.clock >> 32;
      break;
    case TrappedKind::cpuid:
      answer_cpuid(sources.cpu, registers);
      break;
    case TrappedKind::rdrand:
    case TrappedKind::rdseed:
      store(instruction, sources.random(), registers);
      // CF = 1: a value was delivered; the other status flags are cleared (SDM vol. 2, RDRAND).
      registers.rflags = (registers.rflags & ~rflags::kStatus) | rflags::kCarry;
      break;
    case TrappedKind::rdpid:
      store(instruction, 0, registers);
      break;
    case TrappedKind::fxsave:
      if (const std::optional<Exit> fault = save_fpu(sources, space, vcpu)) return fault;
      break;
    case TrappedKind::none:
      fail(ErrorKind::internal, "no trapped instruction at {:#x}", registers.rip);
  }
  registers.rip += instruction.length;
  return std::nullopt;
}

}  // namespace aftercheck
