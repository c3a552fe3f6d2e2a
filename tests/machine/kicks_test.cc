// Kicks and single steps, wherever the guest is: nothing is lost, nothing done twice.
#include <signal.h>
#include <sys/time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <random>
#include <thread>

#include "tests/machine/machine_guest.h"

namespace aftercheck {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Guest = MachineGuest;
constexpr uint64_t kCode = Guest::kCode, kData = Guest::kData;

struct Loop {
  const char* name;
  Code code;
  std::vector<uint64_t> boundaries;  // of its instructions
};
const std::vector<Loop>& loops() {
  static const std::vector<Loop> all = {
      {"a jump to itself", {0xeb, 0xfe}, {0}},
      {"a jump to itself after one to the next instruction", {0xeb, 0x00, 0xeb, 0xfe}, {0, 2}},
      // dec ecx; jmp
      {"a direct jump", {0xff, 0xc9, 0xeb, 0xfc}, {0, 2}},
      // inc rax; loop; jmp
      {"LOOP", {0x48, 0xff, 0xc0, 0xe2, 0xfb, 0xeb, 0xf9}, {0, 3, 5}},
      // inc rax; jmp rdi
      {"an indirect jump", {0x48, 0xff, 0xc0, 0xff, 0xe7}, {0, 3}},
      // jmp [rsi], to itself
      {"an indirect jump to itself", {0xff, 0x26}, {0}},
      // 1: call 2f; jmp 1b; 2: inc rax; ret
      {"calls and returns", {0xe8, 2, 0, 0, 0, 0xeb, 0xf9, 0x48, 0xff, 0xc0, 0xc3}, {0, 5, 7, 10}},
      // 1: mov rdi, rbx; mov ecx, 0x8000; rep stosb; jmp 1b
      {"a string instruction",
       {0x48, 0x89, 0xdf, 0xb9, 0, 0x80, 0, 0, 0xf3, 0xaa, 0xeb, 0xf4},
       {0, 3, 8, 10}},
      // movss xmm0, xmm1; addss xmm0, xmm2; jmp
      {"SSE", {0xf3, 0x0f, 0x10, 0xc1, 0xf3, 0x0f, 0x58, 0xc2, 0xeb, 0xf6}, {0, 4, 8}},
      // pushfq; popfq; jmp
      {"PUSHF and POPF", {0x9c, 0x9d, 0xeb, 0xfc}, {0, 1, 2}},
  };
  return all;
}

void start(Guest& guest) {
  guest.begin();
  guest.regs().rdi = kCode;
  guest.regs().rbx = kData;
  guest.regs().rsi = kData + 0x10000;
  REQUIRE(guest.space.write(kData + 0x10000, &kCode, sizeof kCode));
}

void endless_loops(MachineKind kind) {
  for (const Loop& loop : loops()) {
    INFO(loop.name);
    Guest guest(kind, loop.code);
    start(guest);
    for (int i = 0; i < 30; ++i) {
      std::thread kicker([&] {
        std::this_thread::sleep_for(std::chrono::microseconds(100 * (i % 10)));
        guest.vcpu->kick();
      });
      const Exit exit = guest.vcpu->run();
      kicker.join();
      REQUIRE(exit.kind == ExitKind::kick);
      const uint64_t at = guest.regs().rip - kCode;
      REQUIRE(std::find(loop.boundaries.begin(), loop.boundaries.end(), at) != loop.boundaries.end());
      REQUIRE((guest.regs().rflags & rflags::kTrap) == 0);
    }
  }
}

// 1: xorshift of rbx; where it is odd, call 5f; where not, an indirect jump and r9 += 3; then rep movsb of 24
// bytes within [r12], xor [r12+8], rbx; xmm1 += rbx; r10 += rbx + CF; dec r11; jnz 1b; syscall
// 5: push rbx % 16, counted down in a loop, pop; added to r9; ret
const Code kMixture = {
    0x48, 0x89, 0xd8, 0x48, 0xc1, 0xe0, 0x0d, 0x48, 0x31, 0xc3, 0x48, 0x89, 0xd8, 0x48, 0xc1, 0xe8, 0x07,
    0x48, 0x31, 0xc3, 0x48, 0x89, 0xd8, 0x48, 0xc1, 0xe0, 0x11, 0x48, 0x31, 0xc3, 0xf6, 0xc3, 0x01, 0x74,
    0x07, 0xe8, 0x36, 0,    0,    0,    0xeb, 0x0d, 0x48, 0x8d, 0x35, 0x02, 0,    0,    0,    0xff, 0xe6,
    0x49, 0x83, 0xc1, 0x03, 0x4c, 0x89, 0xe6, 0x49, 0x8d, 0x7c, 0x24, 0x40, 0xb9, 0x18, 0,    0,    0,
    0xf3, 0xa4, 0x49, 0x31, 0x5c, 0x24, 0x08, 0xf2, 0x48, 0x0f, 0x2a, 0xc3, 0xf2, 0x0f, 0x58, 0xc8, 0x49,
    0x11, 0xda, 0x49, 0xff, 0xcb, 0x75, 0xa4, 0x0f, 0x05, 0x49, 0x89, 0xd8, 0x49, 0x83, 0xe0, 0x0f, 0x41,
    0x50, 0x49, 0x83, 0xe8, 0x01, 0x73, 0xfa, 0x41, 0x58, 0x4d, 0x01, 0xc1, 0x49, 0x83, 0xd2, 0,    0xc3};

struct Result {
  Registers registers;
  CanonicalFpu fpu;
  std::array<uint8_t, 256> memory{};
  uint64_t branches = 0;

