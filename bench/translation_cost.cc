// What code costs when it is executed for the first time: generated code of a typical mix, once, and then
// again in the same machine. usage: translation_cost MACHINE [INSTRUCTIONS [RUNS]]; prints two lines, each a
// name, the nanoseconds of processor time per instruction (first time less again, median of RUNS new
// machines), and those of again:
//   straight: no branch is taken, and each instruction is translated once, however far blocks go.
//   branching: half of the conditional branches are taken, and there are calls. Per executed instruction;
//   some are translated in vain or twice.
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <random>
#include <vector>

#include "bench/machine_by_name.h"

namespace aftercheck {
namespace {

// Where programs are.
constexpr uint64_t kCode = kMainWindow.start + 0x100'0000, kData = kCode + 0x1000'0000,
                   kStack = kData + 0x1000'0000;
constexpr uint64_t kDataSize = 64 << 10, kStackSize = 64 << 10;

// Writes code that is executed from its start to a system call at its end. RBX holds kData.
class Generator {
 public:
  explicit Generator(bool branching) : branching_(branching) {}

  // At least so many instructions are executed.
  void write(size_t instructions) {
    constexpr size_t kBetweenBranches = 5, kGroupsBetweenCalls = 4;
    for (size_t group = 1; executed_ < instructions; ++group) {
      for (size_t i = 0; i < kBetweenBranches; ++i) plain();
      conditional();
      if (branching_ && group % kGroupsBetweenCalls == 0) call();
    }
    bytes({0x0f, 0x05});
    ++executed_;
  }
  const std::vector<uint8_t>& code() const { return code_; }
  size_t executed() const { return executed_; }

 private:
  const bool branching_;
  std::vector<uint8_t> code_;
  size_t executed_ = 0;
  std::minstd_rand random_{1};  // any seed would do; the same for everybody

  void bytes(std::initializer_list<uint8_t> list) { code_.insert(code_.end(), list); }
  void word(uint32_t value) {
    for (int i = 0; i < 4; ++i) code_.push_back(static_cast<uint8_t>(value >> (8 * i)));
  }
  uint8_t upto(unsigned end) { return static_cast<uint8_t>(random_() % end); }
  // RAX, RCX, RDX, RSI, RDI: what is not needed
  uint8_t reg() {
    constexpr uint8_t kFree[] = {0, 1, 2, 6, 7};
    return kFree[upto(std::size(kFree))];
  }
  uint8_t registers() { return static_cast<uint8_t>(0xc0 | reg() << 3 | reg()); }  // ModRM
  uint8_t near_rbx(uint8_t reg) { return static_cast<uint8_t>(0x43 | reg << 3); }  // ModRM; disp8
  uint8_t displacement() { return static_cast<uint8_t>(8 * upto(15)); }

  // Moves are two fifths, a third of all has an operand in memory: about what compiled code has.
  void plain() {
    ++executed_;
    switch (upto(18)) {
      case 0:
        return bytes({0x48, 0x89, registers()});  // mov r64, r64
      case 1:
        return bytes({0x89, registers()});  // mov r32, r32
      case 2:
        return bytes({0x8b, near_rbx(reg()), displacement()});  // mov r32, [rbx + disp8]
      case 3:
        return bytes({0x48, 0x8b, near_rbx(reg()), displacement()});  // mov r64, [rbx + disp8]
      case 4:
        return bytes({0x48, 0x89, near_rbx(reg()), displacement()});  // mov [rbx + disp8], r64
      case 5:
        return bytes({0x89, near_rbx(reg()), displacement()});  // mov [rbx + disp8], r32
      case 6:                                                   // mov r64, [rip + disp32]
        bytes({0x48, 0x8b, static_cast<uint8_t>(0x05 | reg() << 3)});
        return word(static_cast<uint32_t>(kData + displacement() - (kCode + code_.size() + 4)));
      case 7:  // mov r32, imm32
        bytes({static_cast<uint8_t>(0xb8 | reg())});
        return word(static_cast<uint32_t>(random_()));
      case 8:  // lea r64, [rax + rcx * 4 + disp8]
        return bytes({0x48, 0x8d, static_cast<uint8_t>(0x44 | reg() << 3), 0x88, displacement()});
      case 9:
        return bytes({0x48, 0x8d, near_rbx(reg()), displacement()});  // lea r64, [rbx + disp8]
      case 10:
        return bytes({0x48, 0x01, registers()});  // add r64, r64
      case 11:
        return bytes({0x48, 0x83, static_cast<uint8_t>(0xe8 | reg()), upto(128)});  // sub r64, imm8
      case 12:
        return bytes({0x31, registers()});  // xor r32, r32
      case 13:
        return bytes({0x0f, 0xb6, near_rbx(reg()), displacement()});  // movzx r32, byte [rbx + disp8]
      case 14:
        return bytes({0x48, 0xc1, static_cast<uint8_t>(0xe0 | reg()), upto(64)});  // shl r64, imm8
      case 15:
        return bytes({0x48, 0x3b, near_rbx(reg()), displacement()});  // cmp r64, [rbx + disp8]
      case 16:
        return bytes({0x0f, 0x10, near_rbx(upto(8)), displacement()});  // movups xmm, [rbx + disp8]
      default:
        return bytes({0x0f, 0xaf, registers()});  // imul r32, r32
    }
  }

