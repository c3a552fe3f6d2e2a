// The count of branches, and running until so many of them, on all machines that do it.
#include <atomic>
#include <chrono>
#include <random>
#include <thread>

#include "tests/machine/machine_guest.h"

namespace aftercheck {
namespace {

constexpr uint64_t kCode = MachineGuest::kCode, kData = MachineGuest::kData;

// The machine that on_each_count() is at.
MachineKind kind = MachineKind::translated;

struct Guest : MachineGuest {
  explicit Guest(const Code& code) : MachineGuest(kind, code) { REQUIRE(vcpu->count_branches(true)); }
};

struct Counted {
  const char* name;
  Code code;
  uint64_t branches;
  ExitKind exit = ExitKind::syscall;
};

// RDI is kCode + 8, where a RET stands unless the code goes that far; RSI is kData; [kData] is kCode + 8,
// [kData + 8] a non-canonical address; RBX is 0x60000 bytes behind the start of the window, where nothing is.
const std::vector<Counted>& counted() {
  using enum ExitKind;
  static const std::vector<Counted> all = {
      {"none", {0x0f, 0x05}, 0},
      // mov ecx, 10; 1: dec ecx; jnz 1b
      {"a loop", {0xb9, 10, 0, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0x0f, 0x05}, 10},
      // mov ecx, 10; 1: dec ecx; jnz near 1b
      {"a loop of long branches",
       {0xb9, 10, 0, 0, 0, 0xff, 0xc9, 0x0f, 0x85, 0xf8, 0xff, 0xff, 0xff, 0x0f, 0x05},
       10},
      {"taken", {0x31, 0xc0, 0x74, 0x01, 0xf4, 0x0f, 0x05}, 1},           // xor eax, eax; jz 1f; hlt; 1:
      {"not taken", {0x31, 0xc0, 0x75, 0x02, 0x0f, 0x05}, 1},             // xor eax, eax; jnz
      {"to the next instruction", {0x31, 0xc0, 0x74, 0, 0x0f, 0x05}, 1},  // taken or not is the same
      {"two in a row, not taken", {0x31, 0xc0, 0x75, 0x06, 0x72, 0x04, 0x0f, 0x05}, 2},
      {"direct jumps", {0xeb, 0x00, 0xe9, 0, 0, 0, 0, 0x0f, 0x05}, 0},
      {"a direct call", {0xe8, 0, 0, 0, 0, 0x58, 0x0f, 0x05}, 0},
      {"a return", {0xe8, 2, 0, 0, 0, 0x0f, 0x05, 0xc3}, 1},
      {"a return that pops", {0x50, 0xe8, 2, 0, 0, 0, 0x0f, 0x05, 0xc2, 8, 0}, 1},
      {"an indirect call and its return", {0xff, 0xd7, 0x0f, 0x05, 0x90, 0x90, 0x90, 0x90, 0xc3}, 2},
      {"an indirect call through memory", {0xff, 0x16, 0x0f, 0x05, 0x90, 0x90, 0x90, 0x90, 0xc3}, 2},
      {"an indirect jump", {0xff, 0xe7, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0x0f, 0x05}, 1},
      {"an indirect jump through memory", {0xff, 0x26, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0x0f, 0x05}, 1},
      {"push and return", {0x57, 0xc3, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0x0f, 0x05}, 1},
      {"LOOP", {0xb9, 5, 0, 0, 0, 0xe2, 0xfe, 0x0f, 0x05}, 5},
      {"LOOP of ECX", {0xb9, 5, 0, 0, 0, 0x67, 0xe2, 0xfd, 0x0f, 0x05}, 5},
      // mov ecx, 7; cmp eax, eax; loope to itself; cmp esp, 0; loopne to itself, once
      {"LOOPE and LOOPNE",
       {0xb9, 7, 0, 0, 0, 0x39, 0xc0, 0xe1, 0xfe, 0xb9, 3, 0, 0, 0, 0x39, 0xc0, 0xe0, 0xfe, 0x0f, 0x05},
       8},
      {"JRCXZ taken", {0x31, 0xc9, 0xe3, 0x01, 0xf4, 0x0f, 0x05}, 1},
      {"JRCXZ not taken", {0xb9, 1, 0, 0, 0, 0xe3, 0x02, 0x0f, 0x05}, 1},
      {"JECXZ taken", {0x31, 0xc9, 0x67, 0xe3, 0x01, 0xf4, 0x0f, 0x05}, 1},
      // mov ecx, 8; mov rdi, rsi; rep movsb; mov ecx, 8; repe cmpsb
      {"repeated string instructions",
       {0xb9, 8, 0, 0, 0, 0x48, 0x89, 0xf7, 0xf3, 0xa4, 0xb9, 8, 0, 0, 0, 0xf3, 0xa6, 0x0f, 0x05},
       0},
      {"CMOV and SETcc", {0x0f, 0x44, 0xc1, 0x0f, 0x94, 0xc0, 0x0f, 0x05}, 0},
      {"branches with branch hints", {0x31, 0xc0, 0x3e, 0x74, 0x01, 0xf4, 0x2e, 0x75, 0, 0x0f, 0x05}, 2},
      {"a return with a REP prefix", {0xe8, 2, 0, 0, 0, 0x0f, 0x05, 0xf3, 0xc3}, 1},
      // f(5) where f(n): n < 2 ? return : f(n - 1), f(n - 2): 2 comparisons and a return, see the bytes
      {"recursion",
       {0xbf, 5,    0,    0,    0,    0xe8, 2,    0,    0,    0,    0x0f, 0x05, 0x83,
        0xff, 1,    0x7e, 0x14, 0x57, 0xff, 0xcf, 0xe8, 0xf3, 0xff, 0xff, 0xff, 0x5f,
        0xff, 0xcf, 0xff, 0xcf, 0x7e, 5,    0xe8, 0xe7, 0xff, 0xff, 0xff, 0xc3},
       0},  // the number is worked out by count_of_recursion()

      // What faults has not been executed.
      {"a return that faults", {0x48, 0x31, 0xe4, 0xc3}, 0, memory_fault},  // xor rsp, rsp; ret
      {"a call whose target can't be read", {0xff, 0x13}, 0, memory_fault},
      {"a call whose return address can't be written", {0x48, 0x31, 0xe4, 0xff, 0xd7}, 0, memory_fault},
      {"an indirect jump to a non-canonical address", {0xff, 0x66, 0x08}, 0, exception},
      {"a return to a non-canonical address", {0xff, 0x76, 0x08, 0xc3}, 0, exception},
      // What jumped to a fault has been.
      {"an indirect jump into a hole", {0xff, 0xe3}, 1, memory_fault},
      {"an indirect call into a hole", {0xff, 0xd3}, 1, memory_fault},
      {"a return into a hole", {0x53, 0xc3}, 1, memory_fault},
      {"a branch, then a fault", {0x31, 0xc0, 0x74, 0, 0x8b, 0x03}, 1, memory_fault},
      {"a branch, then a breakpoint", {0x31, 0xc0, 0x75, 0, 0xcc}, 1, breakpoint},
  };
  return all;
}

uint64_t count_of_recursion(int n) {
  if (n <= 1) return 1 + 1;  // jle taken; ret
  uint64_t count = 1 + count_of_recursion(n - 1);
  // EDI is n again, and 2 is taken from n - 1, which is what POP left decremented twice.
  count += 1;
  if (n - 2 > 0) count += count_of_recursion(n - 2);
  return count + 1;
}

void start(Guest& guest) {
  guest.begin();
  constexpr uint64_t kTarget = kCode + 8, kNonCanonical = uint64_t{1} << 63;
  REQUIRE(guest.space.write(kData, &kTarget, sizeof kTarget));
  REQUIRE(guest.space.write(kData + 8, &kNonCanonical, sizeof kNonCanonical));
  guest.regs().rdi = kTarget;
  guest.regs().rsi = kData;
  guest.regs().rbx = kMainWindow.start + 0x800'0000;
  guest.vcpu->reset_branches();
}

// A loop with branches of all kinds: 6 turns.
// 1: dec ecx; js 3f; call 2f; lea rax, [rip+1]; jmp rax; hlt; test cl, 1; jz 4f; nop; 4: jmp 1b; 2: ret; 3:
// syscall
const Code kLoop = {0xff, 0xc9, 0x78, 0x18, 0xe8, 0x12, 0, 0,    0, 0x48, 0x8d, 0x05, 3,    0,    0,
                    0,    0xff, 0xe0, 0xf4, 0xf6, 0xc1, 1, 0x74, 1, 0x90, 0xeb, 0xe5, 0xc3, 0x0f, 0x05};
constexpr uint64_t kTurns = 6;

void begin_loop(Guest& guest) {
  guest.begin();
  guest.regs().rcx = kTurns;
  guest.vcpu->reset_branches();
}

struct Place {
  uint64_t branches;
  Registers registers;
};

// Where each step of kLoop leads to.
std::vector<Place> steps_of_loop(Guest& guest) {
  begin_loop(guest);
  std::vector<Place> places;
  while (guest.vcpu->step().kind == ExitKind::step) {
    places.push_back({guest.vcpu->branches(), guest.regs()});
    REQUIRE(places.size() < 1000);
  }
  return places;
}

}  // namespace

void on_each_count(void (*function)()) {
  struct Way {
    MachineKind machine;
    BranchCounts counts;
  };
  using enum MachineKind;
  for (const Way way : {Way{translated, BranchCounts::automatic}, Way{translated, BranchCounts::in_memory},
                        Way{soft, BranchCounts::automatic}}) {
    if (lacking(way.machine)) continue;
    INFO("on " << name(way.machine) << ", counts: " << static_cast<int>(way.counts));
    kind = way.machine;
    branch_counts = way.counts;
    function();
  }
  branch_counts = BranchCounts::automatic;
}

#define COUNTING_TEST(name, function) \
  TEST_CASE(name) { on_each_count(function); }

namespace {

void exact_counts() {
  for (Counted test : counted()) {
    INFO(test.name);
    if (test.name == std::string("recursion")) test.branches = count_of_recursion(5);
    for (const bool single : {false, true}) {
      INFO((single ? "stepping" : "running"));
      Guest guest({0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xc3});
      guest.put(test.code);
      start(guest);
      Exit exit = single ? guest.vcpu->step() : guest.vcpu->run();
      while (single && exit.kind == ExitKind::step) exit = guest.vcpu->step();
      INFO(describe(exit));
      CHECK(exit.kind == test.exit);
      CHECK(guest.vcpu->branches() == test.branches);
      guest.vcpu->reset_branches();
      CHECK(guest.vcpu->branches() == 0);
      // The same code again, in the same machine.
      start(guest);
      while ((exit = guest.vcpu->run()).kind == ExitKind::kick) {
      }
      CHECK(guest.vcpu->branches() == test.branches);
    }
  }
}

// What is compared can't be read: the branch behind it has not been executed, though it may be counted by
// then.
void counts_before_faults() {
  // cmp [rax], ecx; jne 1f; 1: test [rdx], cl; je 2f; 2: syscall
  Guest guest({0x39, 0x08, 0x75, 0x00, 0x84, 0x0a, 0x74, 0x00, 0x0f, 0x05});
  constexpr uint64_t kNonCanonical = uint64_t{1} << 63, kSecond = kCode + 4, kNothing = 0x10;
  guest.regs().rax = kNonCanonical;
  for (int time = 0; time < 3; ++time) {
    REQUIRE(guest.vcpu->run().kind == ExitKind::exception);
    CHECK(guest.regs().rip == kCode);
    CHECK(guest.vcpu->branches() == 0);
  }
  guest.regs().rax = kData;
  guest.regs().rdx = kNothing;
  const Exit exit = guest.vcpu->run();
  CHECK(exit.kind == ExitKind::memory_fault);
  CHECK(exit.address == kNothing);
  CHECK(guest.regs().rip == kSecond);
  CHECK(guest.vcpu->branches() == 1);
  guest.regs().rdx = kData;
  REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.vcpu->branches() == 2);
}

void counts_go_on() {
  // 1: dec ecx; jnz 1b; syscall; jmp to the start
  Guest guest({0xff, 0xc9, 0x75, 0xfc, 0x0f, 0x05, 0xeb, 0xf8});
  const auto second = guest.machine->create_vcpu();
  REQUIRE(second->count_branches(true));
  CHECK(guest.vcpu->counts_branches());
  uint64_t total = 0;
  for (uint64_t turns = 1; turns < 100; ++turns) {
    guest.regs().rcx = turns;
    REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
    total += turns;
    REQUIRE(guest.vcpu->branches() == total);
    second->registers() = Registers();
    second->registers().rip = kCode;
    second->registers().rcx = 5;
    REQUIRE(second->run().kind == ExitKind::syscall);
    REQUIRE(second->branches() == turns * 5);  // it has its own
    if (turns == 50) {
      guest.vcpu->reset_branches();
      total = 0;
    }
  }
}

void huge_counts() {
  // 1: dec rcx; jnz 1b; syscall
  Guest guest({0x48, 0xff, 0xc9, 0x75, 0xfb, 0x0f, 0x05});
  constexpr uint64_t kMany = 100'000'000;
  guest.regs().rcx = kMany;
  REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.vcpu->branches() == kMany);
}

