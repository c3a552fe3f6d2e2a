#include "instruction_digest.h"

#include <array>

#include "base/error.h"
#include "x86/decode.h"

namespace aftercheck::test {

const InstructionRun& StraightRuns::until(uint64_t start, uint64_t end) {
  const auto [found, added] = runs_.try_emplace({start, end});
  InstructionRun& run = found->second;
  if (!added) return run;
  for (uint64_t at = start; at < end;) {
    std::array<uint8_t, ZYDIS_MAX_INSTRUCTION_LENGTH> bytes{};
    const size_t size = read_(at, bytes.data(), bytes.size());
    ZydisDecodedInstruction instruction;
    if (!x86::decode(std::span(bytes).first(size), instruction))
      fail(ErrorKind::internal, "no instruction at {:#x}, in the run {:#x} to {:#x}", at, start, end);
    run.add(at);
    at += instruction.length;
  }
  return run;
}

}  // namespace aftercheck::test
