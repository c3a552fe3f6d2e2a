// The v3 CPU model: what it answers, who can have it, and vector registers in and out of machines.
#include <algorithm>
#include <catch2/catch.hpp>

#include "machine/instruction_standing.h"
#include "machine/memory_accesses.h"
#include "machine/trapped_instruction.h"
#include "recording/digest.h"
#include "tests/machine/machine_guest.h"
#include "x86/decode.h"

namespace aftercheck {
namespace {

constexpr CpuModelKind kV3 = CpuModelKind::v3;

FpuState numbered(unsigned seed) {
  FpuState state = FpuState::initial();
  for (size_t i = 0; i < 256; ++i) {
    state.fxsave[xsave::kXmm0 + i] = std::byte(seed + i);
    state.upper[i] = std::byte(seed * 3 + i * 5 + 1);
  }
  return state;
}

// --- hosts ---

CpuidResult model_cpuid(uint32_t leaf, uint32_t subleaf) { return CpuModel(kV3).cpuid(leaf, subleaf); }
template <uint32_t kLeaf, unsigned kBit, uint32_t CpuidResult::*kIn>
CpuidResult without(uint32_t leaf, uint32_t subleaf) {
  CpuidResult result = model_cpuid(leaf, subleaf);
  if (leaf == kLeaf) result.*kIn &= ~(1U << kBit);
  return result;
}
CpuidResult of_portable(uint32_t leaf, uint32_t subleaf) {
  return CpuModel(CpuModelKind::portable).cpuid(leaf, subleaf);
}
CpuidResult with_few_leaves(uint32_t leaf, uint32_t subleaf) {
  CpuidResult result = model_cpuid(leaf, subleaf);
  if (leaf == 0) result.eax = 6;
  return result;
}
CpuidResult with_upper_elsewhere(uint32_t leaf, uint32_t subleaf) {
  CpuidResult result = model_cpuid(leaf, subleaf);
  if (leaf == 0xd && subleaf == 2) result.ebx = 1024;
  return result;
}

}  // namespace

TEST_CASE("a host that lacks a part of v3 is told which") {
  constexpr uint64_t kAll = xsave::kAll;
  CHECK(missing_on_host(kV3, model_cpuid, kAll).empty());
  CHECK(missing_on_host(kV3, model_cpuid, 0xe7).empty());
  CHECK(missing_on_host(kV3, without<7, 5, &CpuidResult::ebx>, kAll) == "AVX2");
  CHECK(missing_on_host(kV3, without<7, 8, &CpuidResult::ebx>, kAll) == "BMI2");
  CHECK(missing_on_host(kV3, without<1, 12, &CpuidResult::ecx>, kAll) == "FMA");
  CHECK(missing_on_host(kV3, without<1, 22, &CpuidResult::ecx>, kAll) == "MOVBE");
  CHECK(missing_on_host(kV3, without<0x8000'0001, 5, &CpuidResult::ecx>, kAll) == "LZCNT");
  CHECK(missing_on_host(kV3, without<1, 27, &CpuidResult::ecx>, kAll) == "OSXSAVE");
  CHECK(missing_on_host(kV3, of_portable, kAll) == "XSAVE");
  CHECK(missing_on_host(kV3, with_few_leaves, kAll) == "BMI1");
  CHECK(missing_on_host(kV3, model_cpuid, 3).find("XCR0") != std::string::npos);
  CHECK(missing_on_host(kV3, with_upper_elsewhere, kAll).find("XSAVE area") != std::string::npos);
  CHECK(missing_on_host(CpuModelKind::portable, of_portable, 0).empty());
}

TEST_CASE("names of CPU models are those in recordings") {
  for (const CpuModelKind kind : {CpuModelKind::portable, CpuModelKind::host, kV3})
    CHECK(cpu_model_named(name(kind)) == kind);
  CHECK(name(kV3) == std::string("v3"));
  CHECK(!cpu_model_named("v4"));
}

TEST_CASE("v3 answers CPUID as portable does, but for what it has more") {
  const CpuModel v3(kV3), portable(CpuModelKind::portable);
  CHECK(v3.cpuid(4, 2) == portable.cpuid(4, 2));
  CHECK((v3.cpuid(1, 0).ecx & portable.cpuid(1, 0).ecx) == portable.cpuid(1, 0).ecx);
  CHECK(v3.cpuid(1, 0).edx == portable.cpuid(1, 0).edx);
  CHECK(v3.cpuid(7, 1) == CpuidResult{});
  CHECK(v3.cpuid(0xd, 0) == CpuidResult{7, 832, 832, 0});
  CHECK(v3.cpuid(0xd, 3) == CpuidResult{});
  CHECK(v3.cpuid(99, 0) == v3.cpuid(0xd, 0));
  CHECK(portable.cpuid(0xd, 0) == portable.cpuid(0xb, 0));
}

TEST_CASE("the soft vCPU does not take guests of v3, and auto does not choose it") {
  AddressSpace space;
  try {
    create_machine(MachineChoice::soft, space, CpuModel(kV3));
    FAIL("the soft vCPU has v3");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::host_lacks);
    CHECK(std::string(error.what())
              .find(why_lacking(MachineKind::kvm, kV3).find("needs a processor") == std::string::npos
                        ? "--cpu v3"
                        : "needs a processor") != std::string::npos);
  }
  try {
    CHECK(create_machine(MachineChoice::automatic, space, CpuModel(kV3))->kind() != MachineKind::soft);
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::host_lacks);
  }
}

// --- state ---

TEST_CASE("upper halves count in digests and in recordings only where they are not zero") {
  FpuState state = numbered(1);
  state.upper.fill(std::byte{0});
  constexpr size_t kBefore = 344;  // what it was before there were upper halves
  CHECK(canonical_fpu(state).size() == kBefore);
  CHECK(state.bytes().size() == 512);
  const uint64_t digest = recording::digest64(canonical_fpu(state));
  state.upper[255] = std::byte{1};
  CHECK(canonical_fpu(state).size() == kBefore + 256);
  CHECK(recording::digest64(canonical_fpu(state)) != digest);
  CHECK(state.bytes().size() == 768);
  const auto again = FpuState::of_bytes(state.bytes());
  REQUIRE(again);
  CHECK(again->fxsave == state.fxsave);
  CHECK(again->upper == state.upper);
  CHECK(!FpuState::of_bytes(std::span(state.fxsave).first(511)));
}

// --- instructions ---

TEST_CASE("what v3 has of VEX and what it has not") {
  const auto standing_of = [](const Code& code, CpuModelKind model) {
    ZydisDecodedInstruction instruction;
    REQUIRE(x86::decode(code, instruction));
    return standing(instruction, code, model);
  };
  const Code present[] = {{0xc5, 0xf5, 0xfe, 0xc1},              // vpaddd ymm0, ymm1, ymm1
                          {0xc4, 0xe2, 0x75, 0xb8, 0xc1},        // vfmadd231ps
                          {0xc4, 0xe2, 0x71, 0xdc, 0xc2},        // vaesenc xmm
                          {0xc4, 0xe2, 0x75, 0x92, 0x04, 0x96},  // vgatherdps ymm0, [rsi+ymm2*4], ymm1
                          {0xc4, 0xe2, 0xf0, 0xf2, 0xc1},        // andn
                          {0x0f, 0x38, 0xf0, 0x06}};             // movbe
  for (const Code& code : present) {
    CHECK(standing_of(code, kV3) == Standing::plain);
    CHECK(standing_of(code, CpuModelKind::portable) == Standing::invalid_opcode);
  }
  const Code absent[] = {{0xc4, 0xe2, 0x75, 0xdc, 0xc2},        // vaesenc ymm
                         {0xc4, 0xe3, 0x75, 0x44, 0xc2, 0},     // vpclmulqdq ymm
                         {0xc4, 0xe2, 0x75, 0x50, 0xc2},        // vpdpbusd, VEX
                         {0xc5, 0xf8, 0x92, 0xc0},              // kmovw
                         {0x62, 0xf1, 0x75, 0x28, 0xfe, 0xc1},  // vpaddd, EVEX
                         {0xc4, 0xe3, 0xf1, 0x69, 0xc2, 0x30},  // vfmaddpd, FMA4
                         {0x66, 0x0f, 0x38, 0xf6, 0xc1},        // adcx
                         {0x0f, 0xc7, 0x26},                    // xsavec
                         {0x0f, 0xae, 0x36}};                   // xsaveopt
  for (const Code& code : absent) CHECK(standing_of(code, kV3) == Standing::invalid_opcode);
  for (const Code& code : {Code{0x0f, 0x01, 0xd0}, Code{0x0f, 0xae, 0x26}, Code{0x48, 0x0f, 0xae, 0x2e}})
    CHECK(standing_of(code, kV3) == Standing::trapped);
}

TEST_CASE("what is trapped for v3 alone") {
  struct Case {
    Code code;
    TrappedKind kind;
  };
  const Case cases[] = {
      {{0x0f, 0x01, 0xd0}, TrappedKind::xgetbv},
      {{0x0f, 0xae, 0x26}, TrappedKind::xsave},
      {{0x48, 0x0f, 0xae, 0x64, 0x24, 0x40}, TrappedKind::xsave},   // xsave64 [rsp+64]
      {{0x0f, 0xae, 0x2d, 1, 2, 3, 4}, TrappedKind::xrstor},        // [rip+...]
      {{0x41, 0x0f, 0xae, 0xae, 1, 2, 3, 4}, TrappedKind::xrstor},  // [r14+...]
      {{0x0f, 0xae, 0x36}, TrappedKind::xsave_other},               // xsaveopt
      {{0x0f, 0xc7, 0x64, 0x24, 0x40}, TrappedKind::xsave_other},   // xsavec
      {{0x48, 0x0f, 0xc7, 0x1e}, TrappedKind::xsave_other},         // xrstors64
      {{0x48, 0x0f, 0xc7, 0x2e}, TrappedKind::xsave_other},         // xsaves64
  };
  for (const Case& one : cases) {
    const auto found = decode_trapped(one.code, kV3);
    REQUIRE(found);
    CHECK(found->kind == one.kind);
    CHECK(found->length == one.code.size());
    CHECK(!decode_trapped(one.code));
    CHECK(!decode_trapped(one.code, CpuModelKind::host));
  }
  const Code others[] = {{0x0f, 0xae, 0xe8},        // lfence
                         {0x0f, 0xae, 0x3e},        // clflush
                         {0xf3, 0x0f, 0xae, 0x26},  // ptwrite
                         {0x66, 0x0f, 0xae, 0x36},  // clwb
                         {0x0f, 0xc7, 0x0e},        // cmpxchg8b
                         {0x0f, 0x01, 0xd1},        // xsetbv
                         {0x0f, 0xae, 0x16}};       // ldmxcsr
  for (const Code& code : others) CHECK(!decode_trapped(code, kV3));
}

TEST_CASE("gathers and moves under a mask access what vector registers say") {
  FpuState fpu = FpuState::initial();
  const auto put = [&fpu](unsigned number, const std::array<int32_t, 8>& words) {
    std::memcpy(&fpu.fxsave[xsave::kXmm0 + 16 * number], words.data(), 16);
    std::memcpy(&fpu.upper[16 * number], &words[4], 16);
  };
  put(1, {-1, 0, -1, 1, 0, 0, INT32_MIN, 0});
  put(2, {3, 1, -2, 5, 0, 0, 100, 7});
  Registers registers;
  registers.rsi = 0x1000;
  const auto addresses = [&](const Code& code) {
    const auto accesses = memory_accesses(code, registers, &fpu);
    REQUIRE(accesses);
    std::vector<std::pair<uint64_t, uint64_t>> result;
    for (const MemoryAccess& access : *accesses) result.emplace_back(access.address, access.size);
    return result;
  };
  using List = std::vector<std::pair<uint64_t, uint64_t>>;
  // vpgatherdd ymm0, [rsi+ymm2*4+8], ymm1
  CHECK(addresses({0xc4, 0xe2, 0x75, 0x90, 0x44, 0x96, 8}) == List{{0x1014, 4}, {0x1000, 4}, {0x1198, 4}});
  // vpgatherdq ymm0, [rsi+xmm2*8], ymm1: masks of 64 bits
  CHECK(addresses({0xc4, 0xe2, 0xf5, 0x90, 0x04, 0xd6}).empty());
  // vpmaskmovd ymm0, ymm1, [rsi] and [rsi], ymm1, ymm0
  const List masked = {{0x1000, 4}, {0x1008, 4}, {0x1018, 4}};
  CHECK(addresses({0xc4, 0xe2, 0x75, 0x8c, 0x06}) == masked);
  CHECK(addresses({0xc4, 0xe2, 0x75, 0x8e, 0x06}) == masked);
  CHECK(is_gather(Code{0xc4, 0xe2, 0x75, 0x90, 0x44, 0x96, 8}));
  CHECK(!is_gather(Code{0xc4, 0xe2, 0x75, 0x8c, 0x06}));
}

namespace {

struct V3Guest : MachineGuest {
  explicit V3Guest(MachineKind kind, const Code& code = {}) : MachineGuest(kind, code, kRx, kV3) {}
};

void keeps_vectors(MachineKind kind) {
  if (lacking(kind, kV3)) return;
  // syscall; vpaddd ymm3, ymm4, ymm5; syscall; vzeroupper; syscall
  V3Guest guest(kind, {0x0f, 0x05, 0xc5, 0xdd, 0xfe, 0xdd, 0x0f, 0x05, 0xc5, 0xf8, 0x77, 0x0f, 0x05});
  FpuState state = numbered(7);
  guest.vcpu->set_fpu(state);
  CHECK(guest.vcpu->fpu().upper == state.upper);
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.vcpu->fpu().upper == state.upper);
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  for (size_t i = 0; i < 16; i += 4) {
    const auto add = [](std::byte* to, const std::byte* from) {
      uint32_t a = 0, b = 0;
      std::memcpy(&a, from, sizeof a);
      std::memcpy(&b, from + 16, sizeof b);
      a += b;
      std::memcpy(to, &a, sizeof a);
    };
    add(&state.fxsave[xsave::kXmm0 + 48 + i], &state.fxsave[xsave::kXmm0 + 64 + i]);
    add(&state.upper[48 + i], &state.upper[64 + i]);
  }
  CHECK(guest.vcpu->fpu().upper == state.upper);
  CHECK(canonical_fpu(guest.vcpu->fpu()) == canonical_fpu(state));
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(!guest.vcpu->fpu().has_upper());
  // Another vCPU of the machine.
  const std::unique_ptr<Vcpu> other = guest.machine->create_vcpu();
  other->set_fpu(numbered(9));
  guest.vcpu->set_fpu(state);
  guest.begin();
  other->registers() = guest.regs();
  CHECK(other->run().kind == ExitKind::syscall);
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.vcpu->fpu().upper == state.upper);
  CHECK(other->fpu().upper == numbered(9).upper);
}

