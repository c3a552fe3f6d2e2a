// Stores of the translated machine that are journaled and undone, and its bounds. Every form of store is in
// instruction_forms_test.cc.
#include <sys/mman.h>

#include <cstring>
#include <set>

#include "tests/machine/machine_guest.h"

namespace aftercheck {
namespace {

using Guest = MachineGuest;
constexpr uint64_t kCode = Guest::kCode, kData = Guest::kData;

struct JournaledGuest : Guest {
  explicit JournaledGuest(const std::vector<uint8_t>& code) : Guest(MachineKind::translated, code) {
    vcpu.reset();
    machine.reset();
    machine = create_translated_machine(space, cpu, BranchCounts::automatic, Stores::journaled);
    vcpu = machine->create_vcpu();
    vcpu->set_fpu(FpuState::initial());
    vcpu->set_bounds(0, kNoBound);
    regs() = Registers();
    begin();
  }
  static constexpr uint64_t kNoBound = UINT64_MAX;
  StoreJournal& journal() { return *machine->journal(); }
};

// Far more stores than the journal has entries, over and over the same pages.
void journal_overflows() {
  constexpr uint64_t kSize = 4 * kPageSize, kArea = kData + 0x100000;
  // 1: lea rdx, [rcx * 8]; and edx, 0x3ff8; add [rdi + rdx], rcx; loop 1b; mov ecx, 0x1000; lea rdi, [rdi +
  // 8]; rep stosb; syscall
  JournaledGuest guest({0x48, 0x8d, 0x14, 0xcd, 0,    0,    0,    0,    0x81, 0xe2, 0xf8,
                        0x3f, 0,    0,    0x48, 0x01, 0x0c, 0x17, 0xe2, 0xec, 0xb9, 0,
                        0x10, 0,    0,    0x48, 0x8d, 0x7f, 0x08, 0xf3, 0xaa, 0x0f, 0x05});
  REQUIRE(guest.space.map_anonymous({kArea, kArea + kSize}, PROT_READ | PROT_WRITE, false) == 0);
  std::vector<uint8_t> before(kSize);
  for (size_t i = 0; i < kSize; ++i) before[i] = static_cast<uint8_t>(i * 7);
  REQUIRE(guest.space.write(kArea, before.data(), kSize));
  for (int round = 0; round < 2; ++round) {
    guest.regs().rcx = 100'000;
    guest.regs().rdi = kArea;
    guest.regs().rax = 0x5a;
    REQUIRE(guest.run_at(kCode).kind == ExitKind::syscall);
    CHECK(std::memcmp(reinterpret_cast<void*>(kArea), before.data(), kSize) != 0);
    std::set<uint64_t> pages;
    guest.journal().visit([&](Range changed) { pages.insert(page_down(changed.start)); });
    CHECK(pages == std::set<uint64_t>{kArea, kArea + 0x1000, kArea + 0x2000, kArea + 0x3000});
    guest.journal().undo();
    CHECK(guest.journal().empty());
    CHECK(std::memcmp(reinterpret_cast<void*>(kArea), before.data(), kSize) == 0);
  }
}

// What stays is the ghost heap's; what was not stored is not undone.
void journal_exceptions() {
  constexpr uint64_t kOne = kGhostWindow.start;
  // mov [rdi], rax; mov [rsi], rax; mov [rdx], rax; syscall
  JournaledGuest guest({0x48, 0x89, 0x07, 0x48, 0x89, 0x06, 0x48, 0x89, 0x02, 0x0f, 0x05});
  void* ghost = mmap(reinterpret_cast<void*>(kOne), kPageSize, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  REQUIRE(ghost == reinterpret_cast<void*>(kOne));
  guest.regs().rax = 99;
  guest.regs().rdi = kOne;
  guest.regs().rsi = kData;
  guest.regs().rdx = kCode;  // read-only
  const uint64_t seven = 7;
  REQUIRE(guest.space.write(kData, &seven, sizeof seven));
  CHECK(guest.run_at(kCode) ==
        Exit{.kind = ExitKind::memory_fault, .address = kCode, .access = Access::write});
  CHECK(guest.regs().rip == kCode + 6);
  guest.journal().undo();
  CHECK(*static_cast<uint64_t*>(ghost) == 99);
  uint64_t value = 0;
  REQUIRE(guest.space.read(kData, &value, sizeof value));
  CHECK(value == 7);
  REQUIRE(mmap(ghost, kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) ==
          ghost);
}

void journal_bounds() {
  // 1: inc rax; jmp 2f; nop; 2: dec ecx; jnz 1b; syscall
  JournaledGuest guest({0x48, 0xff, 0xc0, 0xeb, 0x01, 0x90, 0xff, 0xc9, 0x75, 0xf6, 0x0f, 0x05});
  constexpr uint64_t kJump = kCode + 6;
  guest.regs().rcx = 5;
  REQUIRE(guest.run_at(kCode).kind == ExitKind::syscall);  // it is translated, and linked
  for (const uint64_t end : {kJump, kCode, kJump}) {
    INFO(end);
    guest.regs().rax = 0;
    guest.regs().rcx = 3;
    guest.vcpu->set_bounds(end, 1 << 20);
    uint64_t stops = 0;
    Exit exit = guest.run_at(kCode);
    for (; exit.kind == ExitKind::breakpoint; exit = guest.vcpu->run(), ++stops)
      CHECK(guest.regs().rip == end);
    CHECK(exit.kind == ExitKind::syscall);
    CHECK(guest.regs().rax == 3);
    CHECK(stops == (end == kJump ? 3 : 2));  // it starts at the other
    CHECK(guest.vcpu->code_left() < 1 << 20);
    CHECK(guest.vcpu->code_left() > (1 << 20) - 100);
  }
  guest.regs().rcx = 1'000'000'000;
  guest.regs().rax = 0;
  guest.vcpu->set_bounds(0, 10'000);
  CHECK(guest.run_at(kCode).kind == ExitKind::kick);
  CHECK(guest.vcpu->code_left() == 0);
  CHECK(guest.regs().rax > 500);
  CHECK(guest.regs().rax <= 1'000);
  CHECK(guest.vcpu->run().kind == ExitKind::kick);
  // One that no branch is counted in.
  guest.put({0xeb, 0xfe});
  guest.vcpu->set_bounds(0, 10'000);
  CHECK(guest.run_at(kCode).kind == ExitKind::kick);
  CHECK(guest.vcpu->code_left() == 0);
}

}  // namespace

TEST_CASE("journaled stores: more than the journal has room for") {
  if (!lacking(MachineKind::translated)) journal_overflows();
}
TEST_CASE("journaled stores: what lasts, and what did not happen") {
  if (!lacking(MachineKind::translated)) journal_exceptions();
}
TEST_CASE("journaled stores: bounds") {
  if (!lacking(MachineKind::translated)) journal_bounds();
}
}  // namespace aftercheck
