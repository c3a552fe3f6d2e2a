// Decoding of trapped instructions: against hand-written cases, against Zydis and against the processor
// itself.
#include "machine/trapped_instruction.h"

#include <Zydis/Zydis.h>
#include <fmt/format.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <random>
#include <string>
#include <vector>

using namespace aftercheck;

namespace {

using Bytes = std::vector<uint8_t>;

struct Case {
  const char* what;
  Bytes code;
  std::optional<TrappedInstruction> expected;
};

constexpr auto kTsc = TrappedKind::rdtsc;
constexpr auto kTscp = TrappedKind::rdtscp;
constexpr auto kCpuid = TrappedKind::cpuid;
constexpr auto kRand = TrappedKind::rdrand;
constexpr auto kSeed = TrappedKind::rdseed;
constexpr auto kPid = TrappedKind::rdpid;

// One byte over the limit of SDM vol. 2, 2.3.11.
const Bytes kTooLong = {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                        0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x0f, 0x31};

const Case kCases[] = {
    {"rdtsc", {0x0f, 0x31}, {{kTsc, 2, 0, 0}}},
    {"rdtsc, more bytes follow", {0x0f, 0x31, 0x90, 0x90}, {{kTsc, 2, 0, 0}}},
    {"rdtscp", {0x0f, 0x01, 0xf9}, {{kTscp, 3, 0, 0}}},
    {"cpuid", {0x0f, 0xa2}, {{kCpuid, 2, 0, 0}}},
    {"rdrand eax", {0x0f, 0xc7, 0xf0}, {{kRand, 3, 0, 32}}},
    {"rdrand rdx", {0x48, 0x0f, 0xc7, 0xf2}, {{kRand, 4, 2, 64}}},
    {"rdrand r15", {0x49, 0x0f, 0xc7, 0xf7}, {{kRand, 4, 15, 64}}},
    {"rdrand r8w", {0x66, 0x41, 0x0f, 0xc7, 0xf0}, {{kRand, 5, 8, 16}}},
    {"REX.W wins over 66", {0x66, 0x48, 0x0f, 0xc7, 0xf0}, {{kRand, 5, 0, 64}}},
    {"66 after REX voids REX", {0x48, 0x66, 0x0f, 0xc7, 0xf0}, {{kRand, 5, 0, 16}}},
    {"rdseed ebx", {0x0f, 0xc7, 0xfb}, {{kSeed, 3, 3, 32}}},
    {"rdseed r12", {0x49, 0x0f, 0xc7, 0xfc}, {{kSeed, 4, 12, 64}}},
    {"rdpid rax", {0xf3, 0x0f, 0xc7, 0xf8}, {{kPid, 4, 0, 64}}},
    {"rdpid r9", {0xf3, 0x41, 0x0f, 0xc7, 0xf9}, {{kPid, 5, 9, 64}}},
    {"F3 after REX voids REX", {0x49, 0xf3, 0x0f, 0xc7, 0xf9}, {{kPid, 5, 1, 64}}},
    {"the last of F2 and F3 counts", {0xf2, 0xf3, 0x0f, 0xc7, 0xf8}, {{kPid, 5, 0, 64}}},
    {"rdpid ignores 66", {0xf3, 0x66, 0x0f, 0xc7, 0xf8}, {{kPid, 5, 0, 64}}},
    {"rdtsc ignores 66, F2, F3, REX", {0x66, 0xf2, 0xf3, 0x48, 0x0f, 0x31}, {{kTsc, 6, 0, 0}}},
    {"rdtscp ignores F3", {0xf3, 0x0f, 0x01, 0xf9}, {{kTscp, 4, 0, 0}}},
    {"cpuid ignores segment and address size", {0x2e, 0x67, 0x0f, 0xa2}, {{kCpuid, 4, 0, 0}}},
    {"15 bytes",
     {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x0f, 0x31},
     {{kTsc, 15, 0, 0}}},
    {"16 bytes raise #GP", kTooLong, {}},
    {"LOCK is #UD", {0xf0, 0x0f, 0x31}, {}},
    {"F3 rdrand is another instruction", {0xf3, 0x0f, 0xc7, 0xf0}, {}},
    {"F2 rdseed is #UD", {0xf2, 0x0f, 0xc7, 0xf8}, {}},
    {"F3 F2: the last counts", {0xf3, 0xf2, 0x0f, 0xc7, 0xf8}, {}},
    {"66 F2 rdrand is #UD", {0x66, 0xf2, 0x0f, 0xc7, 0xf0}, {}},
    {"cmpxchg16b has a memory operand", {0x48, 0x0f, 0xc7, 0x0e}, {}},
    {"0F C7 /6 with memory is VMPTRLD", {0x0f, 0xc7, 0x30}, {}},
    {"swapgs", {0x0f, 0x01, 0xf8}, {}},
    {"rdmsr", {0x0f, 0x32}, {}},
    {"ud2", {0x0f, 0x0b}, {}},
    {"empty", {}, {}},
    {"only an escape", {0x0f}, {}},
    {"rdtscp cut short", {0x0f, 0x01}, {}},
    {"rdrand cut short", {0x48, 0x0f, 0xc7}, {}},
    {"only prefixes", {0x66, 0xf3, 0x48}, {}},
};

std::optional<TrappedInstruction> decode_with_zydis(const ZydisDecoder& decoder, const Bytes& code) {
  ZydisDecodedInstruction insn;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
  if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code.data(), code.size(), &insn, operands)))
    return std::nullopt;
  TrappedInstruction result;
  result.length = insn.length;
  switch (insn.mnemonic) {
    case ZYDIS_MNEMONIC_RDTSC:
      result.kind = kTsc;
      return result;
    case ZYDIS_MNEMONIC_RDTSCP:
      result.kind = kTscp;
      return result;
    case ZYDIS_MNEMONIC_CPUID:
      result.kind = kCpuid;
      return result;
    case ZYDIS_MNEMONIC_RDRAND:
      result.kind = kRand;
      break;
    case ZYDIS_MNEMONIC_RDSEED:
      result.kind = kSeed;
      break;
    case ZYDIS_MNEMONIC_RDPID:
      result.kind = kPid;
      break;
    default:
      return std::nullopt;
  }
  result.operand = static_cast<uint8_t>(ZydisRegisterGetId(operands[0].reg.value));
  result.operand_bits = static_cast<uint8_t>(operands[0].size);
  return result;
}

