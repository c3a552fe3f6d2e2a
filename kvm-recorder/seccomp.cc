#include "kvm-recorder/seccomp.h"

#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace aftercheck {
namespace {

constexpr uint32_t kDataSize = sizeof(seccomp_data);
// kernel/seccomp.c: MAX_INSNS_PER_PATH, and what each filter counts beside its instructions.
constexpr size_t kMostInstructions = (1 << 18) / sizeof(sock_filter), kFilterPenalty = 4;

// seccomp_check_filter(): the instructions there are.
bool known(const sock_filter& instruction) {
  const uint32_t k = instruction.k;
  switch (instruction.code) {
    case BPF_LD | BPF_W | BPF_ABS:
      return k < kDataSize && k % sizeof(uint32_t) == 0;
    case BPF_ALU | BPF_DIV | BPF_K:
      return k != 0;
    case BPF_ALU | BPF_LSH | BPF_K:
    case BPF_ALU | BPF_RSH | BPF_K:
      return k < 32;
    case BPF_LD | BPF_MEM:
    case BPF_LDX | BPF_MEM:
    case BPF_ST:
    case BPF_STX:
      return k < BPF_MEMWORDS;
    case BPF_LD | BPF_W | BPF_LEN:
    case BPF_LDX | BPF_W | BPF_LEN:
    case BPF_RET | BPF_K:
    case BPF_RET | BPF_A:
    case BPF_ALU | BPF_ADD | BPF_K:
    case BPF_ALU | BPF_ADD | BPF_X:
    case BPF_ALU | BPF_SUB | BPF_K:
    case BPF_ALU | BPF_SUB | BPF_X:
    case BPF_ALU | BPF_MUL | BPF_K:
    case BPF_ALU | BPF_MUL | BPF_X:
    case BPF_ALU | BPF_DIV | BPF_X:
    case BPF_ALU | BPF_AND | BPF_K:
    case BPF_ALU | BPF_AND | BPF_X:
    case BPF_ALU | BPF_OR | BPF_K:
    case BPF_ALU | BPF_OR | BPF_X:
    case BPF_ALU | BPF_XOR | BPF_K:
    case BPF_ALU | BPF_XOR | BPF_X:
    case BPF_ALU | BPF_LSH | BPF_X:
    case BPF_ALU | BPF_RSH | BPF_X:
    case BPF_ALU | BPF_NEG:
    case BPF_LD | BPF_IMM:
    case BPF_LDX | BPF_IMM:
    case BPF_MISC | BPF_TAX:
    case BPF_MISC | BPF_TXA:
    case BPF_JMP | BPF_JA:
    case BPF_JMP | BPF_JEQ | BPF_K:
    case BPF_JMP | BPF_JEQ | BPF_X:
    case BPF_JMP | BPF_JGE | BPF_K:
    case BPF_JMP | BPF_JGE | BPF_X:
    case BPF_JMP | BPF_JGT | BPF_K:
    case BPF_JMP | BPF_JGT | BPF_X:
    case BPF_JMP | BPF_JSET | BPF_K:
    case BPF_JMP | BPF_JSET | BPF_X:
      return true;
    default:
      return false;
  }
}

// Jumps go forward, to an instruction of the program; check_load_and_stores(): no memory is read that may not
// have been written, on any way.
bool well_formed(std::span<const sock_filter> program) {
  std::vector<uint16_t> written(program.size(), UINT16_MAX);  // memory words that are, by all ways so far
  uint16_t now = 0;
  const auto reaches = [&](uint64_t target) {
    if (target >= program.size()) return false;
    written[target] &= now;
    return true;
  };
  for (size_t at = 0; at < program.size(); ++at) {
    const sock_filter& instruction = program[at];
    if (!known(instruction)) return false;
    now &= written[at];
    switch (instruction.code) {
      case BPF_ST:
      case BPF_STX:
        now |= static_cast<uint16_t>(1U << instruction.k);
        break;
      case BPF_LD | BPF_MEM:
      case BPF_LDX | BPF_MEM:
        if ((now & 1U << instruction.k) == 0) return false;
        break;
      case BPF_JMP | BPF_JA:
        if (!reaches(at + 1 + uint64_t{instruction.k})) return false;
        now = UINT16_MAX;
        break;
      default:
        if (BPF_CLASS(instruction.code) != BPF_JMP) break;
        if (!reaches(at + 1 + instruction.jt) || !reaches(at + 1 + instruction.jf)) return false;
        now = UINT16_MAX;
    }
  }
  return !program.empty() && BPF_CLASS(program.back().code) == BPF_RET;
}

uint32_t arithmetic(uint32_t operation, uint32_t a, uint32_t b) {
  switch (operation) {
    case BPF_ADD:
      return a + b;
    case BPF_SUB:
      return a - b;
    case BPF_MUL:
      return a * b;
    case BPF_DIV:
      return a / b;
    case BPF_AND:
      return a & b;
    case BPF_OR:
      return a | b;
    case BPF_XOR:
      return a ^ b;
    case BPF_LSH:
      return a << (b & 31);
    case BPF_RSH:
      return a >> (b & 31);
    default:  // BPF_NEG
      return 0 - a;
  }
}

bool holds(uint32_t operation, uint32_t a, uint32_t b) {
  switch (operation) {
    case BPF_JEQ:
      return a == b;
    case BPF_JGT:
      return a > b;
    case BPF_JGE:
      return a >= b;
    default:  // BPF_JSET
      return (a & b) != 0;
  }
}

// The program is well-formed.
uint32_t run(std::span<const sock_filter> program, const seccomp_data& call) {
  uint32_t a = 0, x = 0;
  std::array<uint32_t, BPF_MEMWORDS> memory{};
  for (size_t at = 0;; ++at) {
    const auto [code, jump_true, jump_false, k] = program[at];
    const uint32_t operand = BPF_SRC(code) == BPF_X ? x : k;
    switch (BPF_CLASS(code)) {
      case BPF_LD:
        if (code == (BPF_LD | BPF_W | BPF_ABS))
          std::memcpy(&a, reinterpret_cast<const std::byte*>(&call) + k, sizeof a);
        else
          a = BPF_MODE(code) == BPF_LEN ? kDataSize : BPF_MODE(code) == BPF_MEM ? memory[k] : k;
        break;
      case BPF_LDX:
        x = BPF_MODE(code) == BPF_LEN ? kDataSize : BPF_MODE(code) == BPF_MEM ? memory[k] : k;
        break;
      case BPF_ST:
        memory[k] = a;
        break;
      case BPF_STX:
        memory[k] = x;
        break;
      case BPF_ALU:
        if (BPF_OP(code) == BPF_DIV && operand == 0) return 0;
        a = arithmetic(BPF_OP(code), a, operand);
        break;
      case BPF_JMP:
        at += BPF_OP(code) == BPF_JA ? k : holds(BPF_OP(code), a, operand) ? jump_true : jump_false;
        break;
      case BPF_RET:
        return BPF_RVAL(code) == BPF_A ? a : k;
      default:  // BPF_MISC
        (BPF_MISCOP(code) == BPF_TAX ? x : a) = BPF_MISCOP(code) == BPF_TAX ? a : x;
    }
  }
}

}  // namespace

