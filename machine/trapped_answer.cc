#include "machine/trapped_answer.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "machine/fault_address.h"
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

// Linear address of the operand of the instruction at RIP, which a patch has replaced, or which a machine
// that looks at each instruction has not executed.
uint64_t operand_address(const TrappedInstruction& instruction, const AddressSpace& space,
                         const Registers& registers) {
  std::array<uint8_t, kLongestInstruction> code{};
  if (const CodePatch* patch = space.patch_at(registers.rip))
    code = patch->original;
  else if (!space.read(registers.rip, code.data(), instruction.length))
    fail(ErrorKind::internal, "no instruction at {:#x}", registers.rip);
  const auto accesses = memory_accesses(code, registers);
  if (!accesses || accesses->empty())
    fail(ErrorKind::unsupported, "{} that can't be decoded", name(instruction.kind));
  return accesses->front().address;
}

Exit general_protection() { return {.kind = ExitKind::exception, .vector = vector::kGeneralProtection}; }

// As FXSAVE would store it, without what differs between processors (SDM vol. 1, table 10-2): bytes 6..23 are
// FOP, FIP and FDP, 28..31 the mask of MXCSR.
FpuState without_differences(FpuState state) {
  constexpr size_t kLastInstruction = 6;
  const FpuState reference = FpuState::initial();
  std::fill(&state.fxsave[kLastInstruction], &state.fxsave[xsave::kMxcsr], std::byte{0});
  std::copy_n(&reference.fxsave[xsave::kMxcsrMask], sizeof(uint32_t), &state.fxsave[xsave::kMxcsrMask]);
  return state;
}

std::optional<Exit> save_fpu(const TrappedInstruction& instruction, const TrappedSources& sources,
                             const AddressSpace& space, Vcpu& vcpu) {
  constexpr size_t kStored = 416;      // SDM vol. 1, table 10-2: behind that nothing is stored
  constexpr uint64_t kAlignment = 16;  // SDM vol. 2, FXSAVE
  const uint64_t address = operand_address(instruction, space, vcpu.registers());
  const FpuState state = without_differences(vcpu.fpu());
  if (address % kAlignment != 0) return general_protection();
  if (!sources.write(address, std::span(state.fxsave).first(kStored)))
    return Exit{.kind = ExitKind::memory_fault,
                .address = space.accessible(address, 1, PROT_WRITE) ? page_up(address + 1) : address,
                .access = Access::write};
  return std::nullopt;
}

// --- XSAVE and XRSTOR of the v3 model (SDM vol. 1, 13.7 and 13.8; vol. 2) ---

constexpr uint64_t kAreaAlignment = 64;

uint64_t requested(const Registers& registers) {
  return (registers.rdx << 32 | static_cast<uint32_t>(registers.rax)) & xsave::kAll;
}

// What forbids an access to an area, if anything does.
std::optional<Exit> forbidden(const AddressSpace& space, uint64_t address, uint64_t size, Access access) {
  if (!is_canonical(address) || !is_canonical(address + size - 1) || address % kAreaAlignment != 0)
    return general_protection();
  if (const auto at = first_inaccessible(space, address, size, access))
    return Exit{.kind = ExitKind::memory_fault, .address = *at, .access = access};
  return std::nullopt;
}

struct Part {
  size_t offset, size;
};

// All of the state counts as in use, whatever it is: processors differ in what they track. What is not stored
// is written as it was.
std::optional<Exit> xsave_area(const TrappedInstruction& instruction, const TrappedSources& sources,
                               const AddressSpace& space, Vcpu& vcpu) {
  const uint64_t address = operand_address(instruction, space, vcpu.registers());
  const uint64_t wanted = requested(vcpu.registers());
  const bool avx = (wanted & xsave::kAvx) != 0;
  const uint64_t size = avx ? xsave::kSize : xsave::kUpper;
  if (const auto fault = forbidden(space, address, size, Access::write)) return fault;
  std::array<std::byte, xsave::kSize> area{};
  const Exit fault{.kind = ExitKind::memory_fault, .address = address, .access = Access::write};
  if (!space.read(address, area.data(), size)) return fault;
  const FpuState state = without_differences(vcpu.fpu());
  const auto store_legacy = [&](Part part) {
    std::copy_n(&state.fxsave[part.offset], part.size, &area[part.offset]);
  };
  if ((wanted & xsave::kX87) != 0) {
    store_legacy({0, xsave::kMxcsr});
    store_legacy({xsave::kSt0, xsave::kXmm0 - xsave::kSt0});
  }
  if ((wanted & (xsave::kSse | xsave::kAvx)) != 0) store_legacy({xsave::kMxcsr, xsave::kSt0 - xsave::kMxcsr});
  if ((wanted & xsave::kSse) != 0) store_legacy({xsave::kXmm0, FpuState::kUsed - xsave::kXmm0});
  if (avx) std::ranges::copy(state.upper, &area[xsave::kUpper]);
  uint64_t components = 0;  // XSTATE_BV
  std::memcpy(&components, &area[xsave::kHeader], sizeof components);
  components |= wanted;
  std::memcpy(&area[xsave::kHeader], &components, sizeof components);
  if (!sources.write(address, std::span(area).first(size))) return fault;
  return std::nullopt;
}

