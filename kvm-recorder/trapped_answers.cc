#include "kvm-recorder/trapped_answers.h"

#include <sys/random.h>
#include <x86intrin.h>

#include <cerrno>

#include "base/error.h"
#include "machine/trapped_answer.h"

namespace aftercheck {
namespace {

uint64_t random_word() {
  uint64_t word = 0;
  if (getrandom(&word, sizeof word, 0) != sizeof word)
    fail(ErrorKind::internal, "getrandom: {}", errno_text(errno));
  return word;
}

}  // namespace

std::optional<Exit> answer_trapped_instruction(const TrappedInstruction& instruction, const CpuModel& cpu,
                                               Answer& answer, Vcpu& vcpu) {
  const auto write = [&](uint64_t address, std::span<const std::byte> bytes) {
    return answer.write(address, bytes.data(), bytes.size());
  };
  return answer_trapped(instruction, {.cpu = cpu, .clock = __rdtsc(), .random = random_word, .write = write},
                        answer.space(), vcpu);
}

}  // namespace aftercheck
