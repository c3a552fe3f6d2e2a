// What the vCPUs tell of the guest's control flow: the same however the host stops it.
#include "machine/control_flow.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "machine/breakpoints.h"
#include "machine/vcpu.h"

namespace aftercheck {
namespace {

constexpr uint64_t kCode = kMainWindow.start + 0x10000, kData = kMainWindow.start + 0x40000;
constexpr int kRw = PROT_READ | PROT_WRITE, kRwx = kRw | PROT_EXEC;
using Code = std::vector<uint8_t>;

// "TNNT>0x10 " : outcomes, and targets relative to the code.
class Notes : public ControlFlow {
 public:
  explicit Notes(bool code) : code_(code) {}

  void branches(std::span<const BranchRun> runs) override {
    for (const BranchRun& run : runs) {
      well_formed &= run.count <= BranchRun::kMost && run.outcomes >> run.count == 0;
      count += run.count + (run.indirect ? 1 : 0);
      for (unsigned i = run.count; i-- > 0;) text += (run.outcomes >> i & 1) != 0 ? 'T' : 'N';
      if (run.indirect) text += fmt::format(">{:#x} ", run.next - kCode);
    }
  }
  void lost(uint64_t next) override { text += fmt::format("?{:#x} ", next - kCode); }
  bool wants_code() const override { return code_; }
  void executed(uint64_t start, uint64_t end) override {
    if (!ranges.empty() && ranges.back().second == start)
      ranges.back().second = end;
    else
      ranges.emplace_back(start, end);
  }
  std::string code() const {
    std::string all;
    for (const auto& [start, end] : ranges) all += fmt::format("{:#x}-{:#x} ", start - kCode, end - kCode);
    return all;
  }

  std::string text;
  uint64_t count = 0;  // of all branches
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  bool well_formed = true;

 private:
  const bool code_;
};

// The machines that tell it.
enum class Teller : uint8_t { soft, counting_soft, translated, without_vectors };
Teller any_teller() {
  return GENERATE(Teller::soft, Teller::counting_soft, Teller::translated, Teller::without_vectors);
}

std::unique_ptr<Machine> create(Teller teller, AddressSpace& space) {
  const CpuModel cpu(CpuModelKind::portable);
  if (teller == Teller::soft || teller == Teller::counting_soft) return create_soft_machine(space, cpu);
  return create_translated_machine(
      space, cpu, teller == Teller::translated ? BranchCounts::automatic : BranchCounts::in_memory);
}

struct Guest {
  AddressSpace space;
  std::unique_ptr<Machine> machine;
  std::unique_ptr<Vcpu> vcpu;
  Notes notes;

  Guest(Teller teller, const Code& code, bool wants_code = true)
      : machine(create(teller, space)), notes(wants_code) {
    REQUIRE(space.map_anonymous({kCode, kCode + 0x10000}, kRwx, false) == 0);
    REQUIRE(space.map_anonymous({kData, kData + 0x8000}, kRw, false) == 0);
    vcpu = machine->create_vcpu();
    vcpu->set_fpu(FpuState::initial());
    vcpu->registers().rsp = kData + 0x7f00;
    vcpu->registers().rip = kCode;
    vcpu->registers().rbx = kCode;
    vcpu->registers().rsi = kData;
    vcpu->registers().rdi = kData + 0x100;
    REQUIRE(space.write(kCode, code.data(), code.size()));
    if (teller == Teller::counting_soft) REQUIRE(vcpu->count_branches(true));
    REQUIRE(vcpu->set_control_flow(&notes));
  }
  ~Guest() {
    CHECK(notes.well_formed);
    if (vcpu->counts_branches()) CHECK(vcpu->branches() == notes.count);
  }