// Operands that say where they are, in code that is near them, and far from them, and below 2 GiB: with the
// short prefix and the long one, and with X and B where they don't count.
void relative_operands(MachineKind kind) {
  if (lacking(kind, kV3)) return;
  V3Guest guest(kind);
  AddressSpace& space = guest.space;
  constexpr uint64_t kFar = kMainWindow.start + (uint64_t{1} << 36), kLowCode = kLowWindow.start + 0x100000;
  for (const uint64_t code : {MachineGuest::kCode, kFar, kLowCode}) {
    const uint64_t data = code + 0x10000;
    if (code != MachineGuest::kCode) {
      REQUIRE(space.map_anonymous({code, code + 0x10000}, PROT_READ | PROT_EXEC, false) == 0);
      REQUIRE(space.map_anonymous({data, data + kPageSize}, PROT_READ | PROT_WRITE, false) == 0);
    } else {
      REQUIRE(space.map_anonymous({data, data + kPageSize}, PROT_READ | PROT_WRITE, false) == 0);
    }
    std::array<uint64_t, 4> words = {0x1111, 0x2222, 0x3333, 0x4444};
    REQUIRE(space.write(data, words.data(), sizeof words));
    const auto relative = [&](Code to, Code instruction, Code immediate = {}) {
      const uint64_t end = code + to.size() + instruction.size() + 4 + immediate.size();
      const auto displacement = static_cast<uint32_t>(data - end);
      for (unsigned i = 0; i < 4; ++i) instruction.push_back(static_cast<uint8_t>(displacement >> 8 * i));
      instruction.insert(instruction.end(), immediate.begin(), immediate.end());
      to.insert(to.end(), instruction.begin(), instruction.end());
      return to;
    };
    Code bytes;
    bytes = relative(bytes, {0xc5, 0xfe, 0x6f, 0x05});                // vmovdqu ymm0, [data]
    bytes = relative(bytes, {0xc4, 0xc1, 0x7e, 0x6f, 0x0d});          // the same to ymm1, B set
    bytes = relative(bytes, {0xc4, 0x21, 0x7e, 0x6f, 0x15});          // to ymm10, X set
    bytes = relative(bytes, {0xc4, 0xe3, 0x7d, 0x46, 0x1d}, {0x03});  // vperm2i128 ymm3, ymm0, [data], 3
    bytes = relative(bytes, {0xc4, 0xe2, 0xe8, 0xf2, 0x0d});          // andn rcx, rdx, [data]
    bytes = relative(bytes, {0xc4, 0xe2, 0xfb, 0xf6, 0x05});          // mulx rax, rax, [data]
    bytes.insert(bytes.end(), {0x0f, 0x05});
    guest.put(bytes, code);
    guest.vcpu->set_fpu(FpuState::initial());
    guest.begin(code);
    guest.regs().rdx = 0x1001;
    CHECK(guest.vcpu->run().kind == ExitKind::syscall);
    const FpuState state = guest.vcpu->fpu();
    for (const size_t number : {0U, 1U, 10U}) {
      CHECK(std::memcmp(&state.fxsave[xsave::kXmm0 + 16 * number], words.data(), 16) == 0);
      CHECK(std::memcmp(&state.upper[16 * number], &words[2], 16) == 0);
    }
    CHECK(std::memcmp(&state.fxsave[xsave::kXmm0 + 48], &words[2], 16) == 0);
    CHECK(guest.regs().rax == 0);
    CHECK(guest.regs().rdx == 0x1001);
    CHECK(guest.regs().rip == code + bytes.size());
    // A fault there is at the instruction, with registers as they were.
    REQUIRE(space.protect({data, data + kPageSize}, PROT_NONE) == 0);
    guest.begin(code + 8 + 9 + 9);
    guest.regs().rcx = 0x77;
    const Exit exit = guest.vcpu->run();
    CHECK(exit == Exit{.kind = ExitKind::memory_fault, .address = data, .access = Access::read});
    CHECK(guest.regs().rip == code + 26);
    CHECK(guest.regs().rcx == 0x77);
  }
}

