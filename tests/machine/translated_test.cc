// What only the translated machine does.
#include "machine/trapped_instruction.h"
#include "tests/machine/exit_cases.h"
#include "tests/machine/machine_guest.h"

namespace aftercheck {
namespace {

using Guest = MachineGuest;
constexpr uint64_t kCode = Guest::kCode;
constexpr auto kKind = MachineKind::translated;

}  // namespace

void on_each_count(void (*function)()) {
  if (lacking(MachineKind::translated)) return;
  for (const BranchCounts counts : {BranchCounts::automatic, BranchCounts::in_memory}) {
    INFO("counts: " << static_cast<int>(counts));
    branch_counts = counts;
    function();
  }
  branch_counts = BranchCounts::automatic;
}

#define TRANSLATED_TEST(name, function) \
  TEST_CASE(name) { on_each_count(function); }

namespace {

void trapped_instructions() {
  // mov [rdi], rbx; jmp rdi: written where it runs, then patched by nobody
  Guest guest(kKind, {0x48, 0x89, 0x1f, 0xff, 0xe7}, Guest::kRwx);
  const uint64_t target = kCode + 0x3000;
  for (int i = 0; i < 3; ++i) {
    guest.regs().rdi = target;
    guest.regs().rbx = 0x9090'9090'9090'310f;  // rdtsc
    const Exit exit = guest.run_at(kCode);
    CHECK(exit.kind == ExitKind::trapped_instruction);
    CHECK(exit.instruction.kind == TrappedKind::rdtsc);
    CHECK(guest.regs().rip == target);
    guest.regs().rdi = target;
    guest.regs().rbx = 0x050f'9090'9090'9090;  // syscall
    CHECK(guest.run_at(kCode).kind == ExitKind::syscall);
  }
}

void refused_by_name() {
  Guest guest(kKind, {0x90, 0xff, 0x2e});  // nop; jmp far [rsi]
  try {
    guest.vcpu->run();
    FAIL("it was executed");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::unsupported);
    CHECK_THAT(error.what(), Catch::Contains("jmp"));
  }
  AddressSpace* const space = &guest.space;
  try {
    create_translated_machine(*space, CpuModel(CpuModelKind::host));
    FAIL("it is only for the portable model");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::host_lacks);
  }
}

// Processors read the environment in an order of their own, and report what they come to first.
void lowest_addresses() {
  constexpr uint64_t kEnd = Guest::kStackTop;
  for (const Code& code : {Code{0xd9, 0x26}, Code{0x66, 0xd9, 0x26}, Code{0xdd, 0x26}, Code{0x66, 0xdd, 0x26},
                           Code{0x0f, 0xae, 0x0e}})  // fldenv, frstor, fxrstor [rsi]
    for (uint64_t before = 16; before < 512; before += 16) {
      const uint64_t size = code.back() == 0x0e ? 512 : code[code.size() - 2] == 0xdd ? 108 : 28;
      if (before >= size / 2) continue;
      INFO("opcode " << unsigned{code[code.size() - 2]} << ", " << before << " bytes before the end");
      for (const uint64_t less : {0, 7}) {
        if (less != 0 && size == 512) continue;  // it has to be aligned
        Guest guest(kKind, code);
        guest.regs().rsi = kEnd - before + less;
        const Exit exit = guest.vcpu->run();
        CHECK(exit == Exit{.kind = ExitKind::memory_fault, .address = kEnd, .access = Access::read});
      }
    }
}

}  // namespace

TRANSLATED_TEST("the translated machine gives the agreed exits",
                [] { exit_cases::check_all(MachineKind::translated, exit_cases::emulators_agree); })
TRANSLATED_TEST("the translated machine gives the agreed exits that emulated processors do not",
                [] { exit_cases::check_all(MachineKind::translated, exit_cases::emulators_differ); })
TRANSLATED_TEST("trapped instructions trap where nobody patched them", trapped_instructions)
TRANSLATED_TEST("the lowest address of a fault is told", lowest_addresses)
TRANSLATED_TEST("what the translated machine can't do is refused by name", refused_by_name)

}  // namespace aftercheck
