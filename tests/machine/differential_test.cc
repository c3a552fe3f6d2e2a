// The soft vCPU, and the translated machine, against this host's processor: the same instruction on the same
// random operands; of what the v3 model has more, KVM, too. Not-a-numbers and denormals-are-zero are left
// out, where Unicorn is known to differ (machine/soft/README.md), and of the flags of MXCSR the denormal one.
#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <random>

#include "tests/machine/machines.h"

namespace aftercheck {
namespace {

using Code = std::vector<uint8_t>;

// RAX, RCX, RDX, RBX, RSI, RDI, R8, RFLAGS.
struct State {
  std::array<uint64_t, 8> words{};
  FpuState fpu;
  std::array<uint64_t, 4> memory{};  // at RSI
};

constexpr uint64_t kCode = kMainWindow.start + 0x10000, kMemory = kMainWindow.start + 0x20000;

void append(Code& to, std::initializer_list<Code> parts) {
  for (const Code& part : parts) to.insert(to.end(), part.begin(), part.end());
}

class Native {
 public:
  explicit Native(CpuModelKind model = CpuModelKind::portable)
      : wide_(model == CpuModelKind::v3),
        stub_(static_cast<uint8_t*>(mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE | PROT_EXEC,
                                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    REQUIRE(stub_ != MAP_FAILED);
  }
  ~Native() { munmap(stub_, kPageSize); }
  Native(const Native&) = delete;
  Native& operator=(const Native&) = delete;

  void run(const Code& instruction, State& state) {
    Code code;
    append(code, {{0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57},  // push rbx, rbp, r12-r15
                  {0x49, 0x89, 0xff, 0x49, 0x89, 0xf6},                          // mov r15, rdi; mov r14, rsi
                  wide_ ? Code{0xb8, 7, 0, 0, 0, 0x31, 0xd2, 0x49, 0x0f, 0xae, 0x2e}
                        // mov eax, 7; xor edx, edx; xrstor64 [r14]
                        : Code{0x49, 0x0f, 0xae, 0x0e},  // fxrstor64 [r14]
                  {0x41, 0xff, 0x77, 0x38, 0x9d},        // push [r15+56]; popfq
                  {0x49, 0x8b, 0x07, 0x49, 0x8b, 0x4f, 0x08, 0x49, 0x8b, 0x57, 0x10, 0x49, 0x8b, 0x5f, 0x18},
                  {0x49, 0x8b, 0x77, 0x20, 0x49, 0x8b, 0x7f, 0x28, 0x4d, 0x8b, 0x47, 0x30},
                  instruction,
                  {0x49, 0x89, 0x07, 0x49, 0x89, 0x4f, 0x08, 0x49, 0x89, 0x57, 0x10, 0x49, 0x89, 0x5f, 0x18},
                  {0x49, 0x89, 0x77, 0x20, 0x49, 0x89, 0x7f, 0x28, 0x4d, 0x89, 0x47, 0x30},
                  {0x9c, 0x41, 0x8f, 0x47, 0x38},  // pushfq; pop [r15+56]
                  wide_ ? Code{0xb8, 7, 0, 0, 0, 0x31, 0xd2, 0x49, 0x0f, 0xae, 0x26, 0xc5, 0xf8, 0x77}
                        // ...; xsave64 [r14]; vzeroupper
                        : Code{0x49, 0x0f, 0xae, 0x06},  // fxsave64 [r14]
                  {0xdb, 0xe3, 0xfc},                    // fninit; cld
                  {0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3}});
    std::memcpy(stub_, code.data(), code.size());
    std::memcpy(reinterpret_cast<void*>(kMemory), state.memory.data(), sizeof state.memory);
    alignas(64) std::array<std::byte, xsave::kSize> area{};
    std::memcpy(area.data(), state.fpu.fxsave.data(), state.fpu.fxsave.size());
    std::memcpy(&area[xsave::kHeader], &xsave::kAll, sizeof xsave::kAll);
    std::memcpy(&area[xsave::kUpper], state.fpu.upper.data(), xsave::kUpperSize);
    reinterpret_cast<void (*)(uint64_t*, void*)>(stub_)(state.words.data(), area.data());
    std::memcpy(state.fpu.fxsave.data(), area.data(), state.fpu.fxsave.size());
    std::memcpy(state.fpu.upper.data(), &area[xsave::kUpper], xsave::kUpperSize);
    const uint32_t mxcsr = 0x1f80;  // QEMU's emulation relies on the host's default
    asm volatile("ldmxcsr %0" ::"m"(mxcsr));
    std::memcpy(state.memory.data(), reinterpret_cast<void*>(kMemory), sizeof state.memory);
  }

 private:
  const bool wide_;
  uint8_t* stub_;
};

class Compared {
 public:
  explicit Compared(MachineKind kind, CpuModelKind model = CpuModelKind::portable)
      : machine_(make_machine(kind, space_, CpuModel(model))), vcpu_(machine_->create_vcpu()) {
    REQUIRE(space_.map_anonymous({kCode, kCode + kPageSize}, PROT_READ | PROT_EXEC, false) == 0);
    REQUIRE(space_.map_anonymous({kMemory, kMemory + kPageSize}, PROT_READ | PROT_WRITE, false) == 0);
  }
  Exit run(const Code& instruction, State& state) {
    Code code = instruction;
    code.push_back(0xcc);
    REQUIRE(space_.write(kCode, code.data(), code.size()));
    std::memcpy(reinterpret_cast<void*>(kMemory), state.memory.data(), sizeof state.memory);
    Registers& r = vcpu_->registers();
    r = Registers();
    const std::array<uint64_t*, 8> places = {&r.rax, &r.rcx, &r.rdx, &r.rbx,
                                             &r.rsi, &r.rdi, &r.r8,  &r.rflags};
    for (size_t i = 0; i < places.size(); ++i) *places[i] = state.words[i];
    r.rip = kCode;
    vcpu_->set_fpu(state.fpu);
    const Exit exit = vcpu_->run();
    for (size_t i = 0; i < places.size(); ++i) state.words[i] = *places[i];
    state.fpu = vcpu_->fpu();
    std::memcpy(state.memory.data(), reinterpret_cast<void*>(kMemory), sizeof state.memory);
    return exit;
  }

