// What is particular to the soft vCPU, or easiest to provoke on it; the agreed exits are in exit_cases.cc.
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include "base/error.h"
#include "machine/breakpoints.h"
#include "tests/machine/exit_cases.h"

namespace aftercheck {
namespace {

constexpr uint64_t kCode = kMainWindow.start + 0x10000, kData = kMainWindow.start + 0x40000;
constexpr uint64_t kStackTop = kData + 0x8000;
constexpr int kRw = PROT_READ | PROT_WRITE, kRx = PROT_READ | PROT_EXEC, kRwx = kRw | PROT_EXEC;

using Code = std::vector<uint8_t>;

struct Soft {
  AddressSpace space;
  std::unique_ptr<Machine> machine;
  std::unique_ptr<Vcpu> vcpu;

  explicit Soft(CpuModelKind model = CpuModelKind::portable, int code_prot = kRx) {
    machine = create_soft_machine(space, CpuModel(model));
    REQUIRE(space.map_anonymous({kCode, kCode + 0x10000}, code_prot, false) == 0);
    REQUIRE(space.map_anonymous({kData, kStackTop}, kRw, false) == 0);
    vcpu = machine->create_vcpu();
    vcpu->set_fpu(FpuState::initial());
    vcpu->registers().rsp = kStackTop - 0x100;
    vcpu->registers().rip = kCode;
  }
  void put(const Code& code, uint64_t at = kCode) { REQUIRE(space.write(at, code.data(), code.size())); }
  Registers& regs() { return vcpu->registers(); }
  Exit run_at(uint64_t rip) {
    regs().rip = rip;
    return vcpu->run();
  }
};

// mov eax, value; syscall
Code answer(uint8_t value) { return {0xb8, value, 0, 0, 0, 0x0f, 0x05}; }

// Counts RAX up for ever in a loop of two blocks.
const Code kSpin = {0x48, 0xff, 0xc0, 0xeb, 0x00, 0xeb, 0xf9};

}  // namespace

TEST_CASE("the soft vCPU gives the agreed exits") { exit_cases::check_all(MachineKind::soft); }

TEST_CASE("code changed by the host is executed as changed") {
  Soft soft;
  for (uint8_t value = 1; value < 50; ++value) {
    soft.put(answer(value));
    CHECK(soft.run_at(kCode).kind == ExitKind::syscall);
    CHECK(soft.regs().rax == value);
  }
}

TEST_CASE("a new mapping in the place of an old one is executed") {
  Soft soft;
  for (uint8_t value = 1; value < 50; ++value) {
    REQUIRE(soft.space.unmap({kCode, kCode + kPageSize}) == 0);
    CHECK(soft.run_at(kCode) ==
          Exit{.kind = ExitKind::memory_fault, .address = kCode, .access = Access::fetch});
    REQUIRE(soft.space.map_anonymous({kCode, kCode + kPageSize}, kRx, false) == 0);
    soft.put(answer(value));
    CHECK(soft.run_at(kCode).kind == ExitKind::syscall);
    CHECK(soft.regs().rax == value);
  }
}

TEST_CASE("branches are counted, and not any more, though code that was executed is gone") {
  Soft soft;
  for (const uint64_t at : {kCode, kCode + kPageSize, kCode + 2 * kPageSize}) {
    soft.put(answer(1), at);
    CHECK(soft.run_at(at).kind == ExitKind::syscall);
  }
  REQUIRE(soft.space.unmap({kCode, kCode + 3 * kPageSize}) == 0);
  const uint64_t left = kCode + 3 * kPageSize;
  soft.put({0x0f, 0x0b}, left);  // ud2
  for (const bool counted : {false, true, false}) {
    REQUIRE(soft.vcpu->count_branches(counted) == counted);
    CHECK(soft.run_at(left) == Exit{.kind = ExitKind::exception, .vector = vector::kInvalidOpcode});
    CHECK(soft.run_at(kCode) ==
          Exit{.kind = ExitKind::memory_fault, .address = kCode, .access = Access::fetch});
  }
}

TEST_CASE("losing and regaining the right to execute") {
  Soft soft;
  soft.put(answer(7));
  for (int i = 0; i < 3; ++i) {
    CHECK(soft.run_at(kCode).kind == ExitKind::syscall);
    REQUIRE(soft.space.protect({kCode, kCode + kPageSize}, PROT_READ) == 0);
    CHECK(soft.run_at(kCode) ==
          Exit{.kind = ExitKind::memory_fault, .address = kCode, .access = Access::fetch});
    REQUIRE(soft.space.protect({kCode, kCode + kPageSize}, kRx) == 0);
  }
}

TEST_CASE("a jump into memory that is not executable is a fault, whatever is there") {
  Soft soft;
  std::minstd_rand random(1);
  for (int round = 0; round < 3000; ++round) {
    INFO(round);
    Code bytes(32);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() >> 8);
    const uint64_t at = kData + random() % 0x4000;
    soft.put(bytes, at);
    const Exit exit = soft.run_at(at);
    REQUIRE(exit.kind == ExitKind::memory_fault);
    REQUIRE(exit.access == Access::fetch);
    REQUIRE(exit.address == at);
    REQUIRE(soft.regs().rip == at);
  }
}