  // Runs to SYSCALL; the text may be too long to be shown.
  void check_flow(const std::string& expected) {
    CHECK(vcpu->run().kind == ExitKind::syscall);
    const auto different =
        std::mismatch(notes.text.begin(), notes.text.end(), expected.begin(), expected.end());
    UNSCOPED_INFO("the same for " << different.first - notes.text.begin() << " characters of "
                                  << expected.size());
    const bool same = notes.text == expected;
    CHECK(same);
  }
};

// What a loop comes to whose `turn(turns left)` ends in a branch back to its start.
template <typename Turn>
std::string loop_flow(unsigned turns, Turn turn) {
  std::string all;
  for (unsigned left = turns; left > 0; --left) {
    all += turn(left);
    all += left > 1 ? 'T' : 'N';
  }
  return all;
}

// A loop of three turns with a call, a return, an indirect jump and a repeated string instruction; then
// SYSCALL.
const Code kMixed = {
    0xb8, 3,    0,    0,    0,  // 00 mov eax, 3
    0xb9, 5,    0,    0,    0,  // 05 mov ecx, 5
    0xf3, 0xa4,                 // 0a rep movsb
    0xe8, 0x10, 0,    0,    0,  // 0c call 21
    0xff, 0xc8,                 // 11 dec eax
    0x75, 0xf0,                 // 13 jnz 05
    0x48, 0x8d, 0x53, 0x1e,     // 15 lea rdx, [rbx+1e]
    0xff, 0xe2,                 // 19 jmp rdx
    0x0f, 0x0b, 0x90,           // 1b ud2; nop
    0x90, 0x0f, 0x05,           // 1e nop; syscall
    0x85, 0xc0,                 // 21 test eax, eax
    0x74, 0x01,                 // 23 jz 26
    0xc3,                       // 25 ret
    0xc3,                       // 26 ret
};
constexpr const char* kMixedFlow = "N>0x11 TN>0x11 TN>0x11 N>0x1e ";

}  // namespace

TEST_CASE("control flow: outcomes, targets and code of a mixed program") {
  const Teller teller = any_teller();
  Guest guest(teller, kMixed);
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.notes.text == kMixedFlow);
  const std::string turn = "0x5-0x11 0x21-0x26 0x11-0x15 ";
  CHECK(guest.notes.code() ==
        "0x0-0x11 0x21-0x26 0x11-0x15 " + turn + "0x5-0x11 0x21-0x26 0x11-0x1b 0x1e-0x21 ");
}

TEST_CASE("control flow: single steps tell the same as running") {
  const Teller teller = any_teller();
  Guest guest(teller, kMixed);
  Exit exit;
  do exit = guest.vcpu->step();
  while (exit.kind == ExitKind::step);
  CHECK(exit.kind == ExitKind::syscall);
  CHECK(guest.notes.text == kMixedFlow);
}

TEST_CASE("control flow: kicks, breakpoints and run_to leave no trace in it") {
  const Teller teller = any_teller();
  std::string code;
  {
    Guest guest(teller, kMixed);
    guest.vcpu->run();
    code = guest.notes.code();
  }
  SECTION("kicks") {
    Guest guest(teller, kMixed);
    Exit exit;
    unsigned kicks = 0;
    do {
      if (kicks % 2 == 0) guest.vcpu->step();
      guest.vcpu->kick();
      exit = guest.vcpu->run();
    } while (exit.kind == ExitKind::kick && ++kicks < 40);
    exit = guest.vcpu->run();
    CHECK(kicks > 1);
    CHECK(guest.notes.text == kMixedFlow);
  }
  SECTION("breakpoints") {
    Guest guest(teller, kMixed);
    Breakpoints breakpoints(*guest.vcpu, guest.space);
    for (const uint64_t offset : {0x05, 0x0a, 0x0c, 0x11, 0x13, 0x19, 0x1e, 0x21, 0x25})
      REQUIRE(breakpoints.add(kCode + offset));
    Exit exit;
    do exit = breakpoints.run();
    while (exit.kind == ExitKind::breakpoint);
    CHECK(exit.kind == ExitKind::syscall);
    CHECK(guest.notes.text == kMixedFlow);
  }
  SECTION("run_until") {
    Guest guest(teller, kMixed);
    if (!guest.vcpu->counts_branches()) return;
    unsigned arrivals = 0;
    // JZ and RET, then JNZ: so many are executed before it in each turn.
    for (const uint64_t branches : {2, 5, 8}) {
      const Exit exit = guest.vcpu->run_until(branches, kCode + 0x13);
      CHECK(exit.kind == ExitKind::breakpoint);
      CHECK(guest.vcpu->registers().rip == kCode + 0x13);
      ++arrivals;
    }
    CHECK(guest.vcpu->run().kind == ExitKind::syscall);
    CHECK(guest.notes.text == kMixedFlow);
    CHECK(guest.notes.code() == code);
  }
  SECTION("run_to") {
    Guest guest(teller, kMixed);
    if (!guest.vcpu->has_run_to()) return;
    unsigned arrivals = 0;
    while (guest.vcpu->run_to(kCode + 0x13).kind == ExitKind::breakpoint) ++arrivals;
    CHECK(arrivals == 3);
    CHECK(guest.notes.text == kMixedFlow);
    CHECK(guest.notes.code() == code);
  }
}

