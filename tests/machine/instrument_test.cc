// What instruments are told beyond what random programs show (random_story.h): much at once, no more than
// they want, and from one run to the next.
#include "machine/instrument.h"

#include <sys/mman.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <thread>
#include <vector>

#include "machine/vcpu.h"

namespace aftercheck {
namespace {

constexpr uint64_t kCode = kMainWindow.start + 0x10000, kData = kMainWindow.start + 0x40000;
constexpr int kRw = PROT_READ | PROT_WRITE;
using Kind = Executed::Kind;

// Adds up what can be added up.
class Sums : public Instrument {
 public:
  explicit Sums(const Wants& wants) : wants_(wants) {}
  Wants wants() const override { return wants_; }
  void executed(std::span<const Executed> all) override {
    for (const Executed& one : all) {
      ++count[static_cast<size_t>(one.kind)];
      if (one.kind == Kind::load || one.kind == Kind::store) places += one.to - kData;
      if (one.kind == Kind::block) code += one.to - one.address;
      taken += one.taken ? 1 : 0;
      last = one;
    }
  }
  uint64_t of(Kind kind) const { return count[static_cast<size_t>(kind)]; }

  std::array<uint64_t, 9> count{};
  uint64_t places = 0, code = 0, taken = 0;
  Executed last;

 private:
  const Wants wants_;
};

constexpr uint64_t kTurns = 150'000;  // more than there is room for
const std::vector<uint8_t> kLoop = {
    0xb9, 0xf0, 0x49, 0x02, 0x00,  // 00 mov ecx, 150000
    0x48, 0x8b, 0x06,              // 05 mov rax, [rsi]
    0x00, 0x4e, 0x08,              // 08 add [rsi + 8], cl
    0xe8, 0x06, 0,    0,    0,     // 0b call 16
    0xff, 0xc9,                    // 10 dec ecx
    0x75, 0xf1,                    // 12 jnz 05
    0x0f, 0x05,                    // 14 syscall
    0xff, 0x76, 0x10,              // 16 push [rsi + 10]
    0x8f, 0x46, 0x18,              // 19 pop [rsi + 18]
    0xc3,                          // 1c ret
};
constexpr uint64_t kStack = 0x7f00, kTurnCode = 0x1d - 5 - 2;  // bytes of a turn

struct Guest {
  AddressSpace space;
  std::unique_ptr<Machine> machine;
  std::unique_ptr<Vcpu> vcpu;