// Prefixes in random number and order, one of the opcodes, random ModRM.
Bytes random_instruction(std::mt19937& rng) {
  static constexpr uint8_t kPrefixes[] = {0x66, 0xf2, 0xf3, 0x67, 0x2e, 0x64, 0x48, 0x41, 0x4f};
  static const Bytes kOpcodes[] = {{0x0f, 0x31},       {0x0f, 0xa2},       {0x0f, 0x01, 0xf9},
                                   {0x0f, 0xc7, 0xf0}, {0x0f, 0xc7, 0xf8}, {0x0f, 0xc7, 0xfe}};
  Bytes code;
  for (size_t i = rng() % 5; i > 0; --i) code.push_back(kPrefixes[rng() % std::size(kPrefixes)]);
  const Bytes& opcode = kOpcodes[rng() % std::size(kOpcodes)];
  code.insert(code.end(), opcode.begin(), opcode.end());
  return code;
}

sigjmp_buf fault_jump;
void on_fault(int) { siglongjmp(fault_jump, 1); }

// Runs code + RET in `page`; false when it faults. The processor clobbers what the instruction writes.
bool runs_on_processor(uint8_t* page, const Bytes& code) {
  // RBX is callee-saved and CPUID writes it: push rbx; <code>; pop rbx; ret
  page[0] = 0x53;
  std::memcpy(page + 1, code.data(), code.size());
  page[1 + code.size()] = 0x5b;
  page[2 + code.size()] = 0xc3;
  if (sigsetjmp(fault_jump, 1) != 0) return false;
  reinterpret_cast<void (*)()>(page)();
  return true;
}