TEST_CASE("losing and regaining the right to write, with a warm TLB") {
  Soft soft;
  soft.put({0x48, 0x89, 0x07, 0x0f, 0x05});  // mov [rdi], rax; syscall
  const Exit fault{.kind = ExitKind::memory_fault, .address = kData, .access = Access::write};
  for (int i = 0; i < 3; ++i) {
    soft.regs().rdi = kData;
    CHECK(soft.run_at(kCode).kind == ExitKind::syscall);
    REQUIRE(soft.space.protect({kData, kData + kPageSize}, PROT_READ) == 0);
    CHECK(soft.run_at(kCode) == fault);
    REQUIRE(soft.space.protect({kData, kData + kPageSize}, kRw) == 0);
  }
}

TEST_CASE("rights of single pages within 2 MiB that had the same") {
  Soft soft;
  soft.put({0x48, 0x89, 0x07, 0x0f, 0x05});  // mov [rdi], rax; syscall
  constexpr uint64_t kLarge = 2 << 20, kStart = kMainWindow.start + 4 * kLarge;
  REQUIRE(soft.space.map_anonymous({kStart, kStart + 2 * kLarge}, kRw, false) == 0);
  const uint64_t closed = kStart + 5 * kPageSize;
  REQUIRE(soft.space.protect({closed, closed + kPageSize}, PROT_READ) == 0);
  for (const uint64_t open : {kStart, closed - 8, closed + kPageSize, kStart + kLarge - 8, kStart + kLarge}) {
    soft.regs().rdi = open;
    CHECK(soft.run_at(kCode).kind == ExitKind::syscall);
  }
  soft.regs().rdi = closed;
  CHECK(soft.run_at(kCode) ==
        Exit{.kind = ExitKind::memory_fault, .address = closed, .access = Access::write});
}

TEST_CASE("the guest rewrites its own code") {
  Soft soft(CpuModelKind::portable, kRwx);
  // mov byte [rip+1], bl (the immediate of the mov that follows); mov eax, 0; syscall
  const Code same_block = {0x88, 0x1d, 0x01, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0x0f, 0x05};
  soft.put(same_block);
  // mov [rdi], bl; jmp rsi
  soft.put({0x88, 0x1f, 0xff, 0xe6}, kCode + 0x100);
  soft.put(answer(0), kCode + 0x2000);
  for (uint8_t value = 1; value < 20; ++value) {
    soft.regs().rbx = value;
    CHECK(soft.run_at(kCode).kind == ExitKind::syscall);
    CHECK(soft.regs().rax == value);
    soft.regs().rbx = value + 100U;
    soft.regs().rdi = kCode + 0x2001;
    soft.regs().rsi = kCode + 0x2000;
    CHECK(soft.run_at(kCode + 0x100).kind == ExitKind::syscall);
    CHECK(soft.regs().rax == value + 100U);
  }
}

TEST_CASE("a special instruction that the guest writes is seen, and its removal too") {
  Soft soft(CpuModelKind::portable, kRwx);
  soft.put({0xc7, 0x07, 0, 0, 0, 0, 0x89, 0x1f, 0xff, 0xe7});  // mov [rdi], 0; mov [rdi], ebx; jmp rdi
  const uint64_t target = kCode + 0x3000;
  for (int i = 0; i < 3; ++i) {
    soft.put({0x90, 0x90, 0x90, 0x90, 0x0f, 0x05}, target);
    soft.regs().rdi = target;
    soft.regs().rbx = 0x9090310f;  // rdtsc; nop; nop
    const Exit exit = soft.run_at(kCode);
    CHECK(exit.kind == ExitKind::trapped_instruction);
    CHECK(exit.instruction.kind == TrappedKind::rdtsc);
    CHECK(soft.regs().rip == target);
    soft.regs().rbx = 0x90909090;
    CHECK(soft.run_at(kCode).kind == ExitKind::syscall);
  }
}

