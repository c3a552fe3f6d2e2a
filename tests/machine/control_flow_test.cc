// What the soft vCPU tells of the guest's control flow: the same however the host stops it.
#include "machine/control_flow.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <string>
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
  void conditionals(uint64_t outcomes, unsigned count, uint64_t) override {
    while (count-- > 0) text += (outcomes >> count & 1) != 0 ? 'T' : 'N';
  }
  void indirect(uint64_t target) override { text += fmt::format(">{:#x} ", target - kCode); }
  void lost(uint64_t next) override { text += fmt::format("?{:#x} ", next - kCode); }
  bool wants_code() const override { return true; }
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
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
};

struct Guest {
  AddressSpace space;
  std::unique_ptr<Machine> machine = create_soft_machine(space, CpuModel(CpuModelKind::portable));
  std::unique_ptr<Vcpu> vcpu;
  Notes notes;

  explicit Guest(const Code& code) {
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
    REQUIRE(vcpu->set_control_flow(&notes));
  }
};

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
  Guest guest(kMixed);
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.notes.text == kMixedFlow);
  const std::string turn = "0x5-0x11 0x21-0x26 0x11-0x15 ";
  CHECK(guest.notes.code() ==
        "0x0-0x11 0x21-0x26 0x11-0x15 " + turn + "0x5-0x11 0x21-0x26 0x11-0x1b 0x1e-0x21 ");
}

TEST_CASE("control flow: single steps tell the same as running") {
  Guest guest(kMixed);
  Exit exit;
  do exit = guest.vcpu->step();
  while (exit.kind == ExitKind::step);
  CHECK(exit.kind == ExitKind::syscall);
  CHECK(guest.notes.text == kMixedFlow);
}

TEST_CASE("control flow: kicks, breakpoints and run_to leave no trace in it") {
  std::string code;
  {
    Guest guest(kMixed);
    guest.vcpu->run();
    code = guest.notes.code();
  }
  SECTION("kicks") {
    Guest guest(kMixed);
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
    Guest guest(kMixed);
    Breakpoints breakpoints(*guest.vcpu, guest.space);
    for (const uint64_t offset : {0x05, 0x0a, 0x0c, 0x11, 0x13, 0x19, 0x1e, 0x21, 0x25})
      REQUIRE(breakpoints.add(kCode + offset));
    Exit exit;
    do exit = breakpoints.run();
    while (exit.kind == ExitKind::breakpoint);
    CHECK(exit.kind == ExitKind::syscall);
    CHECK(guest.notes.text == kMixedFlow);
  }
  SECTION("run_to") {
    Guest guest(kMixed);
    unsigned arrivals = 0;
    while (guest.vcpu->run_to(kCode + 0x13).kind == ExitKind::breakpoint) ++arrivals;
    CHECK(arrivals == 3);
    CHECK(guest.notes.text == kMixedFlow);
    CHECK(guest.notes.code() == code);
  }
}

TEST_CASE("control flow: conditional branches to the next instruction") {
  // xor eax,eax; jz +0; jnz +0; stc; jbe +0; ja +0; mov ecx,1; loop +0; jrcxz +0; jecxz +0; syscall
  Guest guest({0x31, 0xc0, 0x74, 0, 0x75, 0,    0xf9, 0x76, 0,    0x77, 0, 0xb9, 1, 0,    0,   0,
               0xe2, 0,    0xe3, 0, 0x67, 0xe3, 0x00, 0x0f, 0x85, 0,    0, 0,    0, 0x0f, 0x05});
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.notes.text == "TNTNNTTN");
}

TEST_CASE("control flow: faults leave what came before them") {
  // jmp +0; xor ecx,ecx; jz +1; nop; mov rax,[0]
  Guest guest({0xeb, 0, 0x31, 0xc9, 0x74, 1, 0x90, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0});
  CHECK(guest.vcpu->run().kind == ExitKind::memory_fault);
  CHECK(guest.notes.text == "T");
  CHECK(guest.notes.code() == "0x0-0x6 ");
}

TEST_CASE("control flow: a jump to where nothing is was executed") {
  // lea rdx, [rbx+0x20000]; jmp rdx
  Guest guest({0x48, 0x8d, 0x93, 0, 0, 2, 0, 0xff, 0xe2});
  const Exit exit = guest.vcpu->run();
  CHECK(exit.kind == ExitKind::memory_fault);
  CHECK(guest.notes.text == ">0x20000 ");
  CHECK(guest.notes.code() == "0x0-0x9 ");
}

TEST_CASE("control flow: a block that writes into itself") {
  // 00 c6 43 0c 05   mov byte [rbx+0xc], 5      makes the jump below go elsewhere
  // 04 ff c0         inc eax
  // 06 90 90 90      nops
  // 09 85 db         test ebx, ebx
  // 0b 75 02         jnz +2, then +5
  // 0d 0f 05 | 0f: 0f 0b 90 | 12: 0f 05
  Guest guest({0xc6, 0x43, 0x0c, 0x05, 0xff, 0xc0, 0x90, 0x90, 0x90, 0x85,
               0xdb, 0x75, 0x02, 0x0f, 0x05, 0x0f, 0x0b, 0x90, 0x0f, 0x05});
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.vcpu->registers().rip == kCode + 0x14);
  CHECK(guest.notes.text == "T");
  CHECK(guest.notes.code() == "0x0-0xd 0x12-0x14 ");
}

TEST_CASE("control flow: code that the host changes is told as changed") {
  Guest guest({0x31, 0xc0, 0x74, 0x01, 0xcc, 0x0f, 0x05});  // xor eax,eax; jz +1; int3; syscall
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.notes.text == "T");
  const uint8_t changed[] = {0x75, 0x01, 0x90};  // jnz +1; nop
  REQUIRE(guest.space.write(kCode + 2, changed, sizeof changed));
  guest.vcpu->registers().rip = kCode;
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.notes.text == "TN");
}

}  // namespace aftercheck
