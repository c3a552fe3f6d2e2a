#include "kvm-recorder/async_position.h"

#include <algorithm>
#include <array>

#include "x86/decode.h"

namespace aftercheck {
namespace {

// A step costs an exit; these are a few milliseconds on the slowest host met.
constexpr int kStepsForReturn = 100;

struct Decoded {
  bool allowed = false, returns = false;
};

Decoded decode(uint64_t rip, const AddressSpace& space) {
  std::array<uint8_t, ZYDIS_MAX_INSTRUCTION_LENGTH> code{};
  size_t size = std::min<uint64_t>(code.size(), kPageSize - rip % kPageSize);
  if (!space.read(rip, code.data(), size)) return {};
  if (size < code.size() && space.read(rip + size, &code[size], code.size() - size)) size = code.size();
  ZydisDecodedInstruction instruction;
  if (!x86::decode({code.data(), size}, instruction)) return {};
  const bool string = instruction.meta.category == ZYDIS_CATEGORY_STRINGOP ||
                      instruction.meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
  const bool special = std::ranges::any_of(
      std::array{ZYDIS_MNEMONIC_SYSCALL, ZYDIS_MNEMONIC_INT, ZYDIS_MNEMONIC_INT1, ZYDIS_MNEMONIC_INT3,
                 ZYDIS_MNEMONIC_UD2, ZYDIS_MNEMONIC_PUSHF, ZYDIS_MNEMONIC_PUSHFQ, ZYDIS_MNEMONIC_POPF,
                 ZYDIS_MNEMONIC_POPFQ, ZYDIS_MNEMONIC_LAHF, ZYDIS_MNEMONIC_IRETQ, ZYDIS_MNEMONIC_IRETD},
      [&](ZydisMnemonic one) { return one == instruction.mnemonic; });
  return {.allowed = !string && !special && !x86::is_repeated(instruction) &&
                     !decode_trapped({code.data(), size}).has_value(),
          .returns = instruction.mnemonic == ZYDIS_MNEMONIC_RET};
}

}  // namespace

std::optional<Exit> step_to_position(Vcpu& vcpu, const AddressSpace& space) {
  bool returned = false;
  for (int steps = 0;; ++steps) {
    const Decoded here = decode(vcpu.registers().rip, space);
    if (here.allowed && (returned || steps >= kStepsForReturn)) return std::nullopt;
    const Exit exit = vcpu.step();
    if (exit.kind != ExitKind::step && exit.kind != ExitKind::kick) return exit;
    returned = here.returns;
  }
}

}  // namespace aftercheck
