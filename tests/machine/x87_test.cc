// The translated machine has the guest's x87 state in the processor only where guest code touches it: what
// nobody may notice.
#include <atomic>
#include <chrono>
#include <functional>
#include <set>
#include <thread>

#include "machine/translated/guest_code.h"
#include "machine/translated/x87_use.h"
#include "tests/machine/machine_guest.h"
#include "x86/decode.h"

namespace aftercheck {
namespace {

using Guest = MachineGuest;
constexpr uint64_t kCode = Guest::kCode, kData = Guest::kData;
constexpr size_t kFcw = 0, kFsw = 2, kTag = 4;

struct Setup {
  const char* name;
  CpuModelKind model;
  Stores stores;
  BranchCounts counts;
};
constexpr std::array<Setup, 4> kSetups = {{
    {"portable", CpuModelKind::portable, Stores::performed, BranchCounts::automatic},
    {"portable, branches counted in memory", CpuModelKind::portable, Stores::performed,
     BranchCounts::in_memory},
    {"v3", CpuModelKind::v3, Stores::performed, BranchCounts::automatic},
    {"journaled", CpuModelKind::portable, Stores::journaled, BranchCounts::automatic},
}};

struct X87Guest : Guest {
  X87Guest(const Setup& setup, const Code& code) : Guest(MachineKind::translated, code, kRx, setup.model) {
    vcpu.reset();
    machine.reset();
    machine = create_translated_machine(space, cpu, setup.counts, setup.stores);
    vcpu = machine->create_vcpu();
    if (vcpu->has_bounds()) vcpu->set_bounds(0, UINT64_MAX);
    vcpu->set_fpu(FpuState::initial());
    begin();
    regs().rdi = kData;
  }
};

void on_each_setup(const std::function<void(const Setup&)>& function) {
  for (const Setup& setup : kSetups) {
    INFO(setup.name);
    if (!lacking(MachineKind::translated, setup.model)) function(setup);
  }
}

template <typename T>
T at(const FpuState& state, size_t offset) {
  T value{};
  std::memcpy(&value, &state.fxsave[offset], sizeof value);
  return value;
}
template <typename T>
void put(FpuState& state, size_t offset, T value) {
  std::memcpy(&state.fxsave[offset], &value, sizeof value);
}

// Vector registers that differ from each other, and an MXCSR that rounds down.
FpuState with_vectors(const Setup& setup, unsigned seed) {
  FpuState state = FpuState::initial();
  for (size_t i = 0; i < 256; ++i) state.fxsave[xsave::kXmm0 + i] = std::byte(seed + i);
  if (setup.model == CpuModelKind::v3)
    for (size_t i = 0; i < 256; ++i) state.upper[i] = std::byte(seed * 3 + i * 5 + 1);
  put<uint32_t>(state, xsave::kMxcsr, 0x3f80);
  return state;
}

// ST0 is 1.5, the rest is empty.
void add_st0(FpuState& state) {
  put<uint16_t>(state, kFsw, 7 << 11);
  state.fxsave[kTag] = std::byte{0x80};
  put<uint64_t>(state, xsave::kSt0, 0xc000'0000'0000'0000);
  put<uint16_t>(state, xsave::kSt0 + 8, 0x3fff);
}

void check_same(const FpuState& a, const FpuState& b) {
  std::string differing;
  for (size_t i = 0; i < FpuState::kUsed; ++i)
    if (a.fxsave[i] != b.fxsave[i])
      differing += fmt::format(" {}: {:02x} {:02x}", i, std::to_integer<unsigned>(a.fxsave[i]),
                               std::to_integer<unsigned>(b.fxsave[i]));
  CHECK(differing == "");
  CHECK(a.upper == b.upper);
}

double stored() {
  double value = 0;
  std::memcpy(&value, reinterpret_cast<const void*>(kData), sizeof value);
  return value;
}

// A thousand exits, then the first x87 instruction.
void begins_late(const Setup& setup) {
  // 1: syscall; dec ebx; jnz 1b; fld1; fld1; faddp; fstp qword [rdi]; syscall
  X87Guest guest(setup, {0x0f, 0x05, 0xff, 0xcb, 0x75, 0xfa, 0xd9, 0xe8, 0xd9, 0xe8, 0xde, 0xc1, 0xdd, 0x1f,
                         0x0f, 0x05});
  const FpuState before = with_vectors(setup, 3);
  guest.vcpu->set_fpu(before);
  guest.regs().rbx = 1000;
  for (int i = 0; i < 1000; ++i) REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
  check_same(guest.vcpu->fpu(), before);
  REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(stored() == 2);
  const FpuState after = guest.vcpu->fpu();
  CHECK(std::memcmp(&after.fxsave[xsave::kXmm0], &before.fxsave[xsave::kXmm0], 256) == 0);
  CHECK(after.upper == before.upper);
  CHECK(at<uint32_t>(after, xsave::kMxcsr) == 0x3f80);
  CHECK(at<uint16_t>(after, kFcw) == 0x37f);
  CHECK(after.fxsave[kTag] == std::byte{0});
  // What was computed is still in the register that is empty again.
  CHECK(at<uint16_t>(after, xsave::kSt0 + 7 * 16 + 8) == 0x4000);
}

// In a block, in the next, and after exits in between.
void goes_on_after_exits(const Setup& setup) {
  // fld1; syscall; 1: fadd st0, st0; dec ebx; jnz 1b; syscall; fst qword [rdi]; syscall
  X87Guest guest(setup, {0xd9, 0xe8, 0x0f, 0x05, 0xdc, 0xc0, 0xff, 0xcb, 0x75, 0xfa, 0x0f, 0x05, 0xdd, 0x17,
                         0x0f, 0x05});
  guest.regs().rbx = 10;
  for (int i = 0; i < 2; ++i) REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.vcpu->fpu().fxsave[kTag] == std::byte{0x80});
  REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(stored() == 1024);
}

// An instruction at a time as well, MMX: the same registers.
void mmx(const Setup& setup) {
  // movq mm3, [rdi]; paddd mm3, mm3; movq [rdi + 8], mm3; syscall; emms; syscall
  const Code code = {0x0f, 0x6f, 0x1f, 0x0f, 0xfe, 0xdb, 0x0f, 0x7f,
                     0x5f, 0x08, 0x0f, 0x05, 0x0f, 0x77, 0x0f, 0x05};
  for (const bool steps : {false, true}) {
    X87Guest guest(setup, code);
    constexpr uint64_t kValue = 0x0000'0001'8000'0003, kTwice = 0x0000'0002'0000'0006;
    REQUIRE(guest.space.write(kData, &kValue, sizeof kValue));
    const auto run = [&] {
      Exit exit{.kind = ExitKind::step};
      while (exit.kind == ExitKind::step) exit = steps ? guest.vcpu->step() : guest.vcpu->run();
      return exit.kind;
    };
    REQUIRE(run() == ExitKind::syscall);
    uint64_t value = 0;
    REQUIRE(guest.space.read(kData + 8, &value, sizeof value));
    CHECK(value == kTwice);
    const FpuState used = guest.vcpu->fpu();
    CHECK(used.fxsave[kTag] == std::byte{0xff});
    CHECK(at<uint64_t>(used, xsave::kSt0 + 3 * 16) == kTwice);
    REQUIRE(run() == ExitKind::syscall);
    CHECK(guest.vcpu->fpu().fxsave[kTag] == std::byte{0});
    CHECK(at<uint64_t>(guest.vcpu->fpu(), xsave::kSt0 + 3 * 16) == kTwice);
  }
}

// What is shown, where FXSAVE traps, of a state that the processor has never had, and FXRSTOR of one that it
// had not.
void saves_first(const Setup& setup) {
  // fxsave64 [rdi]; fxrstor64 [rsi]; syscall; fstp qword [rdi]; syscall
  X87Guest guest(setup, {0x48, 0x0f, 0xae, 0x07, 0x48, 0x0f, 0xae, 0x0e, 0x0f, 0x05, 0xdd, 0x1f, 0x0f, 0x05});
  FpuState before = with_vectors(setup, 9), other = with_vectors(setup, 77);
  guest.vcpu->set_fpu(before);
  add_st0(other);
  REQUIRE(guest.space.write(kData + 1024, other.fxsave.data(), other.fxsave.size()));
  guest.regs().rsi = kData + 1024;
  REQUIRE(guest.vcpu->run().kind == ExitKind::trapped_instruction);
  check_same(guest.vcpu->fpu(), before);
  guest.regs().rip += 4;
  REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
  other.upper = before.upper;  // which FXRSTOR leaves
  check_same(guest.vcpu->fpu(), other);
  REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(stored() == 1.5);
}

void state_goes_in(const Setup& setup) {
  // syscall; fstp qword [rdi]; syscall
  X87Guest guest(setup, {0x0f, 0x05, 0xdd, 0x1f, 0x0f, 0x05});
  FpuState state = with_vectors(setup, 5);
  add_st0(state);
  guest.vcpu->set_fpu(state);
  check_same(guest.vcpu->fpu(), state);
  REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
  check_same(guest.vcpu->fpu(), state);
  REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(stored() == 1.5);
  // Reserved bits, and those that sum up others, are what the processor makes of them once code has run.
  put<uint16_t>(state, kFcw, 0xf03f & ~1);
  put<uint16_t>(state, kFsw, 1);
  guest.vcpu->set_fpu(state);
  CHECK(at<uint16_t>(guest.vcpu->fpu(), kFsw) == 1);
  REQUIRE(guest.run_at(kCode).kind == ExitKind::syscall);
  FpuState settled = state;
  settled.settle_x87();
  check_same(guest.vcpu->fpu(), settled);
  // And the initial state is that again.
  guest.vcpu->set_fpu(FpuState::initial());
  REQUIRE(guest.run_at(kCode).kind == ExitKind::syscall);
  check_same(guest.vcpu->fpu(), FpuState::initial());
}

// The first instruction that touches it faults: for its operand, for what is pending, for its own operation.
void faults(const Setup& setup) {
  const FpuState plain = with_vectors(setup, 21);
  FpuState pending = plain, unmasked = plain;
  put<uint16_t>(pending, kFcw, 0x37e);
  put<uint16_t>(pending, kFsw, 0x8081);
  put<uint16_t>(unmasked, kFcw, 0x37b);
  constexpr uint64_t kNowhere = kMainWindow.start + 0x800'0000;
  const Code load = {0xdd, 0x07, 0x0f, 0x05};  // fld qword [rdi]; syscall
  {
    X87Guest guest(setup, load);
    guest.vcpu->set_fpu(plain);
    guest.regs().rdi = kNowhere;
    CHECK(guest.vcpu->run() == Exit{.kind = ExitKind::memory_fault, .address = kNowhere});
    check_same(guest.vcpu->fpu(), plain);
    guest.regs().rdi = kData;
    REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
    CHECK(guest.vcpu->fpu().fxsave[kTag] == std::byte{0x80});
  }
  // fwait, emms, movq mm0, mm0, fld1, pshufb mm0, mm0, cvtps2pi mm0, xmm0
  for (const Code& code : {Code{0x9b}, Code{0x0f, 0x77}, Code{0x0f, 0x6f, 0xc0}, Code{0xd9, 0xe8},
                           Code{0x0f, 0x38, 0x00, 0xc0}, Code{0x0f, 0x2d, 0xc0}}) {
    X87Guest guest(setup, code);
    guest.vcpu->set_fpu(pending);
    CHECK(guest.vcpu->run() == Exit{.kind = ExitKind::exception, .vector = vector::kX87Error});
    CHECK(guest.regs().rip == kCode);
    check_same(guest.vcpu->fpu(), pending);
  }
  {
    // fld1; fldz; fdivp, which divides by zero; nop; fwait
    X87Guest guest(setup, {0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x90, 0x9b});
    guest.vcpu->set_fpu(unmasked);
    CHECK(guest.vcpu->run() == Exit{.kind = ExitKind::exception, .vector = vector::kX87Error});
    CHECK(guest.regs().rip == kCode + 7);
    CHECK((at<uint16_t>(guest.vcpu->fpu(), kFsw) & 0x8084) == 0x8084);
  }
  {
    // divps xmm0, xmm1, with MXCSR's exceptions unmasked, in code that has used x87
    X87Guest guest(setup, {0xd9, 0xe8, 0x0f, 0x5e, 0xc1});
    FpuState state = FpuState::initial();
    put<uint32_t>(state, xsave::kMxcsr, 0);
    guest.vcpu->set_fpu(state);
    CHECK(guest.vcpu->run() == Exit{.kind = ExitKind::exception, .vector = vector::kSimdError});
    CHECK(guest.regs().rip == kCode + 2);
    CHECK(guest.vcpu->fpu().fxsave[kTag] == std::byte{0x80});
  }
}

// Each has a state of its own, which the other does not see, whether it is used or not.
void two_vcpus(const Setup& setup) {
  // 1: syscall; jmp 1b; fstp qword [rdi]; fld1; fld1; syscall
  X87Guest guest(setup, {0x0f, 0x05, 0xeb, 0xfc, 0xdd, 0x1f, 0xd9, 0xe8, 0xd9, 0xe8, 0x0f, 0x05});
  const std::unique_ptr<Vcpu> other = guest.machine->create_vcpu();
  FpuState odd = with_vectors(setup, 30), even = with_vectors(setup, 31);
  add_st0(even);
  put<uint16_t>(even, kFcw, 0xf37f);
  guest.vcpu->set_fpu(even);
  other->set_fpu(odd);
  other->registers() = guest.regs();
  // `odd` is set anew with the other's registers in the context that have not been run.
  for (Vcpu* vcpu : {other.get(), guest.vcpu.get(), other.get(), guest.vcpu.get()})
    REQUIRE(vcpu->run().kind == ExitKind::syscall);
  FpuState settled = even;
  settled.settle_x87();
  check_same(guest.vcpu->fpu(), settled);
  check_same(other->fpu(), odd);
  REQUIRE(guest.run_at(kCode + 4).kind == ExitKind::syscall);
  CHECK(stored() == 1.5);
  check_same(other->fpu(), odd);
  REQUIRE(other->run().kind == ExitKind::syscall);
  check_same(other->fpu(), odd);
  CHECK(guest.vcpu->fpu().fxsave[kTag] == std::byte{0xc0});
  // Before it has run, with one who has not run either.
  guest.vcpu->set_fpu(even);
  const std::unique_ptr<Vcpu> third = guest.machine->create_vcpu();
  third->registers() = guest.regs();
  third->set_fpu(even);
  REQUIRE(other->run().kind == ExitKind::syscall);
  third->registers().rip = kCode;
  REQUIRE(third->run().kind == ExitKind::syscall);
  check_same(third->fpu(), settled);
}

// As a check gets it from the guest that it is about.
void taken_over(const Setup& setup) {
  // syscall; fstp qword [rdi]; syscall
  X87Guest guest(setup, {0x0f, 0x05, 0xdd, 0x1f, 0x0f, 0x05});
  const std::unique_ptr<Machine> machine =
      create_translated_machine(guest.space, guest.cpu, setup.counts, Stores::journaled);
  const std::unique_ptr<Vcpu> other = machine->create_vcpu();
  other->set_bounds(0, UINT64_MAX);
  FpuState state = with_vectors(setup, 50);
  add_st0(state);
  put<uint16_t>(state, kFcw, 0xf37f);
  FpuState settled = state;
  settled.settle_x87();
  // Neither has run; the one that gives has; both have.
  for (int round = 0; round < 3; ++round) {
    guest.vcpu->set_fpu(state);
    if (round != 0) REQUIRE(guest.run_at(kCode).kind == ExitKind::syscall);
    other->take_fpu(*guest.vcpu);
    check_same(other->fpu(), round == 0 ? state : settled);
    other->registers() = guest.regs();
    other->registers().rip = kCode;
    REQUIRE(other->run().kind == ExitKind::syscall);
    check_same(other->fpu(), settled);
    REQUIRE(other->run().kind == ExitKind::syscall);
    CHECK(stored() == 1.5);
    machine->journal()->undo();
    CHECK(stored() == 0);
    guest.vcpu->set_fpu(FpuState::initial());
    other->take_fpu(*guest.vcpu);
    check_same(other->fpu(), FpuState::initial());
  }
  // Not run since it was given: what is taken over is as it was given, too.
  guest.vcpu->set_fpu(state);
  other->take_fpu(*guest.vcpu);
  check_same(other->fpu(), state);
  other->registers().rip = kCode;
  REQUIRE(other->run().kind == ExitKind::syscall);
  check_same(other->fpu(), settled);
}

// The host is left as it was, whatever the guest does.
void host_stays_clean(const Setup& setup) {
  // fldcw [rdi]; fld1; std; ldmxcsr [rdi + 4]; syscall
  X87Guest guest(setup, {0xd9, 0x2f, 0xd9, 0xe8, 0xfd, 0x0f, 0xae, 0x57, 0x04, 0x0f, 0x05});
  constexpr uint32_t kControl = 0x0040, kMxcsr = 0x6000;
  REQUIRE(guest.space.write(kData, &kControl, sizeof kControl));
  REQUIRE(guest.space.write(kData + 4, &kMxcsr, sizeof kMxcsr));
  guest.regs().rflags |= rflags::kAlignmentCheck;
  REQUIRE(guest.vcpu->run().kind == ExitKind::syscall);
  struct {
    uint32_t control = 0, status = 0, tags = 0, rest[4]{};
  } environment;
  uint32_t mxcsr = 0;
  uint64_t flags = 0;
  asm volatile("fnstenv %0\n\tfldenv %0\n\tstmxcsr %1\n\tpushfq\n\tpopq %2"
               : "+m"(environment), "=m"(mxcsr), "=r"(flags));
  CHECK((environment.control & UINT16_MAX) == 0x37f);
  CHECK((environment.tags & UINT16_MAX) == UINT16_MAX);
  CHECK(mxcsr == 0x1f80);
  CHECK((flags & (rflags::kAlignmentCheck | rflags::kDirection)) == 0);
  CHECK((guest.regs().rflags & rflags::kDirection) != 0);
  const FpuState state = guest.vcpu->fpu();
  CHECK(at<uint16_t>(state, kFcw) == kControl);
  CHECK(at<uint32_t>(state, xsave::kMxcsr) == kMxcsr);
  CHECK(state.fxsave[kTag] == std::byte{0x80});
}

// Kicks, wherever they come: between an x87 instruction and what loads the state for it too.
void kicked(const Setup& setup) {
  // fldz; 1: fld1; faddp; nop; dec ecx; jnz 1b; fstp qword [rdi]; syscall
  X87Guest guest(setup,
                 {0xd9, 0xee, 0xd9, 0xe8, 0xde, 0xc1, 0x90, 0xff, 0xc9, 0x75, 0xf7, 0xdd, 0x1f, 0x0f, 0x05});
  constexpr uint64_t kTurns = 300'000;
  const FpuState before = with_vectors(setup, 40);
  guest.vcpu->set_fpu(before);
  guest.regs().rcx = kTurns;
  std::atomic<bool> done{false};
  std::thread kicker([&] {
    for (unsigned i = 0; !done.load(); ++i) {
      guest.vcpu->kick();
      for (unsigned spin = 0; spin < i % 1000; ++spin) asm volatile("pause");
    }
  });
  Exit exit;
  while ((exit = guest.vcpu->run()).kind == ExitKind::kick) continue;
  done.store(true);
  kicker.join();
  CHECK(exit.kind == ExitKind::syscall);
  CHECK(stored() == kTurns);
  const FpuState after = guest.vcpu->fpu();
  CHECK(std::memcmp(&after.fxsave[xsave::kXmm0], &before.fxsave[xsave::kXmm0], 256) == 0);
  CHECK(after.upper == before.upper);
}

bool is_x87_register(ZydisRegister reg) {
  switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_X87:
    case ZYDIS_REGCLASS_MMX:
      return true;
    default:
      return reg == ZYDIS_REGISTER_X87CONTROL || reg == ZYDIS_REGISTER_X87STATUS ||
             reg == ZYDIS_REGISTER_X87TAG;
  }
}

// By the operands that the decoder knows, hidden ones too, and by the names of those that take all of it.
bool should_touch(const x86::WithOperands& full) {
  switch (full.instruction.mnemonic) {
    case ZYDIS_MNEMONIC_EMMS:
    case ZYDIS_MNEMONIC_FEMMS:
    case ZYDIS_MNEMONIC_FWAIT:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
      return true;
    default:
      break;
  }
  if (full.instruction.meta.category == ZYDIS_CATEGORY_X87_ALU ||
      full.instruction.meta.category == ZYDIS_CATEGORY_MMX)
    return true;
  for (size_t i = 0; i < full.instruction.operand_count; ++i) {
    const ZydisDecodedOperand& operand = full.operands[i];
    if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER && is_x87_register(operand.reg.value)) return true;
  }
  return false;
}

