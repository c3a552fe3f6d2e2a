#include "tests/machine/exit_cases.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <set>
#include <string_view>

#include "tests/machine/exit_case_makers.h"
#include "tests/machine/machines.h"

namespace aftercheck::exit_cases {
namespace {

using R = Registers;
namespace v = vector;

// One that ring 3 has on the host, because the monitor's stubs need it (machine/kvm/monitor.h); to the guest
// it is as any other.
void at_port(Registers& r) {
  r.rdx = 0x44;
  r.rcx = 3;
  r.rsi = r.rdi = kData + 0x100;
}

std::vector<uint8_t> data_of(const AddressSpace& space) {
  std::vector<uint8_t> bytes(kDataEnd - kData);
  REQUIRE(space.read(kData, bytes.data(), bytes.size()));
  return bytes;
}

}  // namespace

std::vector<Case> memory_cases() {
  return {
      {"syscall", {0x0f, 0x05}, nothing, syscall(), 2, called<2>},
      {"syscall with the direction flag",
       {0xfd, 0x0f, 0x05},
       nothing,
       syscall(),
       3,
       [](R& r) {
         r.rflags |= rflags::kDirection;
         called<3>(r);
       }},
      {"arithmetic, then syscall",
       {0x48, 0x01, 0xd8, 0x48, 0xff, 0xc9, 0x0f, 0x05},
       nothing,
       syscall(),
       8,
       [](R& r) {
         r.rax += r.rbx;
         called<8>(r);
       }},
      {"int3", {0x90, 0xcc}, nothing, breakpoint(), 1, nothing},
      {"ud2", {0x90, 0x0f, 0x0b}, nothing, exception(v::kInvalidOpcode), 1, nothing},
      {"divide by zero", {0x90, 0xf7, 0xf1}, [](R& r) { r.rcx = 0; }, exception(v::kDivideError), 1, nothing},
      {"divide overflow",
       {0x48, 0xf7, 0xf1},
       [](R& r) {
         r.rcx = 1;
         r.rdx = 1;
       },
       exception(v::kDivideError),
       0,
       nothing},
      {"hlt", {0x90, 0xf4}, nothing, exception(v::kGeneralProtection), 1, nothing},
      {"cli", {0xfa}, nothing, exception(v::kGeneralProtection), 0, nothing},
      {"in al, dx", {0xec}, nothing, exception(v::kGeneralProtection), 0, nothing},
      {"outsb at a port of the monitor's", {0x6e}, at_port, exception(v::kGeneralProtection), 0, nothing},
      {"outsb at a port of the monitor's, downwards",
       {0x6e},
       [](R& r) {
         at_port(r);
         r.rflags |= rflags::kDirection;
       },
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"rep outsb at a port of the monitor's",
       {0xf3, 0x6e},
       at_port,
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"rep outsb at a port of the monitor's, once",
       {0xf3, 0x6e},
       [](R& r) {
         at_port(r);
         r.rcx = 1;
       },
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"rep outsb at a port of the monitor's, downwards",
       {0xf3, 0x6e},
       [](R& r) {
         at_port(r);
         r.rflags |= rflags::kDirection;
       },
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"repne outsd at a port of the monitor's",
       {0xf2, 0x6f},
       at_port,
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"repne outsd at a port of the monitor's, once",
       {0xf2, 0x6f},
       [](R& r) {
         at_port(r);
         r.rcx = 1;
       },
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"repne outsd at a port of the monitor's, downwards",
       {0xf2, 0x6f},
       [](R& r) {
         at_port(r);
         r.rflags |= rflags::kDirection;
       },
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"outsw at a port of the monitor's",
       {0x66, 0x6f},
       at_port,
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"outsw at a port of the monitor's, downwards",
       {0x66, 0x6f},
       [](R& r) {
         at_port(r);
         r.rflags |= rflags::kDirection;
       },
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"insb at a port of the monitor's", {0x6c}, at_port, exception(v::kGeneralProtection), 0, nothing},
      {"insb at a port of the monitor's, downwards",
       {0x6c},
       [](R& r) {
         at_port(r);
         r.rflags |= rflags::kDirection;
       },
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"rep insd at a port of the monitor's",
       {0xf3, 0x6d},
       at_port,
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"rep insd at a port of the monitor's, once",
       {0xf3, 0x6d},
       [](R& r) {
         at_port(r);
         r.rcx = 1;
       },
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"rep insd at a port of the monitor's, downwards",
       {0xf3, 0x6d},
       [](R& r) {
         at_port(r);
         r.rflags |= rflags::kDirection;
       },
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"in eax, dx at a port of the monitor's",
       {0xed},
       at_port,
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"out dx, al at a port of the monitor's",
       {0xee},
       at_port,
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"in al, 0x46 at a port of the monitor's",
       {0xe4, 0x46},
       at_port,
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"out 0x44, eax at a port of the monitor's",
       {0xe7, 0x44},
       at_port,
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"out 0x80, al", {0xe6, 0x80}, nothing, exception(v::kGeneralProtection), 0, nothing},
      {"mov rax, cr0", {0x0f, 0x20, 0xc0}, nothing, exception(v::kGeneralProtection), 0, nothing},
      {"wrmsr", {0x0f, 0x30}, nothing, exception(v::kGeneralProtection), 0, nothing},
      {"int 0x80", {0xcd, 0x80}, nothing, exception(v::kGeneralProtection), 0, nothing},
      {"xgetbv without OSXSAVE",
       {0x0f, 0x01, 0xd0},
       [](R& r) { r.rcx = 0; },
       exception(v::kInvalidOpcode),
       0,
       nothing},
      {"vaddps without AVX",
       {0x90, 0xc5, 0xf0, 0x58, 0xc1},
       nothing,
       exception(v::kInvalidOpcode),
       1,
       nothing},
      {"rdfsbase without FSGSBASE",
       {0xf3, 0x48, 0x0f, 0xae, 0xc0},
       nothing,
       exception(v::kInvalidOpcode),
       0,
       nothing},
      {"an opcode that 64-bit mode lacks", {0x06}, nothing, exception(v::kInvalidOpcode), 0, nothing},
      {"lock on a register", {0xf0, 0x01, 0xd8}, nothing, exception(v::kInvalidOpcode), 0, nothing},

      {"read a hole",
       {0x90, 0x48, 0x8b, 0x07},
       [](R& r) { r.rdi = kHole; },
       fault(Access::read, kHole),
       1,
       nothing},
      {"read null", {0x8b, 0x07}, [](R& r) { r.rdi = 0; }, fault(Access::read, 0), 0, nothing},
      {"read far outside",
       {0x8b, 0x07},
       [](R& r) { r.rdi = 0x7ff0'0000'0000; },
       fault(Access::read, 0x7ff0'0000'0000),
       0,
       nothing},
      {"read kernel addresses",
       {0x8b, 0x07},
       [](R& r) { r.rdi = 0xffff'ffff'8000'0000; },
       fault(Access::read, 0xffff'ffff'8000'0000),
       0,
       nothing},
      {"read PROT_NONE",
       {0x8a, 0x47, 0x05},
       [](R& r) { r.rdi = kNone; },
       fault(Access::read, kNone + 5),
       0,
       nothing},
      {"write a hole",
       {0x88, 0x07},
       [](R& r) { r.rdi = kHole + 7; },
       fault(Access::write, kHole + 7),
       0,
       nothing},
      {"write read-only",
       {0x48, 0x89, 0x07},
       [](R& r) { r.rdi = kReadOnly + 8; },
       fault(Access::write, kReadOnly + 8),
       0,
       nothing},
      {"read-modify-write read-only",
       {0x48, 0xff, 0x07},
       [](R& r) { r.rdi = kReadOnly; },
       fault(Access::write, kReadOnly),
       0,
       nothing},
      {"read-modify-write a hole",
       {0xf0, 0x48, 0x0f, 0xb1, 0x1f},
       [](R& r) { r.rdi = kHole; },
       fault(Access::write, kHole),
       0,
       nothing},
      {"write code", {0x88, 0x07}, [](R& r) { r.rdi = kCode; }, fault(Access::write, kCode), 0, nothing},
      {"read across into a hole",
       {0x48, 0x8b, 0x47, 0xfd},
       [](R& r) { r.rdi = kDataEnd; },
       fault(Access::read, kDataEnd),
       0,
       nothing},
      {"write across into read-only",
       {0x48, 0x89, 0x47, 0xfd},
       [](R& r) { r.rdi = kReadOnly; },
       fault(Access::write, kReadOnly),
       0,
       nothing},
      {"read of 16 bytes across into a hole",
       {0x0f, 0x10, 0x47, 0xf9},
       [](R& r) { r.rdi = kDataEnd; },
       fault(Access::read, kDataEnd),
       0,
       nothing},
      {"push into a hole",
       {0x50},
       [](R& r) { r.rsp = kStack; },
       fault(Access::write, kStack - 8),
       0,
       nothing},
      {"call into a full stack",
       {0xe8, 0, 0, 0, 0},
       [](R& r) { r.rsp = kStack + 4; },
       fault(Access::write, kStack - 4),
       0,
       nothing},
      {"enter that copies frame pointers, beyond the stack",
       {0xc8, 0, 0, 4},
       [](R& r) {
         r.rsp = kStack + 16;
         r.rbp = kStack + 0x800;
       },
       fault(Access::write, kStack - 8),
       0,
       nothing},
      {"pop to a hole, with addresses of 32 bits",
       {0x67, 0x8f, 0x07},
       [](R& r) { r.rdi = 0xffff'ffff'0001'0000; },
       fault(Access::write, 0x1'0000),
       0,
       nothing},
      {"pop beyond the stack",
       {0x58},
       [](R& r) { r.rsp = kStackTop; },
       fault(Access::read, kStackTop),
       0,
       nothing},
      {"ret beyond the stack",
       {0xc3},
       [](R& r) { r.rsp = kStackTop - 4; },
       fault(Access::read, kStackTop),
       0,
       nothing},
      {"push of memory in a hole",
       {0xff, 0x37},
       [](R& r) { r.rdi = kHole; },
       fault(Access::read, kHole),
       0,
       nothing},
      {"flags survive a fault",
       {0x48, 0xff, 0xc0, 0xf9, 0x8b, 0x07},
       [](R& r) {
         r.rax = UINT64_MAX;
         r.rdi = kHole;
       },
       fault(Access::read, kHole),
       4,
       [](R& r) {
         r.rax = 0;
         r.rflags |= rflags::kCarry | rflags::kZero | rflags::kParity | rflags::kAdjust;
       }},
      {"through fs",
       {0x64, 0x8b, 0x04, 0x25, 0x10, 0, 0, 0},
       [](R& r) { r.fs_base = kHole; },
       fault(Access::read, kHole + 0x10),
       0,
       nothing},
      {"fs and gs bases",
       {0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x65, 0x48, 0x8b, 0x1c, 0x25, 8, 0, 0, 0, 0x0f, 0x05},
       [](R& r) {
         r.fs_base = kData;
         r.gs_base = kData + 8;
       },
       syscall(),
       20,
       [](R& r) {
         r.rax = 0;
         r.rbx = 0;
         called<20>(r);
       }},
      {"rep movsb stops where it must",
       {0xf3, 0xa4},
       [](R& r) {
         r.rsi = kData;
         r.rdi = kReadOnly - 3;
         r.rcx = 10;
       },
       fault(Access::write, kReadOnly),
       0,
       [](R& r) {
         r.rsi += 3;
         r.rdi += 3;
         r.rcx = 7;
       }},
      {"rep stosq backwards into a hole",
       {0xfd, 0xf3, 0x48, 0xab},
       [](R& r) {
         r.rdi = kStack + 8;
         r.rcx = 10;
       },
       fault(Access::write, kStack - 8),
       1,
       [](R& r) {
         r.rdi = kStack - 8;
         r.rcx = 8;
         r.rflags |= rflags::kDirection;
       }},
      // Where Intel's processors and AMD's leave registers in different states, and none depends on it.
      {"std; repe cmpsq into a hole: no flags of its turns, nor those before it",
       {0xfd, 0xf3, 0x48, 0xa7},
       [](R& r) {
         r.rsi = kData + 0x208;
         r.rdi = kStack + 8;
         r.rcx = 10;
         r.rflags |= rflags::kCarry | rflags::kSign;
       },
       fault(Access::read, kStack - 8),
       1,
       [](R& r) {
         r.rsi -= 16;
         r.rdi = kStack - 8;
         r.rcx = 8;
         r.rflags = (r.rflags & ~rflags::kStatus) | rflags::kDirection;
       }},
      {"rep stosq with 32-bit addresses into a hole: upper halves are cleared",
       {0x67, 0xf3, 0x48, 0xab},
       [](R& r) {
         r.rdi = 0x7654'3210'0001'2340;
         r.rcx = 0x1234'5678'0000'000a;
       },
       fault(Access::write, 0x12340),
       0,
       [](R& r) {
         r.rdi = 0x12340;
         r.rcx = 10;
       }},
      {"maskmovdqu into a hole: from its first byte on",
       {0x66, 0x0f, 0x74, 0xc0, 0x66, 0x0f, 0xf7, 0xc8},  // pcmpeqb xmm0, xmm0; maskmovdqu xmm1, xmm0
       [](R& r) { r.rdi = kHole + 4; },
       fault(Access::write, kHole + 4),
       4,
       [](R&) {}},
      {"repeated zero times",
       {0xf3, 0xa4, 0x0f, 0x05},
       [](R& r) {
         r.rsi = r.rdi = kHole;
         r.rcx = 0;
       },
       syscall(),
       4,
       called<4>},
      {"movs reads before it writes",
       {0xa4},
       [](R& r) {
         r.rsi = kHole;
         r.rdi = kReadOnly;
       },
       fault(Access::read, kHole),
       0,
       nothing},
      {"bit string reaches beyond its operand",
       {0x48, 0x0f, 0xa3, 0x07},
       [](R& r) {
         r.rdi = kDataEnd - 8;
         r.rax = 64;
       },
       fault(Access::read, kDataEnd),
       0,
       nothing},

      {"jump into a hole",
       {0xff, 0xe7},
       [](R& r) { r.rdi = kHole + 3; },
       fault(Access::fetch, kHole + 3),
       kHole + 3 - kCode,
       nothing},
      {"jump into data",
       {0xff, 0xe7},
       [](R& r) { r.rdi = kData; },
       fault(Access::fetch, kData),
       kData - kCode,
       nothing},
      {"jump to null", {0xff, 0xe7}, [](R& r) { r.rdi = 0; }, fault(Access::fetch, 0), 0 - kCode, nothing},
      {"call into a hole",
       {0xff, 0xd7},
       [](R& r) { r.rdi = kHole; },
       fault(Access::fetch, kHole),
       kHole - kCode,
       [](R& r) { r.rsp -= 8; }},
      {"run off the end of the code",
       {0x90, 0x90, 0x90, 0x90},
       nothing,
       fault(Access::fetch, kCodeEnd),
       4,
       nothing,
       kCodeEnd - 4},
      {"an instruction across the end of the code",
       {0x90, 0x90, 0x48},
       nothing,
       fault(Access::fetch, kCodeEnd),
       2,
       nothing,
       kCodeEnd - 3},
      {"read a non-canonical address",
       {0x90, 0x8b, 0x07},
       [](R& r) { r.rdi = kNonCanonical; },
       exception(v::kGeneralProtection),
       1,
       nothing},
      {"write a non-canonical address",
       {0x88, 0x07},
       [](R& r) { r.rdi = kNonCanonical; },
       exception(v::kGeneralProtection),
       0,
       nothing},
      {"an exception after a fault's instruction",
       {0x48, 0x8b, 0x07, 0xf7, 0xf1},
       [](R& r) {
         r.rdi = kData;
         r.rcx = 0;
       },
       exception(v::kDivideError),
       3,
       [](R& r) { r.rax = 0; }},
  };
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = [] {
    std::vector<Case> both = memory_cases();
    for (Case& test : flow_cases()) both.push_back(std::move(test));
    return both;
  }();
  return all;
}

Registers initial_registers(const Case& test) {
  Registers r;
  uint64_t value = 0x0101'0101'0101'0101;
  for (uint64_t* reg : {&r.rax, &r.rbx, &r.rcx, &r.rdx, &r.rsi, &r.rdi, &r.rbp, &r.r8, &r.r9, &r.r10, &r.r11,
                        &r.r12, &r.r13, &r.r14, &r.r15})
    *reg = value++;
  r.rsp = kStackTop - 0x100;
  test.prepare(r);
  r.rip = test.at;
  return r;
}

void lay_out(AddressSpace& space, const Case& test) {
  constexpr int kRw = PROT_READ | PROT_WRITE, kRx = PROT_READ | PROT_EXEC;
  REQUIRE(space.map_anonymous({kCode, kCodeEnd}, kRx, false) == 0);
  REQUIRE(space.map_anonymous({kData, kDataEnd}, kRw, false) == 0);
  REQUIRE(space.map_anonymous({kReadOnly - kPageSize, kReadOnly}, kRw, false) == 0);
  REQUIRE(space.map_anonymous({kReadOnly, kReadOnly + kPageSize}, PROT_READ, false) == 0);
  REQUIRE(space.map_anonymous({kNone, kNone + kPageSize}, PROT_NONE, false) == 0);
  REQUIRE(space.map_anonymous({kStack, kStackTop}, kRw, false) == 0);
  constexpr std::array<uint8_t, 32> kFilled = {0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac};
  REQUIRE(space.write(kData + 0x100, kFilled.data(), kFilled.size()));
  REQUIRE(space.write(test.at, test.code.data(), test.code.size()));
}

bool is_amd() {
  __builtin_cpu_init();
  return __builtin_cpu_is("amd") != 0;
}

bool needs_cpu_mask(const Case& test) {
  return test.name == "xgetbv without OSXSAVE" || test.name == "vaddps without AVX" ||
         test.name == "rdfsbase without FSGSBASE";
}

// AMD's processors lose it where the host switches to another task in between.
bool is_x87_pointer(const Case& test) { return test.name.starts_with("the x87 instruction pointer"); }

bool emulators_differ(const Case& test) {
  static const std::set<std::string_view> names = {
      "alignment check",
      "alignment check of flags on the stack",
      "x87 error at the next x87 instruction",
      "SSE error",
      "jump to a non-canonical address",
      "call of a non-canonical address",
      "ret to a non-canonical address",
      "read-modify-write a hole",
  };
  return names.contains(test.name);
}

void check_all(MachineKind kind, bool (*wanted)(const Case&)) {
  for (const Case& test : cases()) {
    if (wanted != nullptr && !wanted(test)) continue;
    if (kind == MachineKind::soft && test.soft_differs) continue;
    if (kind == MachineKind::translated && test.translated_differs && is_amd()) continue;
    if (kind == MachineKind::kvm && is_x87_pointer(test) && is_amd()) continue;
    INFO("case: " << test.name << " on " << name(kind));
    AddressSpace space;
    const CpuModel cpu(CpuModelKind::portable);
    const auto machine = make_machine(kind, space, cpu);
    const auto vcpu = machine->create_vcpu();
    lay_out(space, test);
    vcpu->set_fpu(FpuState::initial());
    const Registers before = initial_registers(test);
    vcpu->registers() = before;
    const std::vector<uint8_t> data = data_of(space);
    const Exit exit = vcpu->run();
    INFO("exit: " << describe(exit));
    Registers expected = before;
    test.expect(expected);
    expected.rip = test.at + test.rip;
    const Registers& after = vcpu->registers();
    CHECK(exit == test.exit);
    // The first instruction of all cases that end like this.
    if (exit == exception(v::kGeneralProtection) && test.rip == 0) CHECK((data_of(space) == data));
    const auto* want = reinterpret_cast<const uint64_t*>(&expected);
    const auto* have = reinterpret_cast<const uint64_t*>(&after);
    for (size_t i = 0; i < kRegisterCount; ++i) {
      INFO("register " << i);
      constexpr size_t kFlags = register_number(&Registers::rflags);
      // RF is set in what some exceptions save (SDM vol. 3, 17.3.1.1); it says nothing about the guest. Flags
      // after arithmetic are compared where the case says which it expects.
      const uint64_t ignore = i == kFlags ? rflags::kResume : 0;
      CHECK(fmt::format("{:#x}", have[i] & ~ignore) == fmt::format("{:#x}", want[i] & ~ignore));
    }
  }
}

}  // namespace aftercheck::exit_cases
