// What trapped instructions do, without a machine.
#include "machine/trapped_answer.h"

#include <sys/mman.h>

#include <catch2/catch.hpp>
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
  CpuModel cpu{CpuModelKind::portable};
  StillVcpu vcpu;
  std::vector<Range> written;

  Guest() {
    REQUIRE(space.map_anonymous({kCode, kCode + kPageSize}, PROT_READ | PROT_EXEC, false) == 0);
    REQUIRE(space.map_anonymous({kData, kData + kPageSize}, PROT_READ | PROT_WRITE, false) == 0);
    vcpu.registers().rip = kCode;
    vcpu.registers().rflags |= rflags::kZero;
  }
  Registers& regs() { return vcpu.registers(); }

  // Puts the code there, patched as the scanner does, and answers it.
  std::optional<Exit> answer(const std::vector<uint8_t>& code, bool patched = true) {
    REQUIRE(space.write(kCode, code.data(), code.size()));
    const auto instruction = decode_trapped(code);
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

TEST_CASE("FXSAVE in code that nobody has patched is refused") {
  Guest guest;
  guest.regs().rax = kData;
  CHECK_THROWS_WITH(guest.answer({0x0f, 0xae, 0x00}, false), Catch::Contains("made at run time"));
  CHECK(guest.written.empty());
}

}  // namespace aftercheck