bool is_sse(const ZydisDecodedInstruction& instruction) {
  const std::string_view extension = ZydisISAExtGetString(instruction.meta.isa_ext);
  return extension == "BASE" || (extension.starts_with("SSE") && extension != "SSE4A");
}

}  // namespace

#define ON_EACH_SETUP(name, call) \
  TEST_CASE(name) { on_each_setup(call); }

ON_EACH_SETUP("translated: x87 is begun late", begins_late)
ON_EACH_SETUP("translated: x87 goes on after exits", goes_on_after_exits)
ON_EACH_SETUP("translated: MMX and EMMS", mmx)
ON_EACH_SETUP("translated: FXSAVE before any x87 instruction", saves_first)
ON_EACH_SETUP("translated: x87 state goes in, and out as the processor has it", state_goes_in)
ON_EACH_SETUP("translated: the first x87 instruction faults", faults)
ON_EACH_SETUP("translated: two vCPUs' x87 states", two_vcpus)
ON_EACH_SETUP("translated: x87 and vector state taken over by another machine", taken_over)
ON_EACH_SETUP("translated: the host has its own x87 state, MXCSR and flags", host_stays_clean)
ON_EACH_SETUP("translated: kicks around x87 instructions", kicked)

TEST_CASE("translated: all that touches x87 state is known, and no SSE") {
  size_t touching = 0;
  std::set<std::string> others;
  for (const Code& map : {Code{}, Code{0x0f}, Code{0x0f, 0x38}, Code{0x0f, 0x3a}})
    for (const Code& prefix : {Code{}, Code{0x66}, Code{0xf2}, Code{0xf3}, Code{0x48}, Code{0x66, 0x48},
                               Code{0xf2, 0x66}, Code{0x66, 0xf3}, Code{0x2e, 0xf2}})
      for (unsigned opcode = 0; opcode < 256; ++opcode)
        for (unsigned modrm = 0; modrm < 256; ++modrm) {
          translated::Instruction instruction;
          size_t size = 0;
          for (const Code& part :
               {prefix, map, Code{static_cast<uint8_t>(opcode), static_cast<uint8_t>(modrm)}})
            for (const uint8_t byte : part) instruction.bytes[size++] = byte;
          x86::WithOperands full;
          if (!x86::decode(instruction.bytes, full)) continue;
          instruction.decoded = full.instruction;
          const bool known = translated::touches_x87(instruction);
          if (should_touch(full)) {
            ++touching;
            INFO(x86::disassemble(instruction.code(), 0));
            if (!known) CHECK(known);
          } else if (known && is_sse(full.instruction) &&
                     full.instruction.mnemonic != ZYDIS_MNEMONIC_CVTPI2PD &&
                     full.instruction.mnemonic != ZYDIS_MNEMONIC_CVTPI2PS) {  // with an operand in memory
            others.insert(ZydisMnemonicGetString(full.instruction.mnemonic));
          }
        }
  CHECK(touching > 10'000);
  CHECK(others == std::set<std::string>{});
}

}  // namespace aftercheck