// Every place of the loop is reached, with the registers it has there, and the end from there.
void every_place() {
  Guest guest(kLoop);
  const std::vector<Place> places = steps_of_loop(guest);
  const Registers end = guest.regs();
  const uint64_t branches = guest.vcpu->branches();
  REQUIRE(places.size() > 50);
  for (size_t from = 0; from < places.size(); from += from == 0 ? 1 : 17)
    for (size_t to = from; to < places.size(); ++to) {
      INFO("from " << from << " to " << to);
      begin_loop(guest);
      if (from != 0)
        REQUIRE(guest.vcpu->run_until(places[from - 1].branches, places[from - 1].registers.rip).kind ==
                ExitKind::breakpoint);
      const Exit exit = guest.vcpu->run_until(places[to].branches, places[to].registers.rip);
      REQUIRE(exit.kind == ExitKind::breakpoint);
      REQUIRE(guest.vcpu->branches() == places[to].branches);
      REQUIRE(guest.regs() == places[to].registers);
      REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
      REQUIRE(guest.regs() == end);
      REQUIRE(guest.vcpu->branches() == branches);
    }
}

void places_that_are_passed() {
  Guest guest(kLoop);
  const std::vector<Place> places = steps_of_loop(guest);
  // The HLT is never reached; the count is passed.
  for (uint64_t branches = 0; branches < kTurns; ++branches) {
    begin_loop(guest);
    REQUIRE(guest.vcpu->run_until(branches, kCode + 0x12).kind == ExitKind::kick);
    CHECK(guest.vcpu->branches() == branches + 1);
    // As single steps have it: the first place with that count.
    size_t first = 0;
    while (places[first].branches != branches + 1) ++first;
    CHECK(guest.regs() == places[first].registers);
  }
  // Already there: it does not come by again, but executes something.
  begin_loop(guest);
  REQUIRE(guest.vcpu->run_until(2, kCode + 4).kind == ExitKind::kick);
  begin_loop(guest);
  REQUIRE(guest.vcpu->run_until(0, kCode).kind == ExitKind::kick);
  CHECK(guest.vcpu->branches() == 1);
  // An exit before the place.
  begin_loop(guest);
  CHECK(guest.vcpu->run_until(1'000'000, kCode).kind == ExitKind::syscall);
  CHECK(guest.regs().rip == kCode + kLoop.size());
  // The guest's own breakpoint is told apart by where it is.
  guest.put({0xcc}, kCode + 0x12);
  guest.begin(kCode + 0x12);
  guest.vcpu->reset_branches();
  CHECK(guest.vcpu->run_until(3, kCode).kind == ExitKind::breakpoint);
  CHECK(guest.regs().rip == kCode + 0x12);
  CHECK(guest.vcpu->branches() == 0);
}