 private:
  AddressSpace space_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<Vcpu> vcpu_;
};

struct Family {
  const char* name;
  Code opcode;  // followed by ModRM: XMM0, XMM1 or XMM1, [RSI]
  bool immediate = false;
  uint64_t flags = 0;  // status flags that the instruction defines
};

const std::vector<Family>& families() {
  constexpr uint64_t kAll = rflags::kStatus;
  static const std::vector<Family> all = {
      {"addps", {0x0f, 0x58}},
      {"mulpd", {0x66, 0x0f, 0x59}},
      {"subss", {0xf3, 0x0f, 0x5c}},
      {"divsd", {0xf2, 0x0f, 0x5e}},
      {"sqrtps", {0x0f, 0x51}},
      {"rcpps", {0x0f, 0x53}},
      {"rcpss", {0xf3, 0x0f, 0x53}},
      {"rsqrtps", {0x0f, 0x52}},
      {"rsqrtss", {0xf3, 0x0f, 0x52}},
      {"minpd", {0x66, 0x0f, 0x5d}},
      {"cmpps", {0x0f, 0xc2}, true},
      {"comisd", {0x66, 0x0f, 0x2f}, false, kAll},
      {"cvtps2dq", {0x66, 0x0f, 0x5b}},
      {"cvttpd2dq", {0x66, 0x0f, 0xe6}},
      {"cvtsd2si", {0xf2, 0x48, 0x0f, 0x2d}},
      {"cvtsi2ss", {0xf3, 0x48, 0x0f, 0x2a}},
      {"haddpd", {0x66, 0x0f, 0x7c}},
      {"addsubps", {0xf2, 0x0f, 0xd0}},
      {"dpps", {0x66, 0x0f, 0x3a, 0x40}, true},
      {"dppd", {0x66, 0x0f, 0x3a, 0x41}, true},
      {"roundpd", {0x66, 0x0f, 0x3a, 0x09}, true},
      {"roundps", {0x66, 0x0f, 0x3a, 0x08}, true},
      {"roundsd", {0x66, 0x0f, 0x3a, 0x0b}, true},
      {"roundss", {0x66, 0x0f, 0x3a, 0x0a}, true},
      {"divps", {0x0f, 0x5e}},
      {"mulss", {0xf3, 0x0f, 0x59}},
      {"sqrtsd", {0xf2, 0x0f, 0x51}},
      {"ucomiss", {0x0f, 0x2e}, false, kAll},
      {"cvtpd2ps", {0x66, 0x0f, 0x5a}},
      {"cvtsd2ss", {0xf2, 0x0f, 0x5a}},
      {"cvtps2pd", {0x0f, 0x5a}},
      {"cvtdq2ps", {0x0f, 0x5b}},
      {"cvttss2si", {0xf3, 0x0f, 0x2c}},
      {"bsf, 32 bits", {0x0f, 0xbc}, false, rflags::kZero},
      {"bsr, 32 bits", {0x0f, 0xbd}, false, rflags::kZero},
      {"f3 f2 addsd", {0xf3, 0xf2, 0x0f, 0x58}},
      {"66 f3 mulss", {0x66, 0xf3, 0x0f, 0x59}},
      {"pshufb", {0x66, 0x0f, 0x38, 0x00}},
      {"pmaddubsw", {0x66, 0x0f, 0x38, 0x04}},
      {"pmulhrsw", {0x66, 0x0f, 0x38, 0x0b}},
      {"ptest", {0x66, 0x0f, 0x38, 0x17}, false, kAll},
      {"phminposuw", {0x66, 0x0f, 0x38, 0x41}},
      {"mpsadbw", {0x66, 0x0f, 0x3a, 0x42}, true},
      {"palignr", {0x66, 0x0f, 0x3a, 0x0f}, true},
      {"pclmulqdq", {0x66, 0x0f, 0x3a, 0x44}, true},
      {"pcmpestrm", {0x66, 0x0f, 0x3a, 0x60}, true, kAll},
      {"pcmpestri", {0x66, 0x0f, 0x3a, 0x61}, true, kAll},
      {"pcmpistrm", {0x66, 0x0f, 0x3a, 0x62}, true, kAll},
      {"pcmpistri", {0x66, 0x0f, 0x3a, 0x63}, true, kAll},
      {"aesenc", {0x66, 0x0f, 0x38, 0xdc}},
      {"aesdeclast", {0x66, 0x0f, 0x38, 0xdf}},
      {"aesimc", {0x66, 0x0f, 0x38, 0xdb}},
      {"aeskeygenassist", {0x66, 0x0f, 0x3a, 0xdf}, true},
      {"crc32", {0xf2, 0x48, 0x0f, 0x38, 0xf1}},
      {"popcnt", {0xf3, 0x48, 0x0f, 0xb8}, false, kAll},
      {"popcnt, 16 bits", {0x66, 0xf3, 0x0f, 0xb8}, false, kAll},
      {"pavgb, MMX", {0x0f, 0xe0}},
      {"psadbw", {0x66, 0x0f, 0xf6}},
      {"add", {0x48, 0x01}, false, kAll},
      {"sbb", {0x48, 0x1b}, false, kAll},
      {"adc", {0x48, 0x13}, false, kAll},
      {"cmpxchg", {0x48, 0x0f, 0xb1}, false, kAll},
      {"xadd", {0x48, 0x0f, 0xc1}, false, kAll},
  };
  return all;
}

// Of what v3 has more: destination 0, sources 1 and, in ModRM, 1 or memory.
const std::vector<Family>& families_of_v3() {
  constexpr uint64_t kAll = rflags::kStatus,
                     kMost = rflags::kCarry | rflags::kZero | rflags::kSign | rflags::kOverflow;
  static const std::vector<Family> all = {
      {"vpaddd ymm", {0xc5, 0xf5, 0xfe}},
      {"vaddps ymm", {0xc5, 0xf4, 0x58}},
      {"vmulpd ymm", {0xc5, 0xf5, 0x59}},
      {"vdivps xmm", {0xc5, 0xf0, 0x5e}},
      {"vsqrtpd ymm", {0xc5, 0xfd, 0x51}},
      {"vrsqrtps ymm", {0xc5, 0xfc, 0x52}},
      {"vaddsd", {0xc5, 0xf3, 0x58}},
      {"vpshufb ymm", {0xc4, 0xe2, 0x75, 0x00}},
      {"vpermd ymm", {0xc4, 0xe2, 0x75, 0x36}},
      {"vpsllvd ymm", {0xc4, 0xe2, 0x75, 0x47}},
      {"vfmadd231ps ymm", {0xc4, 0xe2, 0x75, 0xb8}},
      {"vfnmsub132sd", {0xc4, 0xe2, 0xf1, 0x9f}},
      {"vcvtph2ps ymm", {0xc4, 0xe2, 0x7d, 0x13}},
      {"vbroadcastss ymm", {0xc4, 0xe2, 0x7d, 0x18}},
      {"vptest ymm", {0xc4, 0xe2, 0x7d, 0x17}, false, kAll},
      {"vaesenc xmm", {0xc4, 0xe2, 0x71, 0xdc}},
      {"vpclmulqdq xmm", {0xc4, 0xe3, 0x71, 0x44}, true},
      {"vpblendd ymm", {0xc4, 0xe3, 0x75, 0x02}, true},
      {"vperm2i128", {0xc4, 0xe3, 0x75, 0x46}, true},
      {"vpcmpistri", {0xc4, 0xe3, 0x79, 0x63}, true, kAll},
      {"legacy addps: upper halves stay", {0x0f, 0x58}},
      {"andn", {0xc4, 0xe2, 0xf0, 0xf2}, false, kMost},
      {"bextr", {0xc4, 0xe2, 0xf0, 0xf7}, false, rflags::kCarry | rflags::kZero | rflags::kOverflow},
      {"bzhi", {0xc4, 0xe2, 0xf0, 0xf5}, false, kMost},
      {"mulx", {0xc4, 0xe2, 0xf3, 0xf6}, false, kAll},
      {"pdep", {0xc4, 0xe2, 0xf3, 0xf5}, false, kAll},
      {"pext", {0xc4, 0xe2, 0xf2, 0xf5}, false, kAll},
      {"shrx", {0xc4, 0xe2, 0xf3, 0xf7}, false, kAll},
      {"rorx", {0xc4, 0xe3, 0xfb, 0xf0}, true, kAll},
      {"lzcnt", {0xf3, 0x48, 0x0f, 0xbd}, false, rflags::kCarry | rflags::kZero},
      {"tzcnt", {0xf3, 0x48, 0x0f, 0xbc}, false, rflags::kCarry | rflags::kZero},
  };
  return all;
}

std::vector<Code> x87_instructions() {
  std::vector<Code> all;
  // Register forms on the four registers in use; the rest of D9 that has no register operand.
  for (const uint8_t opcode : Code{0xd8, 0xdc, 0xde, 0xda, 0xdb, 0xdf})
    for (uint8_t row = 0xc0; row >= 0xc0; row = static_cast<uint8_t>(row + 8)) {
      const bool exists = (opcode != 0xda || row < 0xe0) &&
                          (opcode != 0xdb || row < 0xe0 || row == 0xe8 || row == 0xf0) &&
                          (opcode != 0xde || row != 0xd8) && (opcode != 0xdf || row == 0xe8 || row == 0xf0);
      for (uint8_t i = 0; i < 4 && exists; ++i) all.push_back({opcode, static_cast<uint8_t>(row + i)});
    }
  for (const uint8_t second :
       Code{0xc0, 0xc9, 0xe0, 0xe1, 0xe4, 0xe8, 0xe9, 0xea, 0xeb, 0xec, 0xed, 0xee, 0xf0, 0xf1,
            0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfb, 0xfc, 0xfd, 0xfe, 0xff})
    all.push_back({0xd9, second});
  // Memory forms: loads, stores, arithmetic.
  for (const auto& [opcode, row] : std::initializer_list<std::pair<uint8_t, uint8_t>>{
           {0xd8, 0}, {0xd8, 6}, {0xd9, 0}, {0xd9, 2}, {0xda, 1}, {0xdb, 0}, {0xdb, 1},
           {0xdb, 3}, {0xdb, 7}, {0xdc, 4}, {0xdd, 0}, {0xdd, 1}, {0xdd, 3}, {0xde, 5},
           {0xdf, 0}, {0xdf, 1}, {0xdf, 3}, {0xdf, 5}, {0xdf, 6}, {0xdf, 7}})
    all.push_back({opcode, static_cast<uint8_t>(row << 3 | 6)});
  return all;
}

class Random {
 public:
  uint64_t bits() { return engine_(); }
  // An integer, a double or two floats; never a NaN or an infinity.
  uint64_t operand() {
    uint64_t value = 0;
    const double number = static_cast<double>(static_cast<int64_t>(bits())) * 1e-15;
    const std::array<float, 2> pair = {static_cast<float>(static_cast<int32_t>(bits())) * 1e-3F,
                                       static_cast<float>(static_cast<int32_t>(bits())) * 1e-6F};
    switch (bits() % 8) {
      case 7:
        return bits() & 0x800f'ffff'807f'ffff;  // denormal
      case 0:
      case 1:
        std::memcpy(&value, &number, sizeof value);
        return value;
      case 2:
      case 3:
        std::memcpy(&value, pair.data(), sizeof value);
        return value;
      default:
        return bits() & 0xbfff'ffff'bfff'ffff;
    }
  }
  State state() {
    State state;
    state.fpu = FpuState::initial();
    for (uint64_t& word : state.words) word = operand();
    state.words[4] = kMemory;
    state.words[7] = 0x202 | (bits() & rflags::kStatus);
    for (uint64_t& word : state.memory) word = operand();
    for (size_t at = 160; at < 416; at += 8) {
      const uint64_t value = operand();
      std::memcpy(&state.fpu.fxsave[at], &value, sizeof value);
    }
    // As after any MMX instruction, which sets them (SDM vol. 1, 9.6.2); Unicorn does not.
    for (size_t at = 40; at < 160; at += 16)
      state.fpu.fxsave[at] = state.fpu.fxsave[at + 1] = std::byte{0xff};
    state.fpu.fxsave[25] =
        std::byte(0x1f | (bits() % 4) << 5 | (bits() % 4 == 0 ? 0x80 : 0));  // rounding, FTZ
    return state;
  }
  // Four x87 registers in use, numbers of all sizes in them, any rounding.
  void fill_x87(State& state) {
    state.fpu.fxsave[3] = std::byte{4 << 3};
    state.fpu.fxsave[4] = std::byte{0xf0};
    state.fpu.fxsave[1] = std::byte(3 | (bits() % 4) << 2);
    for (size_t i = 0; i < 8; ++i) {
      const long double number = static_cast<long double>(static_cast<int64_t>(bits())) /
                                 static_cast<long double>(uint64_t{1} << bits() % 63);
      std::memcpy(&state.fpu.fxsave[32 + 16 * i], &number, 10);
    }
  }