TEST_CASE("trapped instructions, patched and not") {
  Soft soft;
  soft.put({0x90, 0x0f, 0x31, 0x0f, 0x01, 0xf9, 0x48, 0x0f, 0xc7, 0xf1, 0x0f, 0x05});
  Exit exit = soft.run_at(kCode);
  CHECK(exit.instruction.kind == TrappedKind::rdtsc);
  CHECK(soft.regs().rip == kCode + 1);
  exit = soft.run_at(kCode + 3);
  CHECK(exit.instruction.kind == TrappedKind::rdtscp);
  exit = soft.run_at(kCode + 6);
  CHECK(exit.instruction.kind == TrappedKind::rdrand);
  CHECK(exit.instruction.operand == 1);
  CHECK(exit.instruction.operand_bits == 64);
  CHECK(soft.run_at(kCode + 10).kind == ExitKind::syscall);

  CodePatch patch;
  patch.address = kCode + 1;
  patch.instruction = {.kind = TrappedKind::rdtsc, .length = 2};
  patch.original = {0x0f, 0x31};
  REQUIRE(soft.space.apply_patch(patch));
  exit = soft.run_at(kCode);
  CHECK(exit.kind == ExitKind::trapped_instruction);
  CHECK(exit.instruction == patch.instruction);
  CHECK(soft.regs().rip == kCode + 1);
}

TEST_CASE("CPUID answers from the model without an exit") {
  Soft soft;
  soft.put({0x90, 0x0f, 0xa2, 0x0f, 0x05});
  soft.regs().rax = 0xffff'ffff'0000'0001;
  soft.regs().rcx = 0;
  CHECK(soft.run_at(kCode).kind == ExitKind::syscall);
  const CpuidResult want = CpuModel(CpuModelKind::portable).cpuid(1, 0);
  CHECK(soft.regs().rax == want.eax);
  CHECK(soft.regs().rbx == want.ebx);
  CHECK(soft.regs().rdx == want.edx);
}

TEST_CASE("what the soft vCPU can't do is refused by name") {
  Soft soft(CpuModelKind::host);
  soft.put({0x90, 0xc5, 0xf0, 0x58, 0xc1});
  CHECK_THROWS_WITH(soft.run_at(kCode), Catch::Contains("vaddps xmm0, xmm1, xmm1") &&
                                            Catch::Contains("0x200000010001") &&
                                            Catch::Contains("--machine kvm"));
}

TEST_CASE("a kick stops a loop exactly") {
  Soft soft;
  soft.put(kSpin);
  uint64_t before = 0;
  for (int i = 0; i < 50; ++i) {
    std::thread kicker([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      soft.vcpu->kick();
    });
    CHECK(soft.vcpu->run().kind == ExitKind::kick);
    kicker.join();
    const uint64_t at = soft.regs().rip - kCode;
    CHECK((at == 0 || at == 3 || at == 5));
    CHECK(soft.regs().rax >= before);
    before = soft.regs().rax;
  }
}