TEST_CASE("run_to goes by arrivals that its filter refuses, and steps don't count as arrivals") {
  constexpr Teller teller = Teller::soft;
  struct Third final : ArrivalFilter {
    bool passes_by(const State& state) noexcept override {
      rip = state.word(register_number(&Registers::rip));
      return ++seen != 3;
    }
    uint64_t rip = 0;
    unsigned seen = 0;
  };
  Guest guest(teller, kMixed);
  Third third;
  REQUIRE(guest.vcpu->run_to(kCode + 0x13, &third).kind == ExitKind::breakpoint);
  CHECK(third.seen == 3);
  CHECK(third.rip == kCode + 0x13);
  CHECK(guest.vcpu->registers().rip == kCode + 0x13);
  CHECK(guest.vcpu->step().kind == ExitKind::step);
  CHECK(guest.vcpu->run_to(kCode + 0x13, &third).kind == ExitKind::syscall);
  CHECK(third.seen == 3);
  CHECK(guest.notes.text == kMixedFlow);
}

TEST_CASE("control flow: conditional branches to the next instruction") {
  const Teller teller = any_teller();
  // xor eax,eax; jz +0; jnz +0; stc; jbe +0; ja +0; mov ecx,1; loop +0; jrcxz +0; jecxz +0; syscall
  Guest guest(teller, {0x31, 0xc0, 0x74, 0, 0x75, 0,    0xf9, 0x76, 0,    0x77, 0, 0xb9, 1, 0,    0,   0,
                       0xe2, 0,    0xe3, 0, 0x67, 0xe3, 0x00, 0x0f, 0x85, 0,    0, 0,    0, 0x0f, 0x05});
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.notes.text == "TNTNNTTN");
}

TEST_CASE("control flow: faults leave what came before them") {
  const Teller teller = any_teller();
  // jmp +0; xor ecx,ecx; jz +1; nop; mov rax,[0]
  Guest guest(teller, {0xeb, 0, 0x31, 0xc9, 0x74, 1, 0x90, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0});
  CHECK(guest.vcpu->run().kind == ExitKind::memory_fault);
  CHECK(guest.notes.text == "T");
  CHECK(guest.notes.code() == "0x0-0x6 ");
}

TEST_CASE("control flow: a jump to where nothing is was executed") {
  const Teller teller = any_teller();
  // lea rdx, [rbx+0x20000]; jmp rdx
  Guest guest(teller, {0x48, 0x8d, 0x93, 0, 0, 2, 0, 0xff, 0xe2});
  const Exit exit = guest.vcpu->run();
  CHECK(exit.kind == ExitKind::memory_fault);
  CHECK(guest.notes.text == ">0x20000 ");
  CHECK(guest.notes.code() == "0x0-0x9 ");
}

TEST_CASE("control flow: a block that writes into itself") {
  const Teller teller = any_teller();
  // 00 c6 43 0c 05   mov byte [rbx+0xc], 5      makes the jump below go elsewhere
  // 04 ff c0         inc eax
  // 06 90 90 90      nops
  // 09 85 db         test ebx, ebx
  // 0b 75 02         jnz +2, then +5
  // 0d 0f 05 | 0f: 0f 0b 90 | 12: 0f 05
  Guest guest(teller, {0xc6, 0x43, 0x0c, 0x05, 0xff, 0xc0, 0x90, 0x90, 0x90, 0x85,
                       0xdb, 0x75, 0x02, 0x0f, 0x05, 0x0f, 0x0b, 0x90, 0x0f, 0x05});
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.vcpu->registers().rip == kCode + 0x14);
  CHECK(guest.notes.text == "T");
  CHECK(guest.notes.code() == "0x0-0xd 0x12-0x14 ");
}