 private:
  std::mt19937_64 engine_{20240607};
};

// TOP, and of the condition codes C0, C2 and C3 where `conditions`.
unsigned x87_status(const State& state, bool conditions) {
  return std::to_integer<unsigned>(state.fpu.fxsave[3]) & (conditions ? 0x7dU : 0x38U);
}

void compare(const State& native, const State& compared, uint64_t flags) {
  for (size_t i = 0; i < 7; ++i) CHECK(native.words[i] == compared.words[i]);
  CHECK((native.words[7] & flags) == (compared.words[7] & flags));
  CHECK(native.memory == compared.memory);
  CHECK(std::memcmp(&native.fpu.fxsave[160], &compared.fpu.fxsave[160], 256) == 0);
  CHECK(native.fpu.upper == compared.fpu.upper);
  constexpr auto kFlags = std::byte{0x3d};  // without DE (SDM vol. 1, figure 10-3)
  CHECK((native.fpu.fxsave[24] & kFlags) == (compared.fpu.fxsave[24] & kFlags));
  CHECK(native.fpu.fxsave[4] == compared.fpu.fxsave[4]);
  const unsigned top = x87_status(native, false) >> 3;
  const auto tags = std::to_integer<unsigned>(native.fpu.fxsave[4]);
  for (unsigned i = 0; i < 8; ++i)
    if ((tags >> ((top + i) & 7) & 1) != 0)
      CHECK(std::memcmp(&native.fpu.fxsave[32 + 16 * i], &compared.fpu.fxsave[32 + 16 * i], 10) == 0);
}

void instructions(MachineKind kind, CpuModelKind model, const std::vector<Family>& families) {
  Compared compared(kind, model);
  Native native(model);
  Random random;
  for (const Family& family : families) {
    INFO(family.name);
    for (int round = 0; round < 60; ++round) {
      Code code = family.opcode;
      code.push_back(round % 2 == 0 ? uint8_t{0xc1} : uint8_t{0x0e});
      if (family.immediate)
        code.push_back(static_cast<uint8_t>(random.bits() & (family.opcode.back() == 0xc2 ? 7 : 0xff)));
      State expected = random.state();
      if (model == CpuModelKind::v3)
        for (size_t at = 0; at < expected.fpu.upper.size(); at += 8) {
          const uint64_t word = random.operand();
          std::memcpy(&expected.fpu.upper[at], &word, sizeof word);
        }
      State actual = expected;
      INFO("round " << round);
      CHECK(compared.run(code, actual).kind == ExitKind::breakpoint);
      native.run(code, expected);
      compare(expected, actual, family.flags);
    }
  }
}

void sse_and_integers(MachineKind kind) { instructions(kind, CpuModelKind::portable, families()); }

void of_v3(MachineKind kind) {
  if (!lacking(kind, CpuModelKind::v3)) instructions(kind, CpuModelKind::v3, families_of_v3());
}

void x87(MachineKind kind) {
  Compared compared(kind);
  Native native;
  Random random;
  for (const Code& code : x87_instructions()) {
    INFO("opcode " << unsigned{code[0]} << " " << unsigned{code[1]});
    for (int round = 0; round < 30; ++round) {
      State expected = random.state();
      random.fill_x87(expected);
      State actual = expected;
      CHECK(compared.run(code, actual).kind == ExitKind::breakpoint);
      native.run(code, expected);
      CHECK(x87_status(expected, false) == x87_status(actual, false));
      compare(expected, actual, 0);
    }
  }
}

}  // namespace

ON_MACHINE("SSE and integer instructions give what the processor gives", soft, sse_and_integers(machine))
ON_PROCESSORS("what v3 has more gives what the processor gives", of_v3(machine))
ON_MACHINE("x87 instructions give what the processor gives", soft, x87(machine))
ON_MACHINE("SSE and integer instructions give what the processor gives, translated", translated,
           sse_and_integers(machine))
ON_MACHINE("x87 instructions give what the processor gives, translated", translated, x87(machine))

}  // namespace aftercheck
