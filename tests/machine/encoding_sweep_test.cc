// Feeds the soft vCPU, and the translated machine, the encodings of all one- to three-byte opcodes, with
// prefixes and kinds of ModRM, defined or not, and compares with KVM, where there is KVM, what comes of each:
// the exit, RIP, registers and memory. This is done in a child process, so that the end of a process is
// pinned to its encoding.
//
// The test cases take a share of the encodings, every seventh of it under sanitizers; "[.full]" (hidden:
// encoding_sweep_test '[.full]') takes all.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <iostream>

#include "base/error.h"
#include "both_machines.h"
#include "machine/memory_accesses.h"
#include "machine/trapped_instruction.h"
#include "machine/vcpu.h"
#include "tests/base/sanitized.h"
#include "x86/decode.h"

namespace aftercheck {
namespace {

struct Map {
  const char* name;
  Code escape;
};
const Map kMaps[] = {{"one byte", {}}, {"0F", {0x0f}}, {"0F 38", {0x0f, 0x38}}, {"0F 3A", {0x0f, 0x3a}}};
const std::vector<Code> kPrefixes = {{}, {0x66}, {0xf2}, {0xf3}, {0xf0}, {0x66, 0xf0}},
                        kMorePrefixes = {
                            {0xf0, 0xf2},      {0xf0, 0xf3}, {0x66, 0xf2}, {0xf3, 0x66}, {0xf3, 0xf2},
                            {0xf2, 0xf3},      {0x67},       {0x64},       {0x64, 0x3e}, {0x48, 0x66},
                            {0x26, 0x66, 0xf2}};
const std::vector<Code> kRex = {{}, {0x48}}, kMoreRex = {{0x40}, {0x4f}};

// ModRM bytes: every reg with memory at RSI and with one register; all registers where they select further.
std::vector<uint8_t> modrm_bytes(size_t map, unsigned opcode, bool full) {
  std::vector<uint8_t> bytes;
  const bool groups = full || (map == 0 && opcode >= 0xd8 && opcode <= 0xdf) ||
                      (map == 1 && (opcode == 0x01 || opcode == 0xae || opcode == 0xc7));
  for (unsigned reg = 0; reg < 8; ++reg) {
    bytes.push_back(static_cast<uint8_t>(reg << 3 | 6));
    for (unsigned rm = 0; rm < 8; ++rm)
      if (groups || rm == 1) bytes.push_back(static_cast<uint8_t>(0xc0 | reg << 3 | rm));
  }
  return bytes;
}

std::vector<Code> encodings(size_t map, bool full) {
  std::vector<Code> prefixes = kPrefixes, rexes = kRex, all;
  if (full) {
    prefixes.insert(prefixes.end(), kMorePrefixes.begin(), kMorePrefixes.end());
    rexes.insert(rexes.end(), kMoreRex.begin(), kMoreRex.end());
  }
  for (const Code& prefix : prefixes)
    for (const Code& rex : rexes)
      for (unsigned opcode = 0; opcode < 256; ++opcode)
        for (const uint8_t modrm : modrm_bytes(map, opcode, full)) {
          Code code = prefix;
          code.insert(code.end(), rex.begin(), rex.end());
          code.insert(code.end(), kMaps[map].escape.begin(), kMaps[map].escape.end());
          code.push_back(static_cast<uint8_t>(opcode));
          code.push_back(modrm);
          all.push_back(code);
        }
  return all;
}

struct Outcome {
  Exit exit;
  bool refused = false;
  Registers registers;
  std::vector<uint8_t> memory;
};

// All that the child tells: where it is, and what differed.
struct Report {
  std::atomic<uint64_t> at, differing, refused;
  std::atomic<size_t> length;
  char text[1 << 20];
  void add(const std::string& line) {
    if (length + line.size() > sizeof text) return;
    std::memcpy(text + length, line.data(), line.size());
    length += line.size();
  }
};

std::string hexadecimal(const Code& code) {
  std::string text;
  for (const uint8_t byte : code) text += fmt::format("{:02x} ", byte);
  return text;
}

class Bench {
 public:
  explicit Bench(MachineKind compared) : both_(compared) {
    for (size_t i = 0; i < pattern_.size(); ++i) pattern_[i] = static_cast<uint8_t>(i * 37 + i / 256);
  }

  bool compares() const { return both_.has_kvm(); }
  void put(std::span<const Code> batch) { both_.put(batch); }

  Outcome run(size_t machine, uint64_t slot) {
    std::memcpy(reinterpret_cast<void*>(kData), pattern_.data(), kDataSize);
    Vcpu& vcpu = both_.vcpu(machine);
    Registers& r = vcpu.registers();
    r = Registers();
    r.rax = 0x1122334455667788, r.rcx = 3, r.rdx = 0x99, r.rbx = 0x123456789abc, r.rbp = kDataMiddle + 0x200;
    r.rsp = kDataMiddle + 0x100, r.rsi = r.r14 = kDataMiddle, r.rdi = kDataMiddle + 0x400;
    r.r8 = 8, r.r9 = 9 << 20, r.r10 = 0xfedcba9876543210, r.r11 = 11, r.r12 = kDataMiddle + 64, r.r13 = 13,
    r.r15 = 15;
    r.rip = kCode + slot * kSlot;
    vcpu.set_fpu(FpuState::initial());
    Outcome outcome;
    try {
      outcome.exit = vcpu.step();
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::unsupported) throw;
      outcome.refused = true;
    }
    outcome.registers = r;
    outcome.registers.rflags &= ~rflags::kStatus;  // not all of them are defined
    outcome.memory.assign(reinterpret_cast<uint8_t*>(kData), reinterpret_cast<uint8_t*>(kData) + kDataSize);
    return outcome;
  }