void places_without_branches() {
  Guest guest({0x48, 0xff, 0xc0, 0xeb, 0xfb});  // inc rax; jmp back
  for (uint64_t turn = 1; turn < 20; ++turn) {
    REQUIRE(guest.vcpu->run_until(0, kCode).kind == ExitKind::breakpoint);
    REQUIRE(guest.regs().rip == kCode);
    REQUIRE(guest.regs().rax == turn);
  }
  std::thread kicker([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    guest.vcpu->kick();
  });
  CHECK(guest.vcpu->run_until(1, kCode).kind == ExitKind::kick);
  kicker.join();
  CHECK(guest.vcpu->branches() == 0);
}

void places_in_string_instructions() {
  // rep movsb; dec edx; jnz to the start; syscall
  Guest guest({0xf3, 0xa4, 0xff, 0xca, 0x75, 0xfa, 0x0f, 0x05});
  const Code bytes = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  for (const uint64_t n : {uint64_t{0}, uint64_t{1}, uint64_t{2}}) {
    INFO(n);
    guest.put(bytes, kData);
    guest.put(Code(64, 0), kData + 0x100);
    guest.begin();
    guest.vcpu->reset_branches();
    guest.regs().rsi = kData;
    guest.regs().rdi = kData + 0x100;
    guest.regs().rcx = bytes.size();
    guest.regs().rdx = 3;
    uint64_t left = UINT64_MAX, stops = 0;
    Exit exit;
    while ((exit = guest.vcpu->run_until(n, kCode)).kind == ExitKind::breakpoint) {
      REQUIRE(guest.vcpu->branches() == n);
      REQUIRE(guest.regs().rip == kCode);
      REQUIRE(guest.regs().rcx < left);  // each stop is at another iteration
      left = guest.regs().rcx;
      ++stops;
    }
    CHECK(exit.kind == ExitKind::kick);
    if (n > 0) CHECK(stops >= 1);
    CHECK(guest.vcpu->branches() == n + 1);
    CHECK(guest.regs().rip == (n == 2 ? kCode + 6 : kCode));
    CHECK(guest.vcpu->run().kind == ExitKind::syscall);
    Code copy(bytes.size());
    REQUIRE(guest.space.read(kData + 0x100, copy.data(), copy.size()));
    CHECK(copy == bytes);
  }
}

