#include "kvm-recorder/trapped_answers.h"

#include <Zydis/Zydis.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <x86intrin.h>

#include <algorithm>
#include <array>

#include "base/error.h"

namespace aftercheck {
namespace {

// By register number in instruction encoding (SDM vol. 2, table 2-2).
constexpr std::array<uint64_t Registers::*, 16> kByEncoding = {
    &Registers::rax, &Registers::rcx, &Registers::rdx, &Registers::rbx, &Registers::rsp, &Registers::rbp,
    &Registers::rsi, &Registers::rdi, &Registers::r8,  &Registers::r9,  &Registers::r10, &Registers::r11,
    &Registers::r12, &Registers::r13, &Registers::r14, &Registers::r15};

void split(uint64_t value, Registers& registers) {
  registers.rax = static_cast<uint32_t>(value);
  registers.rdx = value >> 32;
}

uint64_t random_word() {
  uint64_t word = 0;
  if (getrandom(&word, sizeof word, 0) != sizeof word)
    fail(ErrorKind::internal, "getrandom: {}", errno_text(errno));
  return word;
}

void store(const TrappedInstruction& instruction, uint64_t value, Registers& registers) {
  uint64_t& target = registers.*kByEncoding[instruction.operand & 15];
  switch (instruction.operand_bits) {
    case 16:
      target = (target & ~uint64_t{0xffff}) | (value & 0xffff);
      break;
    case 32:
      target = static_cast<uint32_t>(value);
      break;
    default:
      target = value;
  }
}

// Linear address of the memory operand of the instruction that `patch` has replaced.
uint64_t operand_address(const CodePatch& patch, const Registers& registers) {
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  ZydisDecodedInstruction decoded;
  std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> operands{};
  ZydisRegisterContext context{};
  for (size_t i = 0; i < kByEncoding.size(); ++i)
    context.values[ZYDIS_REGISTER_RAX + i] = registers.*kByEncoding[i];
  uint64_t address = 0;
  if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, patch.original.data(), patch.original.size(), &decoded,
                                           operands.data())) ||
      !ZYAN_SUCCESS(ZydisCalcAbsoluteAddressEx(&decoded, &operands[0], registers.rip, &context, &address)))
    fail(ErrorKind::internal, "the operand of the instruction at {:#x} can't be decoded", patch.address);
  if (operands[0].mem.segment == ZYDIS_REGISTER_FS) address += registers.fs_base;
  if (operands[0].mem.segment == ZYDIS_REGISTER_GS) address += registers.gs_base;
  return address;
}

std::optional<Exit> save_fpu(Answer& answer, Vcpu& vcpu) {
  // SDM vol. 1, table 10-2: bytes 6..23 are FOP, FIP and FDP, 28..31 the mask of MXCSR; from 416 on nothing
  // is stored.
  constexpr size_t kStored = 416, kLastInstruction = 6, kMxcsr = 24, kMask = 28;
  const Registers& registers = vcpu.registers();
  const CodePatch* patch = answer.space().patch_at(registers.rip);
  if (patch == nullptr) fail(ErrorKind::internal, "no patch at {:#x}", registers.rip);
  const uint64_t address = operand_address(*patch, registers);
  FpuState state = vcpu.fpu();
  const FpuState reference = FpuState::initial();
  std::fill(&state.fxsave[kLastInstruction], &state.fxsave[kMxcsr], std::byte{0});
  std::copy_n(&reference.fxsave[kMask], sizeof(uint32_t), &state.fxsave[kMask]);
  constexpr uint64_t kAlignment = 16;
  if (address % kAlignment != 0)
    return Exit{.kind = ExitKind::exception, .vector = vector::kGeneralProtection};
  if (!answer.write(address, state.fxsave.data(), kStored))
    return Exit{.kind = ExitKind::memory_fault,
                .address = answer.space().accessible(address, 1, PROT_WRITE) ? page_up(address + 1) : address,
                .access = Access::write};
  return std::nullopt;
}

}  // namespace

std::optional<Exit> answer_trapped_instruction(const TrappedInstruction& instruction, const CpuModel& cpu,
                                               Answer& answer, Vcpu& vcpu) {
  Registers& registers = vcpu.registers();
  switch (instruction.kind) {
    case TrappedKind::rdtscp:
      registers.rcx = 0;  // IA32_TSC_AUX: processor 0
      [[fallthrough]];
    case TrappedKind::rdtsc:
      split(__rdtsc(), registers);
      break;
    case TrappedKind::cpuid: {
      const CpuidResult result =
          cpu.cpuid(static_cast<uint32_t>(registers.rax), static_cast<uint32_t>(registers.rcx));
      registers.rax = result.eax;
      registers.rbx = result.ebx;
      registers.rcx = result.ecx;
      registers.rdx = result.edx;
      break;
    }
    case TrappedKind::rdrand:
    case TrappedKind::rdseed:
      store(instruction, random_word(), registers);
      // CF = 1: a value was delivered; the other status flags are cleared (SDM vol. 2, RDRAND).
      registers.rflags = (registers.rflags & ~rflags::kStatus) | rflags::kCarry;
      break;
    case TrappedKind::rdpid:
      store(instruction, 0, registers);
      break;
    case TrappedKind::fxsave:
      if (const std::optional<Exit> fault = save_fpu(answer, vcpu)) return fault;
      break;
    case TrappedKind::none:
      fail(ErrorKind::internal, "no trapped instruction at {:#x}", registers.rip);
  }
  registers.rip += instruction.length;
  return std::nullopt;
}

}  // namespace aftercheck