TEST_CASE("control flow: code that the host changes is told as changed") {
  const Teller teller = any_teller();
  Guest guest(teller, {0x31, 0xc0, 0x74, 0x01, 0xcc, 0x0f, 0x05});  // xor eax,eax; jz +1; int3; syscall
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.notes.text == "T");
  const uint8_t changed[] = {0x75, 0x01, 0x90};  // jnz +1; nop
  REQUIRE(guest.space.write(kCode + 2, changed, sizeof changed));
  guest.vcpu->registers().rip = kCode;
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.notes.text == "TN");
}

namespace {

// 20,000 turns of a loop whose branches follow the bits of a linear congruential generator in EAX.
constexpr unsigned kTurns = 20000;
const Code kRandomTurns = {
    0xb9, 0x20, 0x4e, 0,    0,           // 00 mov ecx, 20000
    0x69, 0xc0, 0x6d, 0x4e, 0xc6, 0x41,  // 05 imul eax, eax, 1103515245
    0x05, 0x39, 0x30, 0,    0,           // 0b add eax, 12345
    0xa9, 0,    0,    1,    0,           // 10 test eax, 1 << 16
    0x74, 0x05,                          // 15 jz 1c
    0xe8, 0x14, 0,    0,    0,           // 17 call 30
    0xa9, 0,    0,    2,    0,           // 1c test eax, 1 << 17
    0x75, 0x06,                          // 21 jnz 29
    0x48, 0x8d, 0x53, 0x29,              // 23 lea rdx, [rbx+29]
    0xff, 0xe2,                          // 27 jmp rdx
    0xff, 0xc9,                          // 29 dec ecx
    0x75, 0xd8,                          // 2b jnz 05
    0x0f, 0x05, 0x90,                    // 2d syscall; nop
    0xc3,                                // 30 ret
};
const std::string& random_turns() {
  static const std::string text = [] {
    uint32_t eax = 0;
    return loop_flow(kTurns, [&eax](unsigned) {
      eax = eax * 1103515245 + 12345;
      return std::string((eax >> 16 & 1) == 0 ? "T" : "N>0x1c ") + ((eax >> 17 & 1) != 0 ? "T" : "N>0x29 ");
    });
  }();
  return text;
}

}  // namespace

TEST_CASE("control flow: a hundred thousand branches") {
  const Teller teller = any_teller();
  const bool wants_code = GENERATE(true, false);
  Guest guest(teller, kRandomTurns, wants_code);
  SECTION("at once") { guest.check_flow(random_turns()); }
  SECTION("with kicks from another thread") {
    std::atomic<bool> done = false;
    std::thread kicker([&] {
      while (!done) {
        guest.vcpu->kick();
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      }
    });
    // As often as it takes on a busy machine.
    unsigned kicks = 0, rounds = 0;
    bool same = true;
    for (Exit exit; kicks < 50 && rounds < 100'000; ++rounds) {
      while ((exit = guest.vcpu->run()).kind == ExitKind::kick) ++kicks;
      same &= exit.kind == ExitKind::syscall && guest.notes.text == random_turns();
      guest.notes.text.clear();
      guest.vcpu->registers().rip = kCode;
      guest.vcpu->registers().rax = 0;
    }
    done = true;
    kicker.join();
    CHECK(same);
    CHECK(kicks >= 50);
  }
}

