#include "kvm-recorder/trapped_answers.h"

#include <sys/random.h>
#include <x86intrin.h>

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

}  // namespace

void answer_trapped_instruction(const TrappedInstruction& instruction, const CpuModel& cpu,
                                Registers& registers) {
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
    case TrappedKind::none:
      fail(ErrorKind::internal, "no trapped instruction at {:#x}", registers.rip);
  }
  registers.rip += instruction.length;
}

}  // namespace aftercheck
