#include "tests/machine/random_story.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "machine/memory_accesses.h"
#include "x86/decode.h"

namespace aftercheck {
namespace {

using Kind = Executed::Kind;

struct Fetched {
  std::array<uint8_t, kLongestInstruction> bytes{};
  size_t size = 0;
  ZydisDecodedInstruction decoded{};
  bool valid = false;
  std::span<const uint8_t> code() const { return {bytes.data(), size}; }
};

Fetched fetch(uint64_t rip, const AddressSpace& space) {
  Fetched found;
  found.size = found.bytes.size();
  while (found.size != 0 && !space.read(rip, found.bytes.data(), found.size)) --found.size;
  found.valid = x86::decode(found.code(), found.decoded);
  return found;
}

std::optional<Kind> branch_of(const ZydisDecodedInstruction& decoded) {
  const bool direct = decoded.raw.imm[0].is_relative != 0;
  if (decoded.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) return std::nullopt;
  switch (decoded.meta.category) {
    case ZYDIS_CATEGORY_COND_BR:
      return Kind::conditional;
    case ZYDIS_CATEGORY_UNCOND_BR:
      return direct ? Kind::jump : Kind::indirect_jump;
    case ZYDIS_CATEGORY_CALL:
      return direct ? Kind::call : Kind::indirect_call;
    case ZYDIS_CATEGORY_RET:
      return Kind::ret;
    default:
      return std::nullopt;
  }
}

bool same(const Executed& a, const Executed& b) {
  return a.kind == b.kind && a.taken == b.taken && a.size == b.size && a.address == b.address && a.to == b.to;
}

std::string text(const Executed& one) {
  constexpr std::array kNames = {"block",         "conditional", "jump", "call", "indirect jump",
                                 "indirect call", "ret",         "load", "store"};
  return fmt::format("{}{} at {:#x}, {} bytes, {:#x}", kNames[static_cast<size_t>(one.kind)],
                     one.taken ? " taken" : "", one.address, one.size, one.to);
}

std::string differences(const std::vector<Executed>& told, const std::vector<Executed>& stepped) {
  const auto [a, b] = std::ranges::mismatch(told, stepped, same);
  if (a == told.end() && b == stepped.end()) return {};
  return fmt::format("    event {} of {} | {}: {} | {}\n", a - told.begin(), told.size(), stepped.size(),
                     a == told.end() ? "none" : text(*a), b == stepped.end() ? "none" : text(*b));
}

}  // namespace

void Story::add_code(uint64_t start, uint64_t end) {
  if (!code_.empty() && code_.back().second == start)
    code_.back().second = end;
  else
    code_.emplace_back(start, end);
}

// Operands of repeated string instructions come in pieces, of any number.
void Story::add_access(const Executed& access) {
  for (size_t back = 1; back <= std::min<size_t>(2, accesses_.size()); ++back) {
    Executed& last = accesses_[accesses_.size() - back];
    if (!step_.repeated || last.kind != access.kind || last.address != access.address) continue;
    const uint64_t start = std::min(last.to, access.to);
    last.size = std::max(last.to + last.size, access.to + access.size) - start;
    last.to = start;
    return;
  }
  accesses_.push_back(access);
}

void Story::executed(std::span<const Executed> all) {
  for (const Executed& one : all) {
    switch (one.kind) {
      case Kind::block:
        add_code(one.address, one.to);
        break;
      case Kind::load:
      case Kind::store:
        accesses_.push_back(one);
        break;
      default:
        branches_.push_back(one);
    }
  }
}

void Story::before(Vcpu& vcpu, const AddressSpace& space) {
  step_ = {};
  step_.rip = vcpu.registers().rip;
  const Fetched fetched = fetch(step_.rip, space);
  if (!fetched.valid) return;
  step_.next = step_.rip + fetched.decoded.length;
  step_.branch = branch_of(fetched.decoded);
  step_.repeated = x86::is_repeated(fetched.decoded);
  step_.either = step_.branch == Kind::conditional && fetched.decoded.raw.imm[0].value.s == 0;
  const FpuState fpu = vcpu.fpu();
  for (const MemoryAccess& access :
       memory_accesses(fetched.code(), vcpu.registers(), &fpu).value_or(std::vector<MemoryAccess>{}))
    step_.accesses.push_back({access.access == Access::write ? Kind::store : Kind::load, false, access.size,
                              step_.rip, access.address});
}

void Story::completed(uint64_t rip) {
  for (const Executed& access : step_.accesses) add_access(access);
  if (rip == step_.rip && step_.repeated) return;  // there is more of it to come
  add_code(step_.rip, step_.next);
  if (step_.either) either_.insert(step_.rip);
  if (step_.branch)
    branches_.push_back(
        {*step_.branch, *step_.branch == Kind::conditional && rip != step_.next, 0, step_.rip, rip});
}

std::string differences(const Story& told, const Story& stepped, const AddressSpace& space) {
  std::vector<Executed> branches = told.branches_;
  for (Executed& one : branches)
    if (stepped.either_.contains(one.address)) one.taken = false;
  std::string found = differences(branches, stepped.branches_);
  // Told in as many pieces as they were executed in.
  Story whole;
  for (const Executed& access : told.accesses_) {
    whole.step_.repeated = Story::repeats(access.address, space);
    whole.add_access(access);
  }
  found += differences(whole.accesses_, stepped.accesses_);
  const auto [a, b] = std::ranges::mismatch(told.code_, stepped.code_);
  if (a != told.code_.end() || b != stepped.code_.end()) {
    const auto range = [](const auto& at, const auto& all) {
      return at == all.end() ? "none" : fmt::format("{:#x}-{:#x}", at->first, at->second);
    };
    found += fmt::format("    code {}: {} | {}\n", a - told.code_.begin(), range(a, told.code_),
                         range(b, stepped.code_));
  }
  return found;
}

bool Story::repeats(uint64_t instruction, const AddressSpace& space) {
  const Fetched fetched = fetch(instruction, space);
  return fetched.valid && x86::is_repeated(fetched.decoded);
}

}  // namespace aftercheck
