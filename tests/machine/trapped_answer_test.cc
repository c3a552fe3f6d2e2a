// What trapped instructions do, without a machine.
#include "machine/trapped_answer.h"

#include <setjmp.h>
#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>
#include <iostream>
#include <random>
#include <vector>

#include "base/error.h"

namespace aftercheck {
namespace {

constexpr uint64_t kCode = kLowWindow.start + 0x100000, kData = kCode + 0x10000;

// Holds state, and nothing runs.
class StillVcpu : public Vcpu {
 public:
  Exit run() override { return {}; }
  Exit step() override { return {}; }
  Registers& registers() override { return registers_; }
  FpuState fpu() override { return fpu_; }
  void set_fpu(const FpuState& state) override { fpu_ = state; }
  void kick() noexcept override {}
  void clear_kick() noexcept override {}

 private:
  Registers registers_;
  FpuState fpu_ = FpuState::initial();
};

struct Guest {
  AddressSpace space;
  CpuModel cpu;
  StillVcpu vcpu;
  std::vector<Range> written;

  explicit Guest(CpuModelKind model = CpuModelKind::portable) : cpu(model) {
    REQUIRE(space.map_anonymous({kCode, kCode + kPageSize}, PROT_READ | PROT_EXEC, false) == 0);
    REQUIRE(space.map_anonymous({kData, kData + kPageSize}, PROT_READ | PROT_WRITE, false) == 0);
    vcpu.registers().rip = kCode;
    vcpu.registers().rflags |= rflags::kZero;
  }
  Registers& regs() { return vcpu.registers(); }