  explicit Guest(BranchCounts counts = BranchCounts::automatic, const std::vector<uint8_t>& code = kLoop)
      : machine(create_translated_machine(space, CpuModel(CpuModelKind::portable), counts)) {
    REQUIRE(space.map_anonymous({kCode, kCode + kPageSize}, kRw | PROT_EXEC, false) == 0);
    REQUIRE(space.map_anonymous({kData, kData + 0x8000}, kRw, false) == 0);
    REQUIRE(space.write(kCode, code.data(), code.size()));
    vcpu = machine->create_vcpu();
    vcpu->set_fpu(FpuState::initial());
    begin();
  }
  void begin() const {
    vcpu->registers().rsp = kData + kStack;
    vcpu->registers().rip = kCode;
    vcpu->registers().rsi = kData;
  }
};

void check_all(const Sums& sums) {
  // Of the last turn there are SYSCALL and the code before the loop, too.
  CHECK(sums.code == 5 + kTurns * kTurnCode + 2);
  CHECK(sums.of(Kind::conditional) == kTurns);
  CHECK(sums.taken == kTurns - 1);
  CHECK(sums.of(Kind::call) == kTurns);
  CHECK(sums.of(Kind::ret) == kTurns);
  CHECK(sums.of(Kind::load) == kTurns * 4);
  CHECK(sums.of(Kind::store) == kTurns * 4);
  // CALL and RET at one place; the other two below.
  CHECK(sums.places == kTurns * (0 + 8 + 0x10 + 0x18 + 2 * (kStack - 8) + 2 * (kStack - 0x10)));
}

}  // namespace

TEST_CASE("instruments: a hundred thousand turns are told to the last access") {
  const BranchCounts counts = GENERATE(BranchCounts::automatic, BranchCounts::in_memory);
  const Guest guest(counts);
  Sums sums({.blocks = true, .branches = true, .accesses = true});
  REQUIRE(guest.vcpu->set_instrument(&sums));
  SECTION("at once") {
    CHECK(guest.vcpu->run().kind == ExitKind::syscall);
    check_all(sums);
    CHECK(guest.vcpu->branches() == 2 * kTurns);
  }
  SECTION("with kicks") {
    std::atomic<bool> done = false;
    std::thread kicker([&] {
      // Not for ever: a slow host might do nothing between two.
      for (int kicks = 0; !done && kicks < 2000; ++kicks) {
        guest.vcpu->kick();
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    });
    Exit exit;
    do exit = guest.vcpu->run();
    while (exit.kind == ExitKind::kick);
    done = true;
    kicker.join();
    CHECK(exit.kind == ExitKind::syscall);
    check_all(sums);
  }
  SECTION("stopped in between") {
    for (uint64_t branches = 1000; branches < 2 * kTurns; branches += 50'000) {
      CHECK(guest.vcpu->run_until(branches, kCode + 0x12).kind == ExitKind::kick);
      CHECK(guest.vcpu->branches() == branches + 1);
    }
    CHECK(guest.vcpu->run().kind == ExitKind::syscall);
    check_all(sums);
  }
  guest.vcpu->set_instrument(nullptr);
}

TEST_CASE("instruments are told what they want, from one run to the next, and no more") {
  const Guest guest;
  Sums none({}), blocks({.blocks = true}), branches({.branches = true}), accesses({.accesses = true});
  for (Sums* sums : {&none, &blocks, &branches, &accesses}) {
    REQUIRE(guest.vcpu->set_instrument(sums));
    guest.begin();
    CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  }
  REQUIRE(guest.vcpu->set_instrument(nullptr));
  guest.begin();
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(none.count == std::array<uint64_t, 9>{});
  CHECK(blocks.code == 5 + kTurns * kTurnCode + 2);
  CHECK(blocks.of(Kind::call) + blocks.of(Kind::load) == 0);
  CHECK(branches.of(Kind::ret) == kTurns);
  CHECK(branches.of(Kind::block) + branches.of(Kind::load) == 0);
  CHECK(accesses.of(Kind::store) == kTurns * 4);
  CHECK(accesses.of(Kind::block) + accesses.of(Kind::call) == 0);
}

TEST_CASE("instruments are not told of what faults") {
  // mov rax, [rsi]; push [rsi + 0x8000]
  const std::vector<uint8_t> code = {0x48, 0x8b, 0x06, 0xff, 0xb6, 0, 0x80, 0, 0};
  const Guest guest(BranchCounts::automatic, code);
  Sums sums({.blocks = true, .branches = true, .accesses = true});
  REQUIRE(guest.vcpu->set_instrument(&sums));
  CHECK(guest.vcpu->run().kind == ExitKind::memory_fault);
  CHECK(sums.of(Kind::load) == 1);
  CHECK(sums.of(Kind::store) == 0);
  CHECK(sums.code == 3);
  // Mapped, it is executed, and told once.
  REQUIRE(
      const_cast<AddressSpace&>(guest.space).map_anonymous({kData + 0x8000, kData + 0x9000}, kRw, false) ==
      0);
  CHECK(guest.vcpu->run().kind == ExitKind::memory_fault);  // what lies behind is all zeros: add [rax], al
  CHECK(sums.of(Kind::load) == 2);
  CHECK(sums.of(Kind::store) == 1);
  CHECK(sums.last.to == kData + kStack - 8);
  guest.vcpu->set_instrument(nullptr);
}

TEST_CASE("instruments and a control flow can be told of the same run") {
  class Flow : public ControlFlow {
   public:
    void branches(std::span<const BranchRun> runs) override {
      for (const BranchRun& run : runs) count += run.count + (run.indirect ? 1 : 0);
    }
    void lost(uint64_t) override { FAIL("lost"); }
    uint64_t count = 0;
  } flow;
  const Guest guest;
  Sums sums({.blocks = true, .branches = true, .accesses = true});
  REQUIRE(guest.vcpu->set_instrument(&sums));
  REQUIRE(guest.vcpu->set_control_flow(&flow));
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  check_all(sums);
  CHECK(flow.count == 2 * kTurns);
  REQUIRE(guest.vcpu->set_control_flow(nullptr));
  guest.begin();
  CHECK(guest.vcpu->run().kind == ExitKind::syscall);
  CHECK(sums.of(Kind::ret) == 2 * kTurns);
  CHECK(flow.count == 2 * kTurns);
  guest.vcpu->set_instrument(nullptr);
}

TEST_CASE("the soft vCPU has no instruments, and says so") {
  AddressSpace space;
  const auto machine = create_soft_machine(space, CpuModel(CpuModelKind::portable));
  const auto vcpu = machine->create_vcpu();
  Sums sums({.blocks = true});
  CHECK_FALSE(vcpu->set_instrument(&sums));
  CHECK(vcpu->set_instrument(nullptr));
}

}  // namespace aftercheck
