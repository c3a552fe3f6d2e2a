// Several vCPUs, several machines, code all over the windows.
#include "tests/machine/machine_guest.h"

namespace aftercheck {
namespace {

using Guest = MachineGuest;
constexpr uint64_t kCode = Guest::kCode, kData = Guest::kData;

void two_vcpus(MachineKind kind) {
  Guest guest(
      kind, {0x48, 0xff, 0x07, 0x66, 0x0f, 0xfc, 0xc0, 0x0f, 0x05});  // inc qword [rdi]; paddb xmm0; syscall
  const auto second = guest.machine->create_vcpu();
  second->registers().rsp = Guest::kStackTop - 0x2000;
  constexpr size_t kXmm0 = 160;  // SDM vol. 1, table 10-2
  FpuState one = FpuState::initial(), three = one;
  one.fxsave[kXmm0] = std::byte{1};
  three.fxsave[kXmm0] = std::byte{3};
  guest.vcpu->set_fpu(one);
  second->set_fpu(three);
  for (int i = 0; i < 5; ++i) {
    guest.regs().rdi = second->registers().rdi = kData;
    CHECK(guest.run_at(kCode).kind == ExitKind::syscall);
    second->registers().rip = kCode;
    CHECK(second->run().kind == ExitKind::syscall);
    CHECK(second->registers().rsp == Guest::kStackTop - 0x2000);
  }
  CHECK(guest.vcpu->fpu().fxsave[kXmm0] == std::byte{32});
  CHECK(second->fpu().fxsave[kXmm0] == std::byte{96});
  uint64_t value = 0;
  REQUIRE(guest.space.read(kData, &value, sizeof value));
  CHECK(value == 10);
  // A kick is of one of them.
  second->kick();
  CHECK(guest.run_at(kCode).kind == ExitKind::syscall);
  CHECK(second->run().kind == ExitKind::kick);
}

void made_again(MachineKind kind) {
  for (int round = 0; round < 2; ++round) {
    Guest guest(kind);
    for (unsigned value = 1; value < 6; ++value) {
      guest.put({0xb8, static_cast<uint8_t>(value), 0, 0, 0, 0x0f, 0x05});  // mov eax, value; syscall
      const Registers before = guest.regs();
      REQUIRE(guest.run_at(kCode).kind == ExitKind::syscall);
      REQUIRE(guest.regs().rax == value);
      guest.vcpu.reset();
      guest.machine.reset();
      guest.machine = make_machine(kind, guest.space, guest.cpu);
      guest.vcpu = guest.machine->create_vcpu();
      guest.vcpu->set_fpu(FpuState::initial());
      guest.regs() = before;
      REQUIRE(guest.run_at(kCode).kind == ExitKind::syscall);
      REQUIRE(guest.regs().rax == value);
    }
  }
}

// Functions in the low window, at both ends of the main one and in its middle call each other.
void all_over_the_windows(MachineKind kind) {
  Guest guest(kind);
  constexpr uint64_t kGiB = uint64_t{1} << 30;
  // Not in kLendable, where the machine may have something of its own.
  const uint64_t places[] = {0x400000, kLendable.start - kPageSize, kMainWindow.start + 0x200000,
                             kMainWindow.start + 250 * kGiB + 0x345000, kMainWindow.end - kPageSize};
  // inc rax; add rax, [rip+N] (a number on the same page); then, through R15, on to the next; ret
  // 48 ff c0; 48 03 05 disp32; 49 83 c7 08; 4d 8b 77 f8; 41 ff d6; ret
  for (const uint64_t place : places) {
    REQUIRE(guest.space.map_anonymous({place, place + kPageSize}, Guest::kRx, false) == 0);
    guest.put({0x48, 0xff, 0xc0, 0x48, 0x03, 0x05, 0xf6, 0,    0,    0,    0x49,
               0x83, 0xc7, 0x08, 0x4d, 0x8b, 0x77, 0xf8, 0x41, 0xff, 0xd6, 0xc3},
              place);
    const uint64_t number = place >> 8;
    REQUIRE(guest.space.write(place + 0x100, &number, sizeof number));
  }
  guest.put({0x41, 0xff, 0xd6, 0x0f, 0x05});           // call r14; syscall
  guest.put({0x48, 0xff, 0xc0, 0xc3}, kCode + 0x100);  // inc rax; ret
  // Each calls each.
  std::vector<uint64_t> calls;
  uint64_t expected = 0;
  for (const uint64_t from : places)
    for (const uint64_t to : places)
      for (const uint64_t place : {from, to}) {
        calls.push_back(place);
        expected += 1 + (place >> 8);
      }
  calls.push_back(kCode + 0x100);
  REQUIRE(guest.space.write(kData, calls.data(), calls.size() * sizeof calls[0]));
  for (int round = 0; round < 20; ++round) {
    guest.begin();
    guest.regs().r14 = calls.front();
    guest.regs().r15 = kData + 8;
    REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
    REQUIRE(guest.regs().rax == expected + 1);
    REQUIRE(guest.regs().rsp == Guest::kStackTop - 0x100);
  }
  // Stores into the low window from the main one, and the other way.
  constexpr uint64_t kLow = 0x500000;
  REQUIRE(guest.space.map_anonymous({kLow, kLow + kPageSize}, Guest::kRw, false) == 0);
  // mov [0x500010], rbx; mov eax, [0x500010]; syscall
  guest.put({0x48, 0x89, 0x1c, 0x25, 0x10, 0, 0x50, 0, 0x8b, 0x04, 0x25, 0x10, 0, 0x50, 0, 0x0f, 0x05});
  guest.begin();
  guest.regs().rbx = 0x1122334455667788;
  REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.regs().rax == 0x55667788);
}

void fpu_in_and_out(MachineKind kind) {
  Guest guest(kind, {0x0f, 0x05, 0xeb, 0xfc});  // 1: syscall; jmp 1b
  FpuState state = FpuState::initial();
  for (size_t i = 32; i < 416; ++i) state.fxsave[i] = std::byte(i * 7);
  for (size_t reg = 0; reg < 8; ++reg)  // the six bytes after each x87 register are reserved
    std::memset(&state.fxsave[32 + reg * 16 + 10], 0, 6);
  state.fxsave[4] = std::byte{0xff};  // all in use
  state.fxsave[0] = std::byte{0x7f};
  state.fxsave[1] = std::byte{0x0c};   // round towards zero
  state.fxsave[25] = std::byte{0x7f};  // the same
  guest.vcpu->set_fpu(state);
  for (int i = 0; i < 5; ++i) {
    REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
    CHECK(canonical_fpu(guest.vcpu->fpu()) == canonical_fpu(state));
    REQUIRE(guest.vcpu->step().kind == ExitKind::step);
    CHECK(canonical_fpu(guest.vcpu->fpu()) == canonical_fpu(state));
  }
}

void segment_bases(MachineKind kind) {
  // mov rax, fs:[0]; mov rbx, gs:[8]; mov gs:[16], rax; syscall; jmp to the start
  Guest guest(kind, {0x64, 0x48, 0x8b, 0x04, 0x25, 0,    0,    0,    0, 0x65, 0x48, 0x8b, 0x1c, 0x25, 8,   0,
                     0,    0,    0x65, 0x48, 0x89, 0x04, 0x25, 0x10, 0, 0,    0,    0x0f, 0x05, 0xeb, 0xe1});
  for (uint64_t i = 0; i < 32; ++i) REQUIRE(guest.space.write(kData + 8 * i, &i, sizeof i));
  for (uint64_t i = 0; i < 10; ++i) {
    guest.regs().fs_base = kData + 8 * i;
    guest.regs().gs_base = kData + 8 * (20 - i);
    REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
    CHECK(guest.regs().rax == i);
    CHECK(guest.regs().fs_base == kData + 8 * i);
    CHECK(guest.regs().gs_base == kData + 8 * (20 - i));
    uint64_t stored = 0;
    REQUIRE(guest.space.read(kData + 8 * (22 - i), &stored, sizeof stored));
    CHECK(stored == i);
    REQUIRE(guest.vcpu->step().kind == ExitKind::step);
    const uint64_t number = 20 - i + 2;
    REQUIRE(guest.space.write(kData + 8 * number, &number, sizeof number));
  }
}

}  // namespace

ON_ALL_MACHINES("two vCPUs, one after the other", two_vcpus(machine))
ON_ALL_MACHINES("a machine made again", made_again(machine))
ON_ALL_MACHINES("code in all parts of the windows", all_over_the_windows(machine))
ON_ALL_MACHINES("x87 and SSE state goes in and out", fpu_in_and_out(machine))
ON_ALL_MACHINES("segment bases", segment_bases(machine))

}  // namespace aftercheck