// To a random place of a long loop, and on, with kicks all the time.
void places_among_kicks() {
  Guest guest(kLoop);
  std::atomic<bool> done{false};
  std::thread kicker([&] {
    while (!done) {
      guest.vcpu->kick();
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  });
  std::minstd_rand random(3);
  uint64_t kicks = 0;
  bool right = true;
  constexpr uint64_t kLong = 100'000;
  for (int round = 0; round < 100 && right; ++round) {
    const uint64_t turn = random() % kLong;  // counted from the start; 4 branches each, none before the first
    begin_loop(guest);
    guest.regs().rcx = kLong;
    Exit exit;
    while ((exit = guest.vcpu->run_until(4 * turn, kCode)).kind == ExitKind::kick &&
           guest.vcpu->branches() <= 4 * turn)
      ++kicks;
    if (turn == 0) continue;  // it was there already
    right = exit.kind == ExitKind::breakpoint && guest.regs().rip == kCode &&
            guest.vcpu->branches() == 4 * turn && guest.regs().rcx == kLong - turn;
    while ((exit = guest.vcpu->run()).kind == ExitKind::kick) ++kicks;
    right = right && exit.kind == ExitKind::syscall && guest.vcpu->branches() == 4 * kLong + 1;
  }
  done = true;
  kicker.join();
  CHECK(right);
  CHECK(kicks > 0);
}

}  // namespace

COUNTING_TEST("branches are counted exactly, run or stepped", exact_counts)
COUNTING_TEST("branches are counted not before faults", counts_before_faults)
COUNTING_TEST("branches are counted on, for each vCPU", counts_go_on)
COUNTING_TEST("a hundred million branches", huge_counts)
COUNTING_TEST("every place of a loop is reached by its branches", every_place)
COUNTING_TEST("places that are passed", places_that_are_passed)
COUNTING_TEST("places in a loop that counts nothing", places_without_branches)
COUNTING_TEST("places in string instructions", places_in_string_instructions)
COUNTING_TEST("places are reached among kicks", places_among_kicks)

}  // namespace aftercheck
