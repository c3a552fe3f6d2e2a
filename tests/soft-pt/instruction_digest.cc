#include "instruction_digest.h"

#include <Zydis/Zydis.h>

#include <array>

#include "base/error.h"

namespace aftercheck::test {

const InstructionRun& StraightRuns::until(uint64_t start, uint64_t end) {
  const auto [found, added] = runs_.try_emplace({start, end});
  InstructionRun& run = found->second;
  if (!added) return run;
  static const ZydisDecoder decoder = [] {
    ZydisDecoder made;
    ZydisDecoderInit(&made, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    return made;
  }();
  for (uint64_t at = start; at < end;) {
    std::array<uint8_t, ZYDIS_MAX_INSTRUCTION_LENGTH> bytes{};
    const size_t size = read_(at, bytes.data(), bytes.size());
    ZydisDecodedInstruction instruction;
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, bytes.data(), size, &instruction)))
      fail(ErrorKind::internal, "no instruction at {:#x}, in the run {:#x} to {:#x}", at, start, end);
    run.add(at);
    at += instruction.length;
  }
  return run;
}

}  // namespace aftercheck::test