void segment_operands(MachineKind kind) {
  if (lacking(kind, kV3)) return;
  // vmovdqu ymm1, fs:[8]; vpaddd ymm2, ymm1, gs:[rbx]; syscall
  V3Guest guest(kind,
                {0x64, 0xc5, 0xfe, 0x6f, 0x0c, 0x25, 8, 0, 0, 0, 0x65, 0xc5, 0xf5, 0xfe, 0x13, 0x0f, 0x05});
  for (uint32_t i = 0; i < 64; ++i) {
    const uint32_t word = i * 0x01010101;
    REQUIRE(guest.space.write(MachineGuest::kData + 4 * i, &word, sizeof word));
  }
  guest.regs().fs_base = MachineGuest::kData;
  guest.regs().gs_base = MachineGuest::kData + 32;
  guest.regs().rbx = 32;
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  const FpuState state = guest.vcpu->fpu();
  for (uint32_t i = 0; i < 8; ++i) {
    uint32_t loaded = 0, sum = 0;
    const auto word = [i](const FpuState& from, size_t number) {
      return i < 4 ? &from.fxsave[xsave::kXmm0 + 16 * number + 4 * i]
                   : &from.upper[16 * number + 4 * (i - 4)];
    };
    std::memcpy(&loaded, word(state, 1), sizeof loaded);
    std::memcpy(&sum, word(state, 2), sizeof sum);
    CHECK(loaded == (i + 2) * 0x01010101);
    CHECK(sum == (i + 2 + i + 16) * 0x01010101);
  }
}