  // Puts the code there, patched as the scanner does, and answers it.
  std::optional<Exit> answer(const std::vector<uint8_t>& code, bool patched = true) {
    REQUIRE(space.write(kCode, code.data(), code.size()));
    const auto instruction = decode_trapped(code, cpu.kind());
    REQUIRE(instruction);
    if (patched) {
      CodePatch patch{.address = kCode, .instruction = *instruction};
      std::copy(code.begin(), code.end(), patch.original.begin());
      REQUIRE(space.apply_patch(patch));
    }
    const auto write = [this](uint64_t address, std::span<const std::byte> bytes) {
      if (!space.accessible(address, bytes.size(), PROT_WRITE)) return false;
      written.push_back({address, address + bytes.size()});
      return space.write(address, bytes.data(), bytes.size());
    };
    const TrappedSources sources{.cpu = cpu,
                                 .clock = 0x1122334455667788,
                                 .random = [] { return uint64_t{0xa1a2a3a4a5a6a7a8}; },
                                 .write = write};
    return answer_trapped(*instruction, sources, space, vcpu);
  }
};

}  // namespace

TEST_CASE("clocks, processor number and CPUID are answered in registers") {
  Guest guest;
  CHECK_FALSE(guest.answer({0x0f, 0x31}));  // rdtsc
  CHECK(guest.regs().rax == 0x55667788);
  CHECK(guest.regs().rdx == 0x11223344);
  CHECK(guest.regs().rip == kCode + 2);
  const auto next = [&](const std::vector<uint8_t>& code) {
    guest.regs().rip = kCode;
    CHECK_FALSE(guest.answer(code, false));
    CHECK(guest.regs().rip == kCode + code.size());
  };
  guest.regs() = {};
  guest.regs().rcx = guest.regs().r9 = 77;
  next({0x0f, 0x01, 0xf9});  // rdtscp
  CHECK(guest.regs().rcx == 0);
  CHECK(guest.regs().rdx == 0x11223344);
  next({0xf3, 0x41, 0x0f, 0xc7, 0xf9});  // rdpid r9
  CHECK(guest.regs().r9 == 0);
  guest.regs().rax = 0;
  next({0x0f, 0xa2});  // cpuid
  const CpuidResult expected = guest.cpu.cpuid(0, 0);
  CHECK(guest.regs().rax == expected.eax);
  CHECK(guest.regs().rbx == expected.ebx);
  CHECK(guest.regs().rcx == expected.ecx);
  CHECK(guest.regs().rdx == expected.edx);
}

TEST_CASE("random numbers fill the operand and no more than it") {
  struct Case {
    std::vector<uint8_t> code;
    uint64_t expected;
  };
  const std::vector<Case> cases = {{{0x48, 0x0f, 0xc7, 0xf3}, 0xa1a2a3a4a5a6a7a8},   // rdrand rbx
                                   {{0x0f, 0xc7, 0xfb}, 0xa5a6a7a8},                 // rdseed ebx
                                   {{0x66, 0x0f, 0xc7, 0xf3}, 0xffffffffffffa7a8}};  // rdrand bx
  for (const Case& c : cases) {
    Guest guest;
    guest.regs().rbx = ~uint64_t{0};
    CHECK_FALSE(guest.answer(c.code));
    CHECK(guest.regs().rbx == c.expected);
    CHECK((guest.regs().rflags & rflags::kStatus) == rflags::kCarry);
    CHECK(guest.regs().rip == kCode + c.code.size());
  }
}

TEST_CASE("FXSAVE stores what is the same on every processor, where the instruction says") {
  struct Case {
    std::vector<uint8_t> code;
    uint64_t rax, address;
  };
  const std::vector<Case> cases = {
      {{0x0f, 0xae, 0x00}, kData, kData},                            // fxsave [rax]
      {{0x67, 0x0f, 0xae, 0x00}, kData | uint64_t{1} << 63, kData},  // fxsave [eax]
      {{0x0f, 0xae, 0x40, 0x20}, kData, kData + 32},                 // fxsave [rax+32]
      {{0x0f, 0xae, 0x05, 0xf9, 0xff, 0, 0}, 0, kData},              // fxsave [rip+0xfff9]
      {{0x64, 0x0f, 0xae, 0x00}, 0x40, kData + 0x100 + 0x40}};       // fxsave fs:[rax]
  for (const Case& c : cases) {
    Guest guest;
    guest.regs().rax = c.rax;
    guest.regs().fs_base = kData + 0x100;
    FpuState fpu = FpuState::initial();
    fpu.fxsave[160] = std::byte{0x77};                                // XMM0
    for (size_t i = 6; i < 24; ++i) fpu.fxsave[i] = std::byte{0x55};  // FOP, FIP, FDP
    guest.vcpu.set_fpu(fpu);
    CHECK_FALSE(guest.answer(c.code));
    REQUIRE(guest.written.size() == 1);
    CHECK(guest.written[0].start == c.address);
    CHECK(guest.written[0].size() == 416);
    std::array<std::byte, 416> image{};
    REQUIRE(guest.space.read(c.address, image.data(), image.size()));
    CHECK(image[160] == std::byte{0x77});
    CHECK(image[6] == std::byte{0});
    CHECK(image[23] == std::byte{0});
    CHECK(guest.regs().rip == kCode + c.code.size());
  }
}

TEST_CASE("FXSAVE that can't be done changes nothing") {
  Guest guest;
  const Registers before = guest.regs();
  guest.regs().rax = kData + 8;
  CHECK(guest.answer({0x0f, 0xae, 0x00}) ==
        Exit{.kind = ExitKind::exception, .vector = vector::kGeneralProtection});
  guest.regs().rax = kData + kPageSize - 16;
  CHECK(guest.answer({0x0f, 0xae, 0x00}, false) ==
        Exit{.kind = ExitKind::memory_fault, .address = kData + kPageSize, .access = Access::write});
  guest.regs().rax = kCode + 0x100;
  CHECK(guest.answer({0x0f, 0xae, 0x00}, false) ==
        Exit{.kind = ExitKind::memory_fault, .address = kCode + 0x100, .access = Access::write});
  CHECK(guest.regs().rip == before.rip);
  CHECK(guest.written.empty());
}

TEST_CASE("FXSAVE in code that nobody has patched is read where it is") {
  Guest guest;
  guest.regs().rax = kData;
  CHECK(!guest.answer({0x0f, 0xae, 0x00}, false));
  CHECK(!guest.written.empty());
}

// --- XSAVE and XRSTOR, against this host's processor ---

namespace {

struct alignas(64) Area {
  std::array<std::byte, xsave::kSize> bytes{};
};

sigjmp_buf fault_jump;
void on_fault(int) { siglongjmp(fault_jump, 1); }

// With `state` in the registers, the instruction on `area`; the registers afterwards are `state`. False: it
// faults.
bool on_processor(bool restores, uint64_t components, Area& state, Area& area) {
  struct sigaction action {
  }, before{};
  action.sa_handler = on_fault;
  sigaction(SIGSEGV, &action, &before);
  volatile bool done = false;
  if (sigsetjmp(fault_jump, 1) == 0) {
    const auto low = static_cast<uint32_t>(components), high = static_cast<uint32_t>(components >> 32);
    uint32_t all = 7, none = 0;
    if (restores)
      asm volatile(
          "xrstor64 (%2)\n mov %4, %%eax\n mov %5, %%edx\n xrstor64 (%3)\n mov $7, %%eax\n xor %%edx, %%edx\n"
          "xsave64 (%2)\n vzeroupper\n fninit"
          : "+a"(all), "+d"(none)
          : "r"(&state), "r"(&area), "r"(low), "r"(high)
          : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
            "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    else
      asm volatile("xrstor64 (%2)\n mov %4, %%eax\n mov %5, %%edx\n xsave64 (%3)\n vzeroupper\n fninit"
                   : "+a"(all), "+d"(none)
                   : "r"(&state), "r"(&area), "r"(low), "r"(high)
                   : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                     "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    done = true;
  }
  asm volatile("fninit");
  const uint32_t mxcsr = 0x1f80;
  asm volatile("ldmxcsr %0" ::"m"(mxcsr));
  sigaction(SIGSEGV, &before, nullptr);
  return done;
}

FpuState random_fpu(std::mt19937_64& random) {
  FpuState state = FpuState::initial();
  for (size_t i = 0; i < 256; ++i) {
    state.fxsave[xsave::kXmm0 + i] = std::byte(random());
    state.upper[i] = std::byte(random());
  }
  for (size_t i = 0; i < 8; ++i)
    for (size_t j = 0; j < 10; ++j) state.fxsave[xsave::kSt0 + 16 * i + j] = std::byte(random());
  state.fxsave[4] = std::byte(random());
  state.fxsave[1] = std::byte(3 | (random() & 0xc));
  state.fxsave[xsave::kMxcsr + 1] = std::byte(0x1f | (random() & 0xe0));
  return state;
}

Area area_of(const FpuState& state) {
  Area area;
  std::ranges::copy(state.fxsave, area.bytes.begin());
  std::memcpy(&area.bytes[xsave::kHeader], &xsave::kAll, sizeof xsave::kAll);
  std::ranges::copy(state.upper, &area.bytes[xsave::kUpper]);
  return area;
}

FpuState state_of(const Area& area) {
  FpuState state = FpuState::of_image(area.bytes.data());
  std::copy_n(&area.bytes[xsave::kUpper], xsave::kUpperSize, state.upper.begin());
  return state;
}

bool lacks_v3() {
  try {
    require_host(CpuModelKind::v3);
    return false;
  } catch (const Error& error) {
    std::cout << "SKIPPED: " << error.what() << std::endl;
    return true;
  }
}

// At kData, [RSI].
const std::vector<uint8_t> kXsave = {0x48, 0x0f, 0xae, 0x26}, kXrstor = {0x48, 0x0f, 0xae, 0x2e};

}  // namespace

TEST_CASE("XRSTOR does what the processor does") {
  if (lacks_v3()) return;
  std::mt19937_64 random(20261127);
  unsigned faults = 0;
  for (int round = 0; round < 2000; ++round) {
    INFO("round " << round);
    const FpuState before = random_fpu(random);
    Area state = area_of(before), area = area_of(random_fpu(random));
    const uint64_t there = random() % 8;
    std::memcpy(&area.bytes[xsave::kHeader], &there, sizeof there);
    // Sometimes what must not be: a component too many, XCOMP_BV, what is reserved behind it and in MXCSR.
    constexpr size_t kBad[] = {xsave::kHeader + 1,  xsave::kHeader + 8,  xsave::kHeader + 15,
                               xsave::kHeader + 16, xsave::kHeader + 23, xsave::kMxcsr + 2};
    if (random() % 8 == 0) area.bytes[kBad[random() % std::size(kBad)]] = std::byte{4};
    const uint64_t components = random() % 8;
    Guest guest(CpuModelKind::v3);
    REQUIRE(guest.space.write(kData, area.bytes.data(), area.bytes.size()));
    guest.vcpu.set_fpu(before);
    guest.regs().rsi = kData;
    guest.regs().rax = components;
    const auto fault = guest.answer(kXrstor);
    const bool done = on_processor(true, components, state, area);
    CHECK(done == !fault.has_value());
    if (!done) {
      ++faults;
      continue;
    }
    FpuState expected = state_of(state), actual = guest.vcpu.fpu();
    CHECK(canonical_fpu(expected) == canonical_fpu(actual));
    CHECK(std::memcmp(&expected.fxsave[xsave::kMxcsr], &actual.fxsave[xsave::kMxcsr], 4) == 0);
  }
  CHECK(faults > 100);
}

TEST_CASE("XSAVE stores what the processor stores, with all in use") {
  if (lacks_v3()) return;
  std::mt19937_64 random(20261128);
  for (int round = 0; round < 1000; ++round) {
    INFO("round " << round);
    const FpuState before = random_fpu(random);
    Area state = area_of(before), expected, actual;
    for (std::byte& byte : expected.bytes) byte = std::byte(random());
    const uint64_t components = random() % 8;
    Guest guest(CpuModelKind::v3);
    REQUIRE(guest.space.write(kData, expected.bytes.data(), expected.bytes.size()));
    uint64_t there = 0;
    std::memcpy(&there, &expected.bytes[xsave::kHeader], sizeof there);
    guest.vcpu.set_fpu(before);
    guest.regs().rsi = kData;
    guest.regs().rax = components | 0x100;  // what the model has not is not stored
    CHECK_FALSE(guest.answer(kXsave));
    REQUIRE(guest.space.read(kData, actual.bytes.data(), actual.bytes.size()));
    REQUIRE(on_processor(false, components, state, expected));
    uint64_t stored = 0;
    std::memcpy(&stored, &actual.bytes[xsave::kHeader], sizeof stored);
    CHECK(stored == (there | components));
    // What the last x87 instruction was, the mask of MXCSR, and what is in use.
    for (Area* area : {&expected, &actual}) {
      if ((components & xsave::kX87) != 0) std::fill_n(&area->bytes[6], xsave::kMxcsr - 6, std::byte{0});
      std::fill_n(&area->bytes[xsave::kMxcsrMask], 4, std::byte{0});
      std::fill_n(&area->bytes[xsave::kHeader], 8, std::byte{0});
    }
    CHECK(expected.bytes == actual.bytes);
  }
}

TEST_CASE("XSAVE and XRSTOR fault before they have done anything") {
  Guest guest(CpuModelKind::v3);
  const auto faults = [&](const std::vector<uint8_t>& code, uint64_t address) {
    guest.regs().rip = kCode;
    guest.regs().rsi = address;
    guest.regs().rax = 7;
    const auto fault = guest.answer(code, false);
    REQUIRE(fault);
    CHECK(guest.regs().rip == kCode);
    return *fault;
  };
  const Exit general{.kind = ExitKind::exception, .vector = vector::kGeneralProtection};
  for (const auto& code : {kXsave, kXrstor}) {
    const Access access = code == kXsave ? Access::write : Access::read;
    CHECK(faults(code, kData + 16) == general);
    CHECK(faults(code, uint64_t{1} << 62) == general);
    CHECK(faults(code, kData - kPageSize) ==
          Exit{.kind = ExitKind::memory_fault, .address = kData - kPageSize, .access = access});
    // XRSTOR looks behind the header only for what is there.
    constexpr uint64_t kLast = kData + kPageSize - 576;
    const uint8_t all = 7;
    REQUIRE(guest.space.write(kLast + xsave::kHeader, &all, 1));
    CHECK(faults(code, kLast) ==
          Exit{.kind = ExitKind::memory_fault, .address = kData + kPageSize, .access = access});
  }
  CHECK(guest.written.empty());
  CHECK(faults({0x0f, 0xae, 0x36}, kData) ==
        Exit{.kind = ExitKind::exception, .vector = vector::kInvalidOpcode});
  guest.regs().rcx = 1;
  CHECK(faults({0x0f, 0x01, 0xd0}, kData) == general);  // XGETBV
  guest.regs().rcx = uint64_t{1} << 32;
  CHECK_FALSE(guest.answer({0x0f, 0x01, 0xd0}, false));
  CHECK(guest.regs().rax == 7);
  CHECK(guest.regs().rdx == 0);
}

}  // namespace aftercheck
