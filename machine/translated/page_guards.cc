#include "machine/translated/page_guards.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"

namespace aftercheck::translated {
namespace {

// No mapping reaches from one of them into the other.
bool in_fixed_windows(Range range) { return in_fixed_window(range.start) && in_fixed_window(range.end - 1); }

}  // namespace

void PageGuards::set(Range range, int host_prot) const {
  if (mprotect(reinterpret_cast<void*>(range.start), range.size(), host_prot) != 0)
    fail(ErrorKind::host_lacks,
         "can't protect guest memory at {:#x} to notice changes of code: {}; too many mappings "
         "(vm.max_map_count)?",
         range.start, errno_text(errno));
}

// Neighbours at once.
template <typename Protection>
void PageGuards::set_guarded(Protection protection) const {
  Range run;
  int run_prot = 0;
  for (const auto& [page, code] : guarded_) {
    const Mapping* mapping = space_.find(page);
    if (mapping == nullptr) continue;
    const int prot = protection(host_protection(mapping->prot));
    if (run.end == page && run_prot == prot) {
      run.end += kPageSize;
      continue;
    }
    if (run.size() != 0) set(run, run_prot);
    run = {page, page + kPageSize};
    run_prot = prot;
  }
  if (run.size() != 0) set(run, run_prot);
}

void PageGuards::guard(uint64_t page, uint64_t code) {
  const auto [entry, is_new] = guarded_.try_emplace(page);
  entry->second.insert(code);
  const Mapping* mapping = space_.find(page);
  if (is_new && imposed_ && mapping != nullptr)
    set({page, page + kPageSize}, host_protection(mapping->prot) & ~PROT_WRITE);
}

// Where else the file's page can be written.
void PageGuards::guard_aliases(uint64_t page, const Mapping& mapping) {
  const uint64_t offset = mapping.offset + (page - mapping.start);
  for (const auto& [start, other] : space_.mappings()) {
    if (!other.shared || (other.prot & PROT_WRITE) == 0) continue;
    // Those of no number or inode may be of the same file.
    if (other.number != mapping.number || other.inode != mapping.inode || other.device != mapping.device)
      continue;
    if (offset < other.offset || offset - other.offset >= other.extent()) continue;
    guard(start + (offset - other.offset), page);
  }
}

void PageGuards::executed(uint64_t page) {
  const Mapping* mapping = space_.find(page);
  if (mapping == nullptr) return;
  if ((mapping->prot & PROT_WRITE) != 0) guard(page, page);
  if (!mapping->shared || !shared_code_.insert(page).second) return;
  guard_aliases(page, *mapping);
}

void PageGuards::find_closed() {
  if (closed_known_) return;
  closed_known_ = true;
  closed_.clear();
  for (const auto& [start, mapping] : space_.mappings()) {
    if (mapping.prot == PROT_NONE || in_fixed_windows({start, mapping.end})) continue;
    uint64_t at = start;
    std::vector<Range> used = used_parts({start, mapping.end});
    used.push_back({mapping.end, mapping.end});
    for (const Range& part : used) {
      if (at < part.start) closed_.push_back({{at, part.start}, host_protection(mapping.prot)});
      at = part.end;
    }
  }
}

void PageGuards::impose() {
  if (imposed_) return;
  find_closed();
  imposed_ = true;
  set_guarded([](int prot) { return prot & ~PROT_WRITE; });
  for (const Closed& closed : closed_) set(closed.range, PROT_NONE);
}

void PageGuards::lift() {
  if (!imposed_) return;
  imposed_ = false;
  set_guarded([](int prot) { return prot; });
  for (const Closed& closed : closed_) set(closed.range, closed.prot);
}

PageGuards::Verdict PageGuards::fault(uint64_t address, bool write) {
  const uint64_t page = page_down(address);
  const Mapping* mapping = space_.find(page);
  if (mapping == nullptr || mapping->prot == PROT_NONE) return {};
  if (write && (mapping->prot & PROT_WRITE) == 0) return {};
  Verdict verdict;
  if (std::ranges::any_of(closed_,
                          [address](const Closed& closed) { return closed.range.contains(address); })) {
    lift();
    space_.bring_in(address);
    impose();
    verdict.only_guarded = true;
    return verdict;
  }
  const auto found = guarded_.find(page);
  if (found == guarded_.end() || !write) return {};
  verdict.only_guarded = true;
  verdict.code.assign(found->second.begin(), found->second.end());
  guarded_.erase(found);
  for (const uint64_t code : verdict.code) shared_code_.erase(code);
  set({page, page + kPageSize}, host_protection(mapping->prot));
  return verdict;
}

std::vector<uint64_t> PageGuards::mapped(Range range) {
  if (!in_fixed_windows(range)) {
    // What was closed elsewhere is still; only lift() and impose() may change it.
    const bool imposed = imposed_;
    if (imposed) lift();
    closed_known_ = false;
    if (imposed) impose();
  }
  guarded_.erase(guarded_.lower_bound(page_down(range.start)), guarded_.lower_bound(range.end));
  std::vector<uint64_t> code;
  const auto first = shared_code_.lower_bound(page_down(range.start));
  shared_code_.erase(first, shared_code_.lower_bound(range.end));
  if (shared_code_.empty()) return code;
  const Mapping* mapping = space_.find(range.start);
  if (mapping == nullptr || !mapping->shared || (mapping->prot & PROT_WRITE) == 0) return code;
  code.assign(shared_code_.begin(), shared_code_.end());
  shared_code_.clear();
  return code;
}

}  // namespace aftercheck::translated