 private:
  BothMachines both_;
  std::array<uint8_t, kDataSize> pattern_{};
};

// What is not compared: answers of the host's; #UD, of what hosts like kvm_pvm let ring 3 do though
// the model lacks it and of reserved encodings that one vendor's processors execute (LOCK NOP); branches
// whose 66 prefix AMD obeys and Intel ignores; SYSENTER, which is #UD to AMD; BSWAP of 16 bits, which is
// undefined; ICEBP, whose #DB is a step to KVM; what ENTER has pushed when it faults at the new stack
// pointer, and CALL when its target is not canonical; LOOPcc with F2 or F3, which some processors take for
// the condition.
bool excused(const Code& code, const Outcome& outcome) {
  if (outcome.exit.kind == ExitKind::exception && outcome.exit.vector == vector::kInvalidOpcode) return true;
  Code padded = code;
  padded.resize(kLongestInstruction, 0x90);
  if (decode_trapped(padded)) return true;
  ZydisDecodedInstruction instruction;
  if (!x86::decode(padded, instruction)) return false;
  if (instruction.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE &&
      std::find(code.begin(), code.end(), 0x66) != code.end())
    return true;
  switch (instruction.mnemonic) {
    case ZYDIS_MNEMONIC_ENTER:
      return outcome.exit.kind == ExitKind::memory_fault;
    case ZYDIS_MNEMONIC_CALL:
      return outcome.exit == Exit{.kind = ExitKind::exception, .vector = vector::kGeneralProtection};
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE:
      return std::any_of(code.begin(), code.end(), [](uint8_t byte) { return byte == 0xf2 || byte == 0xf3; });
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_SYSENTER:
      return true;
    case ZYDIS_MNEMONIC_BSWAP:
      return instruction.operand_width == 16;
    default:
      return false;
  }
}

void sweep(MachineKind compared, const std::vector<Code>& all, uint64_t from, Report& report) {
  Bench bench(compared);
  for (uint64_t start = from; start < all.size(); start += kBatch) {
    const std::span batch(&all[start], std::min<uint64_t>(kBatch, all.size() - start));
    bench.put(batch);
    for (size_t i = 0; i < batch.size(); ++i) {
      report.at = start + i;
      const Outcome outcome = bench.run(0, i);
      if (outcome.refused) ++report.refused;
      if (!bench.compares() || outcome.refused) continue;
      const Outcome kvm = bench.run(1, i);
      const bool same =
          outcome.exit == kvm.exit && outcome.registers == kvm.registers && outcome.memory == kvm.memory;
      if (same || excused(batch[i], outcome)) continue;
      ++report.differing;
      std::string what;
      for (size_t word = 0; word < kRegisterCount; ++word) {
        const auto of = [word](const Outcome& o) {
          return reinterpret_cast<const uint64_t*>(&o.registers)[word];
        };
        if (of(outcome) != of(kvm))
          what += fmt::format(" register {}: {:#x}, {:#x}", word, of(outcome), of(kvm));
      }
      if (outcome.memory != kvm.memory) what += " memory";
      report.add(fmt::format("{}: {} {}, KVM {};{}\n", hexadecimal(batch[i]), name(compared),
                             describe(outcome.exit), describe(kvm.exit), what));
    }
  }
}

// Shares no factor with the numbers of ModRM bytes or opcodes: each opcode and each form has its turn.
constexpr size_t kEvery = test::kSanitized ? 7 : 1;

void sweep_map(MachineKind compared, size_t map, bool full) {
  std::vector<Code> all = encodings(map, full);
  if (!full) {
    for (size_t i = 0; i * kEvery < all.size(); ++i) all[i] = all[i * kEvery];
    all.resize((all.size() + kEvery - 1) / kEvery);
  }
  void* memory = mmap(nullptr, sizeof(Report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  auto* report = new (memory) Report{};
  for (uint64_t from = 0; from < all.size();) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      int status = 1;
      try {
        sweep(compared, all, from, *report);
        status = 0;
      } catch (const std::exception& error) {
        report->add(fmt::format("{}: {}\n", hexadecimal(all[report->at]), error.what()));
      }
      _exit(status);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    INFO("at " << hexadecimal(all[report->at]));
    CHECK(status == 0);
    from = status == 0 ? all.size() : report->at + 1;
  }
  INFO(std::string(report->text, report->length));
  CHECK(report->differing == 0);
  CHECK(report->refused < all.size() / 10);
  if (full) std::cout << all.size() << " encodings, " << report->refused << " refused by name\n";
  munmap(memory, sizeof(Report));
}

}  // namespace

#define ON_COMPARED_MACHINES(name, tag, call)                                                  \
  TEST_CASE(name " give on the soft vCPU what they give on KVM, or a refusal", tag) {          \
    constexpr MachineKind machine = MachineKind::soft;                                         \
    call;                                                                                      \
  }                                                                                            \
  TEST_CASE(name " give on the translated machine what they give on KVM, or a refusal", tag) { \
    constexpr MachineKind machine = MachineKind::translated;                                   \
    if (!lacking(machine)) call;                                                               \
  }

ON_COMPARED_MACHINES("one-byte opcodes", "", sweep_map(machine, 0, false))
ON_COMPARED_MACHINES("two-byte opcodes", "", sweep_map(machine, 1, false))
ON_COMPARED_MACHINES("opcodes 0F 38", "", sweep_map(machine, 2, false))
ON_COMPARED_MACHINES("opcodes 0F 3A", "", sweep_map(machine, 3, false))
ON_COMPARED_MACHINES("all opcodes with all prefixes", "[.full]", {
  for (size_t map = 0; map < std::size(kMaps); ++map) sweep_map(machine, map, true);
})

}  // namespace aftercheck