long Seccomp::set_strict() {
  if (mode_ == SECCOMP_MODE_FILTER) return -EINVAL;
  mode_ = SECCOMP_MODE_STRICT;
  return 0;
}

long Seccomp::add_filter(std::span<const sock_filter> program) {
  if (mode_ == SECCOMP_MODE_STRICT || program.size() > BPF_MAXINSNS || !well_formed(program)) return -EINVAL;
  size_t total = program.size();
  for (const auto& filter : filters_) total += filter->size() + kFilterPenalty;
  if (total > kMostInstructions) return -ENOMEM;
  mode_ = SECCOMP_MODE_FILTER;
  filters_.push_back(std::make_shared<const Filter>(program.begin(), program.end()));
  return 0;
}

bool Seccomp::leads_to(const Seccomp& other) const {
  if (mode_ == SECCOMP_MODE_STRICT || filters_.size() > other.filters_.size()) return false;
  return std::equal(filters_.begin(), filters_.end(), other.filters_.begin());
}

uint32_t Seccomp::decide(const seccomp_data& call) const {
  if (mode_ == SECCOMP_MODE_STRICT) {
    constexpr std::array kAllowed = {SYS_read, SYS_write, SYS_exit, SYS_rt_sigreturn};
    return std::ranges::find(kAllowed, call.nr) != kAllowed.end() ? SECCOMP_RET_ALLOW
                                                                  : SECCOMP_RET_KILL_THREAD;
  }
  // The newest first: of equal actions its data counts. Actions are ordered as signed numbers
  // (seccomp_run_filters()).
  const auto action = [](uint32_t value) { return static_cast<int32_t>(value & SECCOMP_RET_ACTION_FULL); };
  uint32_t decision = SECCOMP_RET_ALLOW;
  for (size_t i = filters_.size(); i-- > 0;)
    if (const uint32_t value = run(*filters_[i], call); action(value) < action(decision)) decision = value;
  return decision;
}

}  // namespace aftercheck
