// A guest of some pages on a machine of any kind, for tests that put code there and run it.
#pragma once

#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/machine/machines.h"

namespace aftercheck {

using Code = std::vector<uint8_t>;

struct MachineGuest {
  static constexpr uint64_t kCode = kMainWindow.start + 0x10000, kCodeEnd = kCode + 0x10000;
  static constexpr uint64_t kData = kMainWindow.start + 0x40000, kStackTop = kData + 0x20000;
  static constexpr int kRw = PROT_READ | PROT_WRITE, kRx = PROT_READ | PROT_EXEC, kRwx = kRw | PROT_EXEC;

  AddressSpace space;
  CpuModel cpu;
  std::unique_ptr<Machine> machine;
  std::unique_ptr<Vcpu> vcpu;

  explicit MachineGuest(MachineKind kind, const Code& code = {}, int code_prot = kRx,
                        CpuModelKind model = CpuModelKind::portable)
      : cpu(model), machine(make_machine(kind, space, cpu)) {
    REQUIRE(space.map_anonymous({kCode, kCodeEnd}, code_prot, false) == 0);
    REQUIRE(space.map_anonymous({kData, kStackTop}, kRw, false) == 0);
    vcpu = machine->create_vcpu();
    vcpu->set_fpu(FpuState::initial());
    begin();
    put(code);
  }

  void put(const Code& code, uint64_t at = kCode) {
    if (!code.empty()) REQUIRE(space.write(at, code.data(), code.size()));
  }
  Registers& regs() { return vcpu->registers(); }
  // All zero but RSP and RIP.
  void begin(uint64_t rip = kCode) {
    regs() = Registers();
    regs().rsp = kStackTop - 0x100;
    regs().rip = rip;
  }
  Exit run_at(uint64_t rip) {
    regs().rip = rip;
    return vcpu->run();
  }
};

inline Exit fetch_fault(uint64_t address) {
  return {.kind = ExitKind::memory_fault, .address = address, .access = Access::fetch};
}

// mov eax, value; ret
inline Code function(uint8_t value) { return {0xb8, value, 0, 0, 0, 0xc3}; }

}  // namespace aftercheck
