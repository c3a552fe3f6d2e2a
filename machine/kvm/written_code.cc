#include "machine/kvm/written_code.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <span>

#include "base/log.h"
#include "machine/memory_accesses.h"
#include "machine/trapped_instruction.h"

namespace aftercheck::kvm {
namespace {

constexpr int kBoth = PROT_WRITE | PROT_EXEC;
// Each time is two exits and two updates of tables, some 0.1 ms on nested hosts. Stacks with trampolines of
// nested functions come here, and heaps with code and data on one page.
constexpr uint32_t kMostTimes = 512;
// Opcode and ModRM of a trapped instruction, without what is before them (SDM vol. 2: 0F C7 /6 is RDRAND).
constexpr uint64_t kOpcode = 3;

}  // namespace

void WrittenCode::watch(bool on) {
  watching_ = on;
  pages_.clear();
}

WrittenCode::Page WrittenCode::page(uint64_t address) const {
  const auto found = pages_.find(page_down(address));
  return found == pages_.end() ? Page::written : found->second.page;
}

// Also where its opcode begins at the end of the page before.
bool WrittenCode::has_trapped(uint64_t page) const {
  constexpr uint64_t kBefore = kOpcode - 1, kBehind = kLongestInstruction - 1;
  std::array<uint8_t, kBefore + kPageSize + kBehind> buffer{};
  if (!space_.read(page, &buffer[kBefore], kPageSize)) return true;
  const bool before = space_.read(page - kBefore, buffer.data(), kBefore);
  const bool behind = space_.read(page + kPageSize, &buffer[kBefore + kPageSize], kBehind);
  const std::span<const uint8_t> bytes(buffer.data(), buffer.size() - (behind ? 0 : kBehind));
  constexpr uint8_t kEscape = 0x0f;
  const auto end = buffer.begin() + kBefore + kPageSize;
  for (auto at = buffer.begin() + (before ? 0 : kBefore); (at = std::find(at, end, kEscape)) != end; ++at)
    if (decode_trapped(bytes.subspan(static_cast<size_t>(at - buffer.begin())))) return true;
  return false;
}

WrittenCode::Verdict WrittenCode::judge(uint64_t address, Access access, uint64_t rip) {
  if (!watching_) return Verdict::none;
  const Mapping* mapping = space_.find(address);
  if (mapping == nullptr || (mapping->prot & kBoth) != kBoth) return Verdict::none;
  const uint64_t start = page_down(address);
  State& state = pages_[start];
  if (access == Access::fetch && state.page == Page::written) {
    if (state.times == kMostTimes || has_trapped(start)) return Verdict::untrapped;
    state.page = Page::looked_at;
    return Verdict::changed;
  }
  if (access == Access::write && state.page == Page::looked_at) {
    // An instruction that writes the page it is on could never be executed.
    if (page_down(rip) == start || page_down(rip + kLongestInstruction - 1) == start)
      return Verdict::untrapped;
    state.page = Page::written;
    if (++state.times == kMostTimes)
      AFTERCHECK_LOG_TO(LogTopic::kvm, "the page at {:#x} is written and executed in turn", start);
    return Verdict::changed;
  }
  return Verdict::none;
}

void WrittenCode::mapped(Range range) {
  pages_.erase(pages_.lower_bound(page_down(range.start)), pages_.lower_bound(range.end));
}

void WrittenCode::forget(Range range) {
  for (auto it = pages_.lower_bound(page_down(range.start)); it != pages_.end() && it->first < range.end;
       ++it)
    if (it->second.page == Page::looked_at) it->second.page = Page::written;
}

}  // namespace aftercheck::kvm