  void conditional() {
    const bool taken = branching_ && upto(2) == 0;
    executed_ += taken ? 2 : 3;
    bytes({0x48, 0x85, 0xdb});                                 // test rbx, rbx
    bytes({static_cast<uint8_t>(taken ? 0x75 : 0x74), 0x03});  // jnz, jz +3
    bytes({0x48, 0x89, registers()});                          // what is jumped over
  }

  // A function that is called once, by what is before it, and gone round then.
  void call() {
    constexpr size_t kInside = 4;
    bytes({0xe8, 2, 0, 0, 0});  // call +2
    bytes({0xeb, 0});           // jmp over the function
    const size_t start = code_.size();
    for (size_t i = 0; i < kInside; ++i) plain();
    bytes({0xc3});
    code_[start - 1] = static_cast<uint8_t>(code_.size() - start);
    executed_ += 3;
  }
};

struct Times {
  double first, again;  // nanoseconds per executed instruction
};

// Nanoseconds of processor time that this thread has had.
double used() {
  timespec time{};
  if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) != 0)
    fail(ErrorKind::host_lacks, "clock_gettime: {}", errno_text(errno));
  constexpr double kSecond = 1e9;
  return static_cast<double>(time.tv_sec) * kSecond + static_cast<double>(time.tv_nsec);
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

Times times(MachineChoice choice, const Generator& generator) {
  AddressSpace space;
  const CpuModel cpu(CpuModelKind::portable);
  const auto machine = create_machine(choice, space, cpu);
  const auto vcpu = machine->create_vcpu();
  const std::vector<uint8_t>& code = generator.code();
  const Range range{kCode, page_up(kCode + code.size())};
  space.map_anonymous(range, PROT_READ | PROT_WRITE, false);
  space.write(kCode, code.data(), code.size());
  space.protect(range, PROT_READ | PROT_EXEC);
  for (const Range data : {Range{kData, kData + kDataSize}, Range{kStack, kStack + kStackSize}}) {
    space.map_anonymous(data, PROT_READ | PROT_WRITE, false);
    const std::vector<uint8_t> zeros(data.size());
    space.write(data.start, zeros.data(), zeros.size());
  }
  const auto once = [&] {
    vcpu->registers().rip = kCode;
    vcpu->registers().rbx = kData;
    vcpu->registers().rsp = kStack + kStackSize;
    const double start = used();
    const Exit exit = vcpu->run();
    const double spent = used() - start;
    if (exit.kind != ExitKind::syscall)
      fail(ErrorKind::internal, "the generated code stopped at {:#x}", vcpu->registers().rip);
    return spent / static_cast<double>(generator.executed());
  };
  const double first = once();
  std::vector<double> again(5);
  std::ranges::generate(again, once);
  return {first, median(again)};
}

void measure(MachineChoice choice, bool branching, size_t instructions, int runs) {
  Generator generator(branching);
  generator.write(instructions);
  std::vector<double> cost, again;
  for (int i = 0; i < runs; ++i) {
    const Times took = times(choice, generator);
    cost.push_back(took.first - took.again);
    again.push_back(took.again);
  }
  std::printf("%s %.1f %.2f\n", branching ? "branching" : "straight", median(cost), median(again));
}

}  // namespace
}  // namespace aftercheck

int main(int argc, char** argv) try {
  using namespace aftercheck;
  if (argc < 2) fail(ErrorKind::usage, "usage: translation_cost MACHINE [INSTRUCTIONS [RUNS]]");
  const MachineChoice choice = machine_by_name(argv[1]);
  const long instructions = argc > 2 ? std::atol(argv[2]) : 200'000, runs = argc > 3 ? std::atol(argv[3]) : 5;
  // Code and data are a fixed distance apart.
  if (instructions < 1 || instructions > 10'000'000 || runs < 1 || runs > 1000)
    fail(ErrorKind::usage, "at most 10,000,000 instructions and 1000 runs");
  for (const bool branching : {false, true})
    measure(choice, branching, static_cast<size_t>(instructions), static_cast<int>(runs));
  return 0;
} catch (const aftercheck::Error& error) {
  std::fprintf(stderr, "translation_cost: %s\n", error.what());
  return exit_status(error.kind());
}