  bool operator==(const Result&) const = default;
};

// Runs it to its end, kicked or not; `kicks` counts those that came.
Result run_mixture(Guest& guest, uint64_t turns, uint64_t* kicks = nullptr) {
  guest.vcpu->clear_kick();
  guest.vcpu->set_fpu(FpuState::initial());
  guest.begin();
  std::array<uint8_t, 256> memory{};
  for (size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<uint8_t>(i * 31);
  REQUIRE(guest.space.write(kData, memory.data(), memory.size()));
  guest.regs().rbx = 0x123456789;
  guest.regs().r11 = turns;
  guest.regs().r12 = kData;
  if (guest.vcpu->counts_branches()) guest.vcpu->reset_branches();
  Exit exit;
  while ((exit = guest.vcpu->run()).kind == ExitKind::kick)
    if (kicks != nullptr) ++*kicks;
  REQUIRE(exit.kind == ExitKind::syscall);
  Result result{.registers = guest.regs(), .fpu = canonical_fpu(guest.vcpu->fpu())};
  REQUIRE(guest.space.read(kData, result.memory.data(), result.memory.size()));
  if (guest.vcpu->counts_branches()) result.branches = guest.vcpu->branches();
  return result;
}

// Branches are counted by those who always do; `counted`: by one that must be told to.
void many_kicks(MachineKind kind, bool counted = false) {
  Guest guest(kind, kMixture);
  if (counted) REQUIRE(guest.vcpu->count_branches(true));
  constexpr uint64_t kTurns = 20'000, kEnough = 300;
  const Result expected = run_mixture(guest, kTurns);
  std::atomic<bool> done{false};
  std::thread kicker([&] {
    std::minstd_rand random(7);
    while (!done) {
      const auto until = Clock::now() + std::chrono::nanoseconds(random() % 200'000);
      if (random() % 4 == 0) std::this_thread::sleep_until(until);
      while (Clock::now() < until && !done) {
      }
      guest.vcpu->kick();
    }
  });
  uint64_t kicks = 0;
  bool same = true;
  const auto end = Clock::now() + 2s;
  while (same && kicks < kEnough && Clock::now() < end) same = run_mixture(guest, kTurns, &kicks) == expected;
  done = true;
  kicker.join();
  CHECK(same);
  CHECK(kicks > 0);
}

Vcpu* kicked_by_handler = nullptr;
void handler(int) { kicked_by_handler->kick(); }

// Calls `run` with a timer's signal on this thread kicking the guest every 300 us.
template <typename Run>
void with_timer(Guest& guest, Run run) {
  kicked_by_handler = guest.vcpu.get();
  struct sigaction action = {}, before = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  REQUIRE(sigaction(SIGALRM, &action, &before) == 0);
  const itimerval often = {{0, 300}, {0, 300}}, never = {};
  REQUIRE(setitimer(ITIMER_REAL, &often, nullptr) == 0);
  run();
  setitimer(ITIMER_REAL, &never, nullptr);
  sigaction(SIGALRM, &before, nullptr);
}

void kicks_by_a_handler(MachineKind kind) {
  {
    Guest guest(kind, kMixture);
    constexpr uint64_t kTurns = 20'000;
    const Result expected = run_mixture(guest, kTurns);
    uint64_t kicks = 0;
    bool same = true;
    with_timer(guest, [&] {
      const auto end = Clock::now() + 2s;
      while (same && kicks < 100 && Clock::now() < end) same = run_mixture(guest, kTurns, &kicks) == expected;
    });
    CHECK(same);
    CHECK(kicks > 0);
  }
  for (const Loop& loop : loops()) {
    INFO(loop.name);
    Guest guest(kind, loop.code);
    start(guest);
    bool kicked = true;
    with_timer(guest, [&] {
      for (int i = 0; i < 20; ++i) kicked = kicked && guest.vcpu->run().kind == ExitKind::kick;
    });
    CHECK(kicked);
  }
}

void one_kick_one_exit(MachineKind kind) {
  Guest guest(kind, {0x0f, 0x05, 0xeb, 0xfc});  // 1: syscall; jmp 1b
  guest.vcpu->kick();
  guest.vcpu->kick();
  CHECK(guest.vcpu->run().kind == ExitKind::kick);
  CHECK(guest.regs().rip == kCode);
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  guest.vcpu->kick();
  guest.vcpu->clear_kick();
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
}

// Every instruction alone leads to the same end; the trap flag that a machine may use for it is nowhere seen.
void steps_of_a_mixture(MachineKind kind, bool counted = false) {
  Guest guest(kind, kMixture);
  if (counted) REQUIRE(guest.vcpu->count_branches(true));
  constexpr uint64_t kTurns = 20;
  const Result expected = run_mixture(guest, kTurns);
  guest.vcpu->set_fpu(FpuState::initial());
  std::array<uint8_t, 256> memory{};
  for (size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<uint8_t>(i * 31);
  REQUIRE(guest.space.write(kData, memory.data(), memory.size()));
  guest.begin();
  guest.regs().rbx = 0x123456789;
  guest.regs().r11 = kTurns;
  guest.regs().r12 = kData;
  if (guest.vcpu->counts_branches()) guest.vcpu->reset_branches();
  Exit exit;
  uint64_t steps = 0;
  for (; (exit = guest.vcpu->step()).kind == ExitKind::step; ++steps) {
    REQUIRE((guest.regs().rflags & rflags::kTrap) == 0);
    REQUIRE(steps < 100 * kTurns);
  }
  CHECK(exit.kind == ExitKind::syscall);
  Result result{.registers = guest.regs(), .fpu = canonical_fpu(guest.vcpu->fpu())};
  REQUIRE(guest.space.read(kData, result.memory.data(), result.memory.size()));
  if (guest.vcpu->counts_branches()) result.branches = guest.vcpu->branches();
  CHECK(result == expected);
  CHECK(steps > 30 * kTurns);
}

void steps_hide_the_trap_flag(MachineKind kind) {
  // pushfq; pop rbx; or rbx, 0x100; push rbx; popfq; nop; nop
  Guest guest(kind, {0x9c, 0x5b, 0x48, 0x81, 0xcb, 0, 1, 0, 0, 0x53, 0x9d, 0x90, 0x90});
  for (const uint64_t offset : {1u, 2u, 9u, 10u, 11u}) {
    CHECK((guest.regs().rflags & rflags::kTrap) == 0);
    REQUIRE(guest.vcpu->step().kind == ExitKind::step);
    CHECK(guest.regs().rip == kCode + offset);
    if (offset == 2) CHECK((guest.regs().rbx & rflags::kTrap) == 0);
  }
  CHECK((guest.regs().rflags & rflags::kTrap) != 0);
  const Exit exit = guest.vcpu->run();  // the guest steps itself now
  CHECK(exit == Exit{.kind = ExitKind::exception, .vector = vector::kDebug});
  CHECK(guest.regs().rip == kCode + 12);
}

void steps_see_faults(MachineKind kind) {
  Guest guest(kind, {0x48, 0xff, 0xc0, 0x8a, 0x0f, 0x0f, 0x05});  // inc rax; mov cl, [rdi]; syscall
  for (const bool single : {false, true}) {
    guest.begin();
    guest.regs().rax = UINT64_MAX;
    guest.regs().rdi = kData - 1;
    if (single) REQUIRE(guest.vcpu->step().kind == ExitKind::step);
    const Exit exit = single ? guest.vcpu->step() : guest.vcpu->run();
    CHECK(exit == Exit{.kind = ExitKind::memory_fault, .address = kData - 1, .access = Access::read});
    CHECK(guest.regs().rip == kCode + 3);
    CHECK(guest.regs().rax == 0);
    CHECK((guest.regs().rflags & rflags::kZero) != 0);
    guest.regs().rdi = kData;
    CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  }
}

}  // namespace

ON_ALL_MACHINES("kicks end endless loops at an instruction", endless_loops(machine))
ON_ALL_MACHINES("many kicks at random change nothing", many_kicks(machine))
ON_MACHINE("many kicks at random change no count on the soft vCPU", soft, many_kicks(machine, true))
ON_MACHINE("single steps lead to the same count on the soft vCPU", soft, steps_of_a_mixture(machine, true))
ON_ALL_MACHINES("kicks by a signal handler on the vCPU's thread", kicks_by_a_handler(machine))
ON_ALL_MACHINES("one kick gives one exit, a cleared kick none", one_kick_one_exit(machine))
ON_ALL_MACHINES("single steps lead to the same end", steps_of_a_mixture(machine))
ON_ALL_MACHINES("single steps do not show the trap flag", steps_hide_the_trap_flag(machine))
ON_ALL_MACHINES("single steps and runs see the same faults", steps_see_faults(machine))

}  // namespace aftercheck