TEST_CASE("no instruction is lost or repeated around kicks") {
  Soft soft;
  // 1: inc rax; add rbx, 3; dec rcx; jnz 1b; syscall
  soft.put({0x48, 0xff, 0xc0, 0x48, 0x83, 0xc3, 0x03, 0x48, 0xff, 0xc9, 0x75, 0xf4, 0x0f, 0x05});
  soft.regs() = Registers();
  soft.regs().rip = kCode;
  soft.regs().rcx = 20'000'000;
  std::atomic<bool> done{false};
  std::thread kicker([&] {
    while (!done) {
      soft.vcpu->kick();
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  int kicks = 0;
  Exit exit;
  while ((exit = soft.vcpu->run()).kind == ExitKind::kick) {
    ++kicks;
    REQUIRE(soft.regs().rax * 3 == soft.regs().rbx);
    REQUIRE(soft.regs().rax + soft.regs().rcx == 20'000'000);
  }
  done = true;
  kicker.join();
  CHECK(exit.kind == ExitKind::syscall);
  CHECK(soft.regs().rax == 20'000'000);
  CHECK(kicks > 3);
}

TEST_CASE("one kick, one exit") {
  Soft soft;
  soft.put(answer(1));
  soft.vcpu->kick();
  soft.vcpu->kick();
  CHECK(soft.run_at(kCode).kind == ExitKind::kick);
  CHECK(soft.regs().rip == kCode);
  CHECK(soft.vcpu->run().kind == ExitKind::syscall);
  soft.vcpu->kick();
  soft.vcpu->clear_kick();
  CHECK(soft.run_at(kCode).kind == ExitKind::syscall);
}

TEST_CASE("stepping goes instruction by instruction and hides the trap flag") {
  Soft soft;
  // inc rax; pushfq; pop rbx; rep stosb; cpuid; syscall
  soft.put({0x48, 0xff, 0xc0, 0x9c, 0x5b, 0xf3, 0xaa, 0x0f, 0xa2, 0x0f, 0x05});
  soft.regs().rax = 0;
  soft.regs().rcx = 3;
  soft.regs().rdi = kData;
  const auto step = [&](uint64_t rip) {
    CHECK(soft.vcpu->step().kind == ExitKind::step);
    CHECK(soft.regs().rip == kCode + rip);
    CHECK((soft.regs().rflags & rflags::kTrap) == 0);
  };
  step(3);
  CHECK(soft.regs().rax == 1);
  step(4);
  step(5);
  CHECK((soft.regs().rbx & rflags::kTrap) == 0);
  CHECK((soft.regs().rbx & rflags::kInterrupt) != 0);
  while (soft.regs().rip == kCode + 5) CHECK(soft.vcpu->step().kind == ExitKind::step);
  CHECK(soft.regs().rcx == 0);
  CHECK(soft.regs().rip == kCode + 7);
  step(9);
  CHECK(soft.vcpu->step().kind == ExitKind::syscall);
  CHECK(soft.regs().rip == kCode + 11);
  CHECK(soft.regs().rcx == kCode + 11);
  CHECK((soft.regs().r11 & rflags::kTrap) == 0);
}

TEST_CASE("stepping and running see the same faults, and both go on after them") {
  Soft soft;
  soft.put({0x48, 0xff, 0xc0, 0x8a, 0x0f, 0x0f, 0x05});  // inc rax; mov cl, [rdi]; syscall
  for (const bool single : {false, true}) {
    soft.regs().rip = kCode;
    soft.regs().rax = UINT64_MAX;
    soft.regs().rdi = kData - 1;
    if (single) CHECK(soft.vcpu->step().kind == ExitKind::step);
    const Exit exit = single ? soft.vcpu->step() : soft.vcpu->run();
    CHECK(exit == Exit{.kind = ExitKind::memory_fault, .address = kData - 1, .access = Access::read});
    CHECK(soft.regs().rip == kCode + 3);
    CHECK(soft.regs().rax == 0);
    CHECK((soft.regs().rflags & rflags::kZero) != 0);
    soft.regs().rdi = kData;
    CHECK(soft.vcpu->run().kind == ExitKind::syscall);
  }
}

TEST_CASE("x87, SSE and MXCSR state goes in and out unchanged") {
  Soft soft;
  soft.put({0x90, 0x0f, 0x05});
  FpuState state = FpuState::initial();
  for (size_t i = 0; i < 8; ++i)
    for (size_t j = 0; j < 10; ++j) state.fxsave[32 + 16 * i + j] = std::byte(17 * i + j + 1);
  for (size_t i = 0; i < 256; ++i) state.fxsave[160 + i] = std::byte(i * 7 + 3);
  state.fxsave[2] = std::byte{0x21};
  state.fxsave[3] = std::byte{5 << 3};  // TOP = 5
  state.fxsave[4] = std::byte{0xe7};
  state.fxsave[0] = std::byte{0x7f};
  state.fxsave[1] = std::byte{0x0c};
  state.fxsave[24] = std::byte{0x80};
  state.fxsave[25] = std::byte{0x7f};
  soft.vcpu->set_fpu(state);
  CHECK(soft.vcpu->fpu().fxsave == state.fxsave);
  CHECK(soft.run_at(kCode).kind == ExitKind::syscall);
  CHECK(soft.vcpu->fpu().fxsave == state.fxsave);
  // ... and survives an exception, after which the engine's CPU is put back to its start.
  soft.put({0x90, 0x8b, 0x04, 0x25, 0, 0, 0, 0});
  CHECK(soft.run_at(kCode).kind == ExitKind::memory_fault);
  CHECK(soft.vcpu->fpu().fxsave == state.fxsave);
}

TEST_CASE("x87 stack order") {
  Soft soft;
  soft.put({0xd9, 0xe8, 0xd9, 0xeb, 0x0f, 0x05});  // fld1; fldpi; syscall
  CHECK(soft.run_at(kCode).kind == ExitKind::syscall);
  const FpuState state = soft.vcpu->fpu();
  long double top = 0, below = 0;
  std::memcpy(&top, &state.fxsave[32], 10);
  std::memcpy(&below, &state.fxsave[48], 10);
  CHECK(top == 3.14159265358979323851L);
  CHECK(below == 1.0L);
  CHECK(state.fxsave[4] == std::byte{0xc0});
}

TEST_CASE("many changes of mappings") {
  Soft soft;
  soft.put({0x48, 0x89, 0x07, 0x0f, 0x05});  // mov [rdi], rax; syscall
  const Range range{kMainWindow.start + 0x4000'0000, kMainWindow.start + 0x4001'0000};
  for (uint64_t i = 0; i < 100'000; ++i) {
    REQUIRE(soft.space.map_anonymous(range, kRw, false) == 0);
    if (i % 10 == 0) {
      soft.regs().rdi = range.start + i % 0x1000 * 8;
      soft.regs().rax = i;
      REQUIRE(soft.run_at(kCode).kind == ExitKind::syscall);
      uint64_t value = ~i;
      REQUIRE(soft.space.read(range.start + i % 0x1000 * 8, &value, sizeof value));
      REQUIRE(value == i);
    }
    REQUIRE(soft.space.unmap(range) == 0);
  }
}

TEST_CASE("pages beyond the end of a mapped file are not there") {
  Soft soft;
  soft.put({0x8a, 0x07, 0x0f, 0x05});
  const int fd = memfd_create("short", 0);
  REQUIRE(fd >= 0);
  REQUIRE(ftruncate(fd, 100) == 0);
  const uint64_t at = kMainWindow.start + 0x200000;
  REQUIRE(soft.space.map_file({at, at + 3 * kPageSize}, PROT_READ, fd, 0, false) == 0);
  close(fd);
  soft.regs().rdi = at + kPageSize - 1;
  CHECK(soft.run_at(kCode).kind == ExitKind::syscall);
  soft.regs().rdi = at + kPageSize;
  CHECK(soft.run_at(kCode) ==
        Exit{.kind = ExitKind::memory_fault, .address = at + kPageSize, .access = Access::read});
}

TEST_CASE("more code than fits the translation buffer") {
  Soft soft;
  // Every page is filled with increments; each pass changes the pages, so that they are translated again.
  constexpr uint64_t kPages = 16;
  uint64_t expected = 0;
  soft.regs().rax = 0;
  for (int pass = 0; pass < 200; ++pass) {
    for (uint64_t page = 0; page < kPages; ++page) {
      Code code;
      while (code.size() + 3 + 2 <= kPageSize) code.insert(code.end(), {0x48, 0xff, 0xc0});
      expected += code.size() / 3;
      code.insert(code.end(), {0x0f, 0x05});
      soft.put(code, kCode + page * kPageSize);
      REQUIRE(soft.run_at(kCode + page * kPageSize).kind == ExitKind::syscall);
    }
    REQUIRE(soft.regs().rax == expected);
  }
}

TEST_CASE("two vCPUs share memory and code") {
  Soft soft;
  soft.put({0x48, 0xff, 0x07, 0x0f, 0x05});  // inc qword [rdi]; syscall
  const auto second = soft.machine->create_vcpu();
  second->registers().rsp = kStackTop - 0x200;
  for (int i = 0; i < 10; ++i) {
    soft.regs().rdi = second->registers().rdi = kData;
    CHECK(soft.run_at(kCode).kind == ExitKind::syscall);
    second->registers().rip = kCode;
    CHECK(second->run().kind == ExitKind::syscall);
  }
  uint64_t value = 0;
  REQUIRE(soft.space.read(kData, &value, sizeof value));
  CHECK(value == 20);
}

TEST_CASE("bounds end a run at a block or when enough code was executed") {
  Soft soft;
  REQUIRE(soft.vcpu->has_bounds());
  soft.put(kSpin);  // inc rax; jmp to the next instruction, which jumps back: 5 and 2 bytes of code
  constexpr uint64_t kSecond = kCode + 5;
  soft.regs().rax = 0;
  soft.vcpu->set_bounds(kSecond, 700);
  for (uint64_t turn = 1; turn <= 3; ++turn) {
    CHECK(soft.vcpu->run().kind == ExitKind::breakpoint);
    CHECK(soft.regs().rip == kSecond);
    CHECK(soft.regs().rax == turn);
  }
  CHECK(soft.vcpu->code_left() == 700 - 3 * 5 - 2 * 2);
  soft.vcpu->set_bounds(0, 700);
  CHECK(soft.run_at(kCode).kind == ExitKind::kick);
  CHECK(soft.vcpu->code_left() == 0);
  CHECK(soft.regs().rax < 3 + 102);
}

TEST_CASE("a machine's view traps stores until a page is shown") {
  Soft soft;
  const auto machine = create_soft_machine(soft.space, CpuModel(CpuModelKind::portable), Stores::trapped);
  REQUIRE(machine->has_view());
  // The view starts with mappings that are made while the machine exists.
  constexpr uint64_t kViewed = kData + 0x100000;
  REQUIRE(soft.space.map_anonymous({kViewed, kViewed + 2 * kPageSize}, kRw, false) == 0);
  REQUIRE(soft.space.map_anonymous({kCode + 0x100000, kCode + 0x101000}, kRwx, false) == 0);
  soft.put({0x48, 0x89, 0x07, 0x0f, 0x05}, kCode + 0x100000);  // mov [rdi], rax; syscall
  const auto vcpu = machine->create_vcpu();
  const auto run = [&] {
    vcpu->registers().rip = kCode + 0x100000;
    vcpu->registers().rdi = kViewed + kPageSize;
    return vcpu->run();
  };
  const Exit fault{.kind = ExitKind::memory_fault, .address = kViewed + kPageSize, .access = Access::write};
  CHECK(run() == fault);
  CHECK(machine->allows(kViewed, Access::read));
  CHECK_FALSE(machine->allows(kViewed + kPageSize, Access::write));
  machine->show({kViewed + kPageSize, kViewed + 2 * kPageSize}, kRw);
  CHECK(machine->allows(kViewed + kPageSize, Access::write));
  CHECK_FALSE(machine->allows(kViewed, Access::write));
  CHECK(run().kind == ExitKind::syscall);
  REQUIRE(soft.space.protect({kViewed, kViewed + 2 * kPageSize}, kRw) == 0);  // takes the view back
  CHECK(run() == fault);

  // Code that the host changes behind the address space's back.
  const uint8_t syscall[] = {0x0f, 0x05};
  std::memcpy(reinterpret_cast<void*>(kCode + 0x100000), syscall, sizeof syscall);
  machine->code_changed({kCode + 0x100000, kCode + 0x100002});
  CHECK(run().kind == ExitKind::syscall);
  CHECK(vcpu->registers().rip == kCode + 0x100002);
}

TEST_CASE("a guest thread is handed over with its registers, FPU and breakpoints") {
  Soft soft;
  soft.put({0x48, 0xff, 0xc0, 0x48, 0xff, 0xc0, 0x0f, 0x05});  // inc rax, twice; syscall
  Breakpoints breakpoints(*soft.vcpu, soft.space);
  REQUIRE(breakpoints.add(kCode + 3));
  soft.regs().rax = 5;
  FpuState fpu = FpuState::initial();
  fpu.fxsave[160] = std::byte{0x77};  // XMM0, SDM vol. 1, table 10-2
  soft.vcpu->set_fpu(fpu);
  CHECK(breakpoints.run().kind == ExitKind::breakpoint);
  const auto second = soft.machine->create_vcpu();
  hand_over(*soft.vcpu, *second, breakpoints);
  CHECK(second->registers() == soft.regs());
  CHECK(second->fpu().fxsave[160] == std::byte{0x77});
  CHECK(breakpoints.run().kind == ExitKind::syscall);
  CHECK(second->registers().rax == 7);
  CHECK(soft.regs().rax == 6);
}

}  // namespace aftercheck
