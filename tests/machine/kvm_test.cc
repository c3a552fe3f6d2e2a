#include <linux/kvm.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstring>
#include <iostream>
#include <thread>

#include "base/error.h"
#include "machine/breakpoints.h"
#include "machine/kvm/kvm_ioctl_numbers.h"
#include "machine/vcpu.h"
#include "tests/machine/exit_cases.h"

namespace {

using namespace aftercheck;

constexpr uint64_t kCode = kMainWindow.start + 0x200000;
constexpr uint64_t kData = kMainWindow.start + 0x400000;
constexpr int kReadWrite = PROT_READ | PROT_WRITE, kReadExecute = PROT_READ | PROT_EXEC;

// True, and said, when KVM is not to be had here.
bool no_kvm() {
  try {
    AddressSpace space;
    create_kvm_machine(space, CpuModel(CpuModelKind::portable));
    return false;
  } catch (const Error& error) {
    std::cout << "SKIPPED: " << error.what() << std::endl;
    return true;
  }
}

struct Guest {
  AddressSpace space;
  CpuModel cpu{CpuModelKind::portable};
  std::unique_ptr<Machine> machine = create_kvm_machine(space, cpu);
  std::unique_ptr<Vcpu> vcpu = machine->create_vcpu();

  explicit Guest(std::vector<uint8_t> code) {
    REQUIRE(space.map_anonymous({kCode, kCode + kPageSize}, kReadWrite, false) == 0);
    REQUIRE(space.map_anonymous({kData, kData + 16 * kPageSize}, kReadWrite, false) == 0);
    REQUIRE(space.write(kCode, code.data(), code.size()));
    REQUIRE(space.protect({kCode, kCode + kPageSize}, kReadExecute) == 0);
    vcpu->registers().rip = kCode;
    vcpu->registers().rsp = kData + 16 * kPageSize - 64;
  }
};

TEST_CASE("KVM gives the agreed exits") {
  if (no_kvm()) return;
  exit_cases::check_all(MachineKind::kvm, [](const exit_cases::Case& test) {
    return !exit_cases::needs_cpu_mask(test) && exit_cases::emulators_agree(test);
  });
}

TEST_CASE("KVM gives the agreed exits that emulated processors do not") {
  if (no_kvm()) return;
  exit_cases::check_all(MachineKind::kvm, exit_cases::emulators_differ);
}

TEST_CASE("KVM: what the CPU model lacks is an invalid opcode") {
  if (no_kvm()) return;
  bool masked = false;
  {
    Guest guest({0x31, 0xc9, 0x0f, 0x01, 0xd0, 0x0f, 0x05});  // xor %ecx, %ecx; xgetbv; syscall
    masked = guest.vcpu->run().kind == ExitKind::exception;
  }
  if (!masked) {
    std::cout << "SKIPPED: this host's KVM does not keep ring 3 to what CR4 allows" << std::endl;
    return;
  }
  exit_cases::check_all(MachineKind::kvm, exit_cases::needs_cpu_mask);
}

TEST_CASE("KVM: ioctl numbers are those of the C headers") {
  // <asm-generic/ioctl.h>: the size field of the argument is 14 bits from bit 16 on. kvm_cpuid2 and kvm_msrs
  // are 8 bytes without their array, kvm_xsave is one page.
  const auto size = [](unsigned long number) { return number >> 16 & 0x3fff; };
  CHECK(size(aftercheck_kvm_set_cpuid2) == 8);
  CHECK(size(aftercheck_kvm_get_supported_cpuid) == 8);
  CHECK(size(aftercheck_kvm_get_msrs) == 8);
  CHECK(size(aftercheck_kvm_set_msrs) == 8);
  CHECK(size(aftercheck_kvm_get_xsave) == 4096);
  CHECK(size(aftercheck_kvm_set_xsave) == 4096);
}

TEST_CASE("KVM: no-execute follows every change, past a rebuild of all page tables") {
  if (no_kvm()) return;
  Guest guest({0x0f, 0x05});  // syscall
  constexpr std::array<uint8_t, 2> kSyscall = {0x0f, 0x05};
  REQUIRE(guest.space.write(kData, kSyscall.data(), kSyscall.size()));
  // Each change of a 2 MiB region takes a fresh table; the pool has room for some 7,600.
  for (int i = 0; i < 20000; ++i) {
    const bool executable = i % 2 == 1;
    REQUIRE(guest.space.protect({kData, kData + kPageSize}, executable ? kReadExecute : kReadWrite) == 0);
    guest.vcpu->registers().rip = kData;
    const Exit exit = guest.vcpu->run();
    REQUIRE(exit.kind == (executable ? ExitKind::syscall : ExitKind::memory_fault));
    if (!executable) REQUIRE(exit.access == Access::fetch);
  }
}

TEST_CASE("KVM: no-execute follows changes of single pages in the middle of code") {
  if (no_kvm()) return;
  Guest guest({0x0f, 0x05});  // syscall
  constexpr std::array<uint8_t, 2> kSyscall = {0x0f, 0x05};
  constexpr uint64_t kPages = 8, kStart = kMainWindow.start + (64 << 20) + 0x10000;
  REQUIRE(guest.space.map_anonymous({kStart, kStart + kPages * kPageSize}, kReadExecute, false) == 0);
  for (uint64_t page = 0; page < kPages; ++page)
    REQUIRE(guest.space.write(kStart + page * kPageSize, kSyscall.data(), kSyscall.size()));
  const auto runs = [&](uint64_t page) {
    guest.vcpu->registers().rip = kStart + page * kPageSize;
    return guest.vcpu->run().kind == ExitKind::syscall;
  };
  for (uint64_t page = 0; page < kPages; ++page) CHECK(runs(page));
  const uint64_t middle = kStart + 3 * kPageSize;
  for (int i = 0; i < 3; ++i) {
    REQUIRE(guest.space.protect({middle, middle + kPageSize}, kReadWrite) == 0);
    for (uint64_t page = 0; page < kPages; ++page) CHECK(runs(page) == (page != 3));
    REQUIRE(guest.space.protect({middle, middle + kPageSize}, kReadExecute) == 0);
    CHECK(runs(3));
  }
}

TEST_CASE("KVM: memory in many gigabytes of the window") {
  if (no_kvm()) return;
  Guest guest({0x88, 0x00, 0x0f, 0x05});  // mov %al, (%rax); syscall
  for (uint64_t chunk = 1; chunk < 100; chunk += 7) {
    const uint64_t address = kMainWindow.start + (chunk << 30) - kPageSize;
    REQUIRE(guest.space.map_anonymous({address, address + 2 * kPageSize}, kReadWrite, false) == 0);
    for (const uint64_t target : {address + 5, address + kPageSize + 7}) {
      guest.vcpu->registers().rip = kCode;
      guest.vcpu->registers().rax = target;
      REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
      uint8_t byte = 0;
      REQUIRE(guest.space.read(target, &byte, 1));
      REQUIRE(byte == static_cast<uint8_t>(target));
    }
  }
}

TEST_CASE("KVM: claimed memory is brought in where it is used") {
  if (no_kvm()) return;
  Guest guest({0x88, 0x00, 0x0f, 0x05});  // mov %al, (%rax); syscall
  constexpr Range kWide{0x3000'0000'0000, 0x4000'0000'0000};
  REQUIRE(guest.space.claim(kWide) == 0);
  REQUIRE(guest.space.map_anonymous(kWide, kReadWrite, false) == 0);
  for (const uint64_t target : {kWide.start + 5, kWide.start + (uint64_t{3} << 40), kWide.end - 1}) {
    guest.vcpu->registers().rip = kCode;
    guest.vcpu->registers().rax = target;
    REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
    uint8_t byte = 0;
    REQUIRE(guest.space.read(target, &byte, 1));
    REQUIRE(byte == static_cast<uint8_t>(target));
  }
  REQUIRE(guest.space.unmap({kWide.start, kWide.start + kPageSize}) == 0);
  guest.vcpu->registers().rip = kCode;
  guest.vcpu->registers().rax = kWide.start + 5;
  const Exit exit = guest.vcpu->run();
  CHECK(exit.kind == ExitKind::memory_fault);
  CHECK(exit.address == kWide.start + 5);
}

TEST_CASE("KVM: x87, SSE and MXCSR state goes in and out unchanged") {
  if (no_kvm()) return;
  Guest guest({0x0f, 0x05, 0xeb, 0xfc});  // 1: syscall; jmp 1b
  FpuState state = FpuState::initial();
  for (size_t i = 32; i < 416; ++i) state.fxsave[i] = std::byte(i * 7);
  for (size_t reg = 0; reg < 8; ++reg)  // the six bytes after each x87 register are reserved
    std::memset(&state.fxsave[32 + reg * 16 + 10], 0, 6);
  state.fxsave[4] = std::byte{0xff};  // all in use
  guest.vcpu->set_fpu(state);
  for (int i = 0; i < 3; ++i) {
    REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
    CHECK(canonical_fpu(guest.vcpu->fpu()) == canonical_fpu(state));
  }
}

TEST_CASE("KVM: no instruction is lost or repeated around kicks") {
  if (no_kvm()) return;
  // 1: inc %rax; inc %rbx; jmp 1b
  Guest guest({0x48, 0xff, 0xc0, 0x48, 0xff, 0xc3, 0xeb, 0xf8});
  std::atomic<bool> done{false};
  std::thread kicker([&] {
    while (!done) {
      guest.vcpu->kick();
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  const Registers& registers = guest.vcpu->registers();
  bool exact = true, progress = false;
  for (int i = 0; i < 500; ++i) {
    exact = exact && guest.vcpu->run().kind == ExitKind::kick;
    const uint64_t ahead = registers.rip == kCode + 3 ? 1 : 0;
    exact = exact && registers.rax == registers.rbx + ahead;
    progress = progress || registers.rax > 1000;
  }
  done = true;
  kicker.join();
  CHECK(exact);
  CHECK(progress);
}

TEST_CASE("KVM: one kick gives one exit, a cleared kick none") {
  if (no_kvm()) return;
  Guest guest({0x0f, 0x05, 0xeb, 0xfc});
  guest.vcpu->kick();
  CHECK(guest.vcpu->run().kind == ExitKind::kick);
  CHECK(guest.vcpu->registers().rip == kCode);
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  guest.vcpu->kick();
  guest.vcpu->clear_kick();
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
}

TEST_CASE("KVM: breakpoints stop before their instruction, every time") {
  if (no_kvm()) return;
  // 1: inc %rax; nop; syscall; jmp 1b
  Guest guest({0x48, 0xff, 0xc0, 0x90, 0x0f, 0x05, 0xeb, 0xf8});
  Breakpoints breakpoints(*guest.vcpu, guest.space);
  REQUIRE(breakpoints.add(kCode + 3));
  CHECK_FALSE(breakpoints.add(kData + 64 * kPageSize));
  for (uint64_t turn = 1; turn <= 50; ++turn) {
    guest.vcpu->registers().rax = turn * 10;
    guest.vcpu->registers().rip = kCode;
    REQUIRE(breakpoints.run().kind == ExitKind::breakpoint);
    REQUIRE(guest.vcpu->registers().rip == kCode + 3);
    REQUIRE(guest.vcpu->registers().rax == turn * 10 + 1);
    REQUIRE(breakpoints.run().kind == ExitKind::syscall);
  }
  // One that has to be stepped over, right before one on a NOP.
  REQUIRE(breakpoints.add(kCode));
  REQUIRE(breakpoints.add(kCode));
  guest.vcpu->registers().rip = kCode;
  guest.vcpu->registers().rax = 0;
  REQUIRE(breakpoints.run().kind == ExitKind::breakpoint);
  CHECK(guest.vcpu->registers().rip == kCode + 3);
  CHECK(guest.vcpu->registers().rax == 1);
  std::array<std::byte, 4> code{};
  REQUIRE(guest.space.read(kCode, code.data(), code.size()));
  CHECK(code[0] == std::byte{0xcc});
  breakpoints.restore_original(kCode, code);
  CHECK(code == std::array{std::byte{0x48}, std::byte{0xff}, std::byte{0xc0}, std::byte{0x90}});
  breakpoints.remove(kCode);
  CHECK(breakpoints.at(kCode));
  breakpoints.remove(kCode);
  CHECK_FALSE(breakpoints.at(kCode));
  breakpoints.remove(kCode + 3);
  guest.vcpu->registers().rip = kCode;
  CHECK(breakpoints.run().kind == ExitKind::syscall);
  uint8_t byte = 0;
  REQUIRE(guest.space.read(kCode + 3, &byte, 1));
  CHECK(byte == 0x90);
}

TEST_CASE("KVM: stepping over PUSHF hides the trap flag, POPF may set it") {
  if (no_kvm()) return;
  // pushfq; pop rbx; or rbx, 0x100; push rbx; popfq; nop; nop
  Guest guest({0x9c, 0x5b, 0x48, 0x81, 0xcb, 0x00, 0x01, 0x00, 0x00, 0x53, 0x9d, 0x90, 0x90});
  Registers& registers = guest.vcpu->registers();
  REQUIRE(guest.vcpu->step().kind == ExitKind::step);
  REQUIRE(guest.vcpu->step().kind == ExitKind::step);
  CHECK(registers.rip == kCode + 2);
  CHECK((registers.rbx & rflags::kTrap) == 0);
  CHECK((registers.rbx & rflags::kInterrupt) != 0);
  for (int i = 0; i < 3; ++i) {
    CHECK((registers.rflags & rflags::kTrap) == 0);
    REQUIRE(guest.vcpu->step().kind == ExitKind::step);
  }
  CHECK(registers.rip == kCode + 11);
  CHECK((registers.rflags & rflags::kTrap) != 0);
  const Exit exit = guest.vcpu->run();  // the guest steps itself now
  CHECK(exit.kind == ExitKind::exception);
  CHECK(exit.vector == vector::kDebug);
  CHECK(registers.rip == kCode + 12);
}

TEST_CASE("KVM: a patched instruction traps, and unpatched RDTSC does where CR4.TSD is honoured") {
  if (no_kvm()) return;
  Guest guest({0x0f, 0xa2, 0x0f, 0x05});
  CodePatch patch;
  patch.address = kCode;
  patch.instruction = {TrappedKind::cpuid, 2, 0, 0};
  patch.original = {0x0f, 0xa2};
  REQUIRE(guest.space.apply_patch(patch));
  const Exit exit = guest.vcpu->run();
  CHECK(exit.kind == ExitKind::trapped_instruction);
  CHECK(exit.instruction == patch.instruction);
  CHECK(guest.vcpu->registers().rip == kCode);
}

}  // namespace