TEST_CASE("control flow: a loop that rewrites its own branch") {
  const Teller teller = any_teller();
  // Each turn turns JZ into JNZ and back, so what follows the same blocks changes.
  // 00 b9 10 27 00 00  mov ecx, 10000
  // 05 80 73 10 01     xor byte [rbx+10], 1
  // 09 31 c0           xor eax, eax
  // 0b eb 01           jmp 0e
  // 0d 90              nop
  // 0e 85 c0           test eax, eax
  // 10 74 01           jz 13
  // 12 90              nop
  // 13 ff c9           dec ecx
  // 15 75 ee           jnz 05
  // 17 0f 05           syscall
  const Code code = {0xb9, 0x10, 0x27, 0,    0,    0x80, 0x73, 0x10, 1,    0x31, 0xc0, 0xeb, 0x01,
                     0x90, 0x85, 0xc0, 0x74, 0x01, 0x90, 0xff, 0xc9, 0x75, 0xee, 0x0f, 0x05};
  const bool wants_code = GENERATE(true, false);
  Guest guest(teller, code, wants_code);
  guest.check_flow(loop_flow(10000, [](unsigned left) { return left % 2 == 0 ? 'N' : 'T'; }));
}

TEST_CASE("control flow: a block that writes over itself becomes another of its size") {
  const Teller teller = any_teller();
  // 00 31 c0           xor eax, eax
  // 02 b0 75           mov al, 75
  // 04 b9 02 00 00 00  mov ecx, 2
  // 09 48 8d 7b 0d     lea rdi, [rbx+d]
  // 0d f3 aa           rep stosb        from its first byte on it is jnz
  // 0f 0f 05           syscall
  Guest guest(teller,
              {0x31, 0xc0, 0xb0, 0x75, 0xb9, 2, 0, 0, 0, 0x48, 0x8d, 0x7b, 0x0d, 0xf3, 0xaa, 0x0f, 0x05});
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.vcpu->registers().rcx == kCode + 0x11);
  // A processor may as well store both bytes first.
  const bool both = guest.vcpu->registers().rdi == kCode + 0xf;
  CHECK(guest.notes.text == (both ? "" : "N"));
}

TEST_CASE("control flow: stops to translate code anew after any number of branches") {
  const Teller teller = any_teller();
  const size_t branches = GENERATE(range(1, 40));
  // mov ecx, 1000; 05: xor byte [rbx + at], 1; xor eax, eax
  Code code = {0xb9, 0xe8, 3, 0, 0, 0x80, 0xb3, 0, 0, 0, 0, 1, 0x31, 0xc0};
  std::string turn;
  for (size_t i = 0; i < branches; ++i) {
    code.insert(code.end(), {static_cast<uint8_t>(i % 3 == 0 ? 0x75 : 0x74), 1, 0x90});  // jnz or jz; nop
    turn += i % 3 == 0 ? 'N' : 'T';
  }
  code[7] = static_cast<uint8_t>(code.size() + 1);
  // mov al, 0 or 1; dec ecx; jnz 05; syscall
  const auto back = static_cast<uint32_t>(5 - static_cast<int>(code.size() + 10));
  code.insert(code.end(), {0xb0, 0, 0xff, 0xc9, 0x0f, 0x85, static_cast<uint8_t>(back),
                           static_cast<uint8_t>(back >> 8), 0xff, 0xff, 0x0f, 0x05});
  Guest guest(teller, code, false);
  guest.check_flow(loop_flow(1000, [&turn](unsigned) { return turn; }));
}

TEST_CASE("control flow: a branch to the next instruction among a hundred thousand others") {
  const Teller teller = any_teller();
  // mov ecx, 50000; 05: test ecx, 3; jz +0; dec ecx; jnz 05; syscall
  Guest guest(teller,
              {0xb9, 0x50, 0xc3, 0, 0, 0xf7, 0xc1, 3, 0, 0, 0, 0x74, 0, 0xff, 0xc9, 0x75, 0xf4, 0x0f, 0x05});
  guest.check_flow(loop_flow(50000, [](unsigned left) { return left % 4 == 0 ? 'T' : 'N'; }));
}

TEST_CASE("control flow: asked for when the guest has run already") {
  const Teller teller = any_teller();
  Guest guest(teller, kMixed);
  REQUIRE(guest.vcpu->set_control_flow(nullptr));
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.notes.text.empty());
  if (guest.vcpu->counts_branches()) guest.vcpu->reset_branches();
  REQUIRE(guest.vcpu->set_control_flow(&guest.notes));
  guest.vcpu->registers().rip = kCode;
  guest.vcpu->registers().rsi = kData;
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.notes.text == kMixedFlow);
}

}  // namespace aftercheck
