// What a system call costs before any recording: a guest that makes getppid in a loop, each exit answered
// with the host call and nothing else. usage: bare_exit MACHINE [COUNT]; prints nanoseconds per call.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "bench/machine_by_name.h"

int main(int argc, char** argv) try {
  using namespace aftercheck;
  if (argc < 2) fail(ErrorKind::usage, "usage: bare_exit MACHINE [COUNT]");
  const MachineChoice choice = machine_by_name(argv[1]);
  const long count = argc > 2 ? std::atol(argv[2]) : 10000;
  AddressSpace space;
  const CpuModel cpu(CpuModelKind::portable);
  const auto machine = create_machine(choice, space, cpu);
  const auto vcpu = machine->create_vcpu();
  constexpr uint64_t kCode = 0x400000;
  constexpr std::array<uint8_t, 9> kLoop = {0xb8, SYS_getppid, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7};
  space.map_anonymous({kCode, kCode + kPageSize}, PROT_READ | PROT_WRITE, false);
  space.write(kCode, kLoop.data(), kLoop.size());
  space.protect({kCode, kCode + kPageSize}, PROT_READ | PROT_EXEC);
  vcpu->registers().rip = kCode;
  vcpu->run();
  const auto start = std::chrono::steady_clock::now();
  for (long i = 0; i < count; ++i) {
    vcpu->registers().rax = static_cast<uint64_t>(syscall(SYS_getppid));
    vcpu->run();
  }
  const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
  std::printf("%.0f\n", spent.count() / static_cast<double>(count));
  return 0;
} catch (const aftercheck::Error& error) {
  std::fprintf(stderr, "bare_exit: %s\n", error.what());
  return exit_status(error.kind());
}