// Branches are counted in a register of the host's that VZEROALL must not reach.
void counts_over_vzeroall() {
  if (lacking(MachineKind::translated, kV3)) return;
  // mov ecx, 1000; 1: vzeroall; vpcmpeqd ymm7, ymm7, ymm7; dec ecx; jnz 1b; syscall
  V3Guest guest(MachineKind::translated, {0xb9, 0xe8, 3, 0, 0, 0xc5, 0xfc, 0x77, 0xc5, 0xc5, 0x76, 0xff, 0xff,
                                          0xc9, 0x75, 0xf5, 0x0f, 0x05});
  guest.vcpu->reset_branches();
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(guest.vcpu->branches() == 1000);
  guest.begin();
  guest.vcpu->reset_branches();
  CHECK(guest.vcpu->run_until(700, MachineGuest::kCode + 5).kind == ExitKind::breakpoint);
  CHECK((guest.regs().rcx & UINT32_MAX) == 300);
}

void undefined_instructions() {
  if (lacking(MachineKind::translated, kV3)) return;
  V3Guest guest(MachineKind::translated);
  for (const Code& code : {Code{0x62, 0xf1, 0x75, 0x28, 0xfe, 0xc1}, Code{0xc4, 0xe2, 0x75, 0xdc, 0xc2},
                           Code{0x0f, 0xc7, 0x26}, Code{0xc5, 0xf8, 0x92, 0xc0}}) {
    guest.put(code);
    guest.begin();
    CHECK(guest.vcpu->run() == Exit{.kind = ExitKind::exception, .vector = vector::kInvalidOpcode});
    CHECK(guest.regs().rip == MachineGuest::kCode);
  }
}

}  // namespace

ON_PROCESSORS("upper halves of vector registers go in and out", keeps_vectors(machine))
ON_PROCESSORS("VEX-encoded instructions with RIP-relative operands", relative_operands(machine))
ON_PROCESSORS("VEX-encoded instructions with operands in FS and GS", segment_operands(machine))
TEST_CASE("branches are counted over VZEROALL") { counts_over_vzeroall(); }
TEST_CASE("branches are counted over VZEROALL, in memory") {
  branch_counts = BranchCounts::in_memory;
  counts_over_vzeroall();
  branch_counts = BranchCounts::automatic;
}
TEST_CASE("translated, what v3 lacks is undefined, though the processor has it") { undefined_instructions(); }

}  // namespace aftercheck