bool destination_is_volatile(const TrappedInstruction& insn) {
  return insn.operand <= 2 || insn.operand == 6 || insn.operand == 7;  // rax, rcx, rdx, rsi, rdi
}

}  // namespace

TEST_CASE("Trapped instructions decode as the manual says") {
  for (const Case& c : kCases) {
    INFO(c.what);
    CHECK(decode_trapped(c.code) == c.expected);
  }
}

TEST_CASE("Every proper prefix of a trapped instruction is too short") {
  for (const Case& c : kCases) {
    if (!c.expected) continue;
    INFO(c.what);
    for (size_t n = 0; n < c.expected->length; ++n)
      CHECK(decode_trapped(std::span(c.code).first(n)) == std::nullopt);
  }
}

TEST_CASE("Decoding of trapped instructions agrees with Zydis") {
  ZydisDecoder decoder;
  REQUIRE(ZYAN_SUCCESS(ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)));
  std::mt19937 rng(20240607);
  int trapped = 0;
  for (int i = 0; i < 200'000; ++i) {
    const Bytes code = random_instruction(rng);
    const auto ours = decode_trapped(code);
    const auto theirs = decode_with_zydis(decoder, code);
    if (ours != theirs) {
      std::string text;
      for (uint8_t byte : code) text += fmt::format("{:02x} ", byte);
      FAIL("disagreement on bytes " << text);
    }
    trapped += ours.has_value();
  }
  CHECK(trapped > 100'000);
}

TEST_CASE("What decodes as a trapped instruction is one to the processor") {
  auto* page = static_cast<uint8_t*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  REQUIRE(page != MAP_FAILED);
  struct sigaction action {
  }, old_ill{}, old_segv{};
  action.sa_handler = on_fault;
  sigaction(SIGILL, &action, &old_ill);
  sigaction(SIGSEGV, &action, &old_segv);
  // An instruction that this processor lacks says nothing about prefixes, so look at each plain form first.
  const bool has_rand = runs_on_processor(page, {0x0f, 0xc7, 0xf0});
  const bool has_seed = runs_on_processor(page, {0x0f, 0xc7, 0xf8});
  const bool has_pid = runs_on_processor(page, {0xf3, 0x0f, 0xc7, 0xf8});
  const bool has_tscp = runs_on_processor(page, {0x0f, 0x01, 0xf9});
  std::vector<std::string> wrong;
  for (const Case& c : kCases) {
    if (!c.expected || !destination_is_volatile(*c.expected)) continue;
    const TrappedKind kind = c.expected->kind;
    if ((kind == kRand && !has_rand) || (kind == kSeed && !has_seed) || (kind == kPid && !has_pid) ||
        (kind == kTscp && !has_tscp))
      continue;
    const Bytes exact(c.code.begin(), c.code.begin() + c.expected->length);
    if (!runs_on_processor(page, exact)) wrong.emplace_back(c.what);
  }
  for (const Bytes& code : {Bytes{0xf0, 0x0f, 0x31}, Bytes{0xf2, 0x0f, 0xc7, 0xf8}, kTooLong})
    if (runs_on_processor(page, code)) wrong.emplace_back("runs, but should fault");
  sigaction(SIGILL, &old_ill, nullptr);
  sigaction(SIGSEGV, &old_segv, nullptr);
  munmap(page, 4096);
  CHECK(wrong == std::vector<std::string>{});
}

TEST_CASE("Trapped kinds have the manual's names") {
  CHECK(std::string(name(TrappedKind::none)) == "none");
  CHECK(std::string(name(kTsc)) == "rdtsc");
  CHECK(std::string(name(kPid)) == "rdpid");
  CHECK(std::string(name(static_cast<TrappedKind>(200))) == "unknown");
}