std::optional<Exit> xrstor_area(const TrappedInstruction& instruction, const AddressSpace& space,
                                Vcpu& vcpu) {
  const uint64_t address = operand_address(instruction, space, vcpu.registers());
  const uint64_t wanted = requested(vcpu.registers());
  if (const auto fault = forbidden(space, address, xsave::kUpper, Access::read)) return fault;
  std::array<std::byte, xsave::kSize> area{};
  const Exit unreadable{.kind = ExitKind::memory_fault, .address = address, .access = Access::read};
  if (!space.read(address, area.data(), xsave::kUpper)) return unreadable;
  uint64_t components = 0;  // XSTATE_BV
  std::memcpy(&components, &area[xsave::kHeader], sizeof components);
  // Behind it XCOMP_BV, which is 0 in the standard form, and 8 bytes that have to be 0.
  constexpr size_t kZeros = 16;
  const std::span zeros = std::span(area).subspan(xsave::kHeader + sizeof components, kZeros);
  if ((components & ~xsave::kAll) != 0 ||
      std::ranges::any_of(zeros, [](std::byte byte) { return byte != std::byte{0}; }))
    return general_protection();
  uint32_t mxcsr = 0;
  std::memcpy(&mxcsr, &area[xsave::kMxcsr], sizeof mxcsr);
  const bool loads_mxcsr = (wanted & (xsave::kSse | xsave::kAvx)) != 0;
  if (loads_mxcsr && mxcsr > UINT16_MAX) return general_protection();
  if ((wanted & components & xsave::kAvx) != 0) {
    if (const auto fault = forbidden(space, address, xsave::kSize, Access::read)) return fault;
    if (!space.read(address + xsave::kUpper, &area[xsave::kUpper], xsave::kUpperSize)) return unreadable;
  }
  FpuState state = vcpu.fpu();
  const FpuState initial = FpuState::initial();
  const auto load_legacy = [&](uint64_t component, Part part) {
    if ((wanted & component) == 0) return;
    const std::byte* const from = (components & component) != 0 ? area.data() : initial.fxsave.data();
    std::copy_n(from + part.offset, part.size, &state.fxsave[part.offset]);
  };
  load_legacy(xsave::kX87, {0, xsave::kMxcsr});
  load_legacy(xsave::kX87, {xsave::kSt0, xsave::kXmm0 - xsave::kSt0});
  load_legacy(xsave::kSse, {xsave::kXmm0, FpuState::kUsed - xsave::kXmm0});
  if (loads_mxcsr) std::memcpy(&state.fxsave[xsave::kMxcsr], &mxcsr, sizeof mxcsr);
  if ((wanted & xsave::kAvx) != 0) {
    if ((components & xsave::kAvx) != 0)
      std::copy_n(&area[xsave::kUpper], xsave::kUpperSize, state.upper.begin());
    else
      state.upper.fill(std::byte{0});
  }
  state.settle_x87();
  vcpu.set_fpu(state);
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
      if (const std::optional<Exit> fault = save_fpu(instruction, sources, space, vcpu)) return fault;
      break;
    case TrappedKind::xgetbv:
      if (static_cast<uint32_t>(registers.rcx) != 0) return general_protection();
      registers.rax = xsave::kAll;
      registers.rdx = 0;
      break;
    case TrappedKind::xsave:
      if (const std::optional<Exit> fault = xsave_area(instruction, sources, space, vcpu)) return fault;
      break;
    case TrappedKind::xrstor:
      if (const std::optional<Exit> fault = xrstor_area(instruction, space, vcpu)) return fault;
      break;
    case TrappedKind::xsave_other:
      return Exit{.kind = ExitKind::exception, .vector = vector::kInvalidOpcode};
    case TrappedKind::none:
      fail(ErrorKind::internal, "no trapped instruction at {:#x}", registers.rip);
  }
  registers.rip += instruction.length;
  return std::nullopt;
}

}  // namespace aftercheck
