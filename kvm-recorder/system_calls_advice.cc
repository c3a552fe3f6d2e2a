// Calls about the guest's pages that change no mapping: madvise, mincore, msync, mlock. The holes of a window
// are reserved by mappings of ours, so which of the range is mapped is answered here; as in the kernel
// (mm/madvise.c, mm/mlock.c, mm/msync.c, mm/mincore.c), what comes before a hole is done all the same.
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "kvm-recorder/memory_limits.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

constexpr int kDontNeedLocked = 24;  // MADV_DONTNEED_LOCKED, include/uapi/asm-generic/mman-common.h

bool page_aligned(uint64_t address) { return (address & (kPageSize - 1)) == 0; }

// Calls visit(mapping, part) for what is mapped of the range, until it gives an error. 0, the error, or
// -ENOMEM where there are holes: behind them the walk goes on, or (`stop_at_hole`) it ends. `visit` may
// change the mappings of its part.
long walk(const AddressSpace& space, Range range, bool stop_at_hole,
          const std::function<long(const Mapping&, Range)>& visit) {
  long result = 0;
  for (uint64_t at = range.start; at < range.end;) {
    auto next = space.mappings().upper_bound(at);
    if (const Mapping* here = space.find(at); here == nullptr) {
      result = -ENOMEM;
      if (stop_at_hole || next == space.mappings().end()) return result;
      at = next->second.start;
      continue;
    }
    const Mapping mapping = std::prev(next)->second;
    const Range part{at, std::min(mapping.end, range.end)};
    if (const long error = visit(mapping, part)) return error;
    at = part.end;
  }
  return result;
}

// The range that the kernel makes of start and length; false when it overflows.
bool whole_pages(uint64_t start, uint64_t length, Range& range) {
  const uint64_t end = start + length;
  if (end < start || end > UINT64_MAX - kPageSize) return false;
  range = {page_down(start), page_up(end)};
  return true;
}

long host_advice(Range part, int advice) {
  return host_call(SYS_madvise, part.start, part.size(), static_cast<uint64_t>(advice));
}

bool private_anonymous(const Mapping& mapping) {
  return !mapping.shared && mapping.backing == Backing::anonymous;
}

// What the advice does, or why it is refused.
using Advise = long (*)(Call&, const Mapping&, Range, int advice);

// Changes nothing that the guest can see.
long nothing(Call&, const Mapping&, Range, int) { return 0; }
long unless_locked(Call&, const Mapping& mapping, Range, int) { return mapping.locked ? -EINVAL : 0; }
// What a child process is to have of it.
long mark_for_forks(Call& call, const Mapping& mapping, Range part, int advice) {
  if (advice == MADV_WIPEONFORK && !private_anonymous(mapping)) return -EINVAL;
  const bool wipe = advice == MADV_WIPEONFORK || advice == MADV_KEEPONFORK;
  call.process.memory.space().mark(part, wipe ? &Mapping::wiped_in_forks : &Mapping::left_out_of_forks,
                                   advice == MADV_WIPEONFORK || advice == MADV_DONTFORK);
  return 0;
}

// May be ignored (madvise(2)), and must be: when the pages go is up to the kernel's need for memory.
long free_lazily(Call&, const Mapping& mapping, Range, int) {
  return private_anonymous(mapping) && !mapping.locked ? 0 : -EINVAL;
}

long discard(Call& call, const Mapping& mapping, Range part, int advice) {
  if (mapping.locked && advice != kDontNeedLocked) return -EINVAL;
  if (!mapping.locked) return call.process.memory.discard(call.answer, part);
  // The host's own mapping is locked, too.
  host_call(SYS_munlock, part.start, part.size());
  const long result = call.process.memory.discard(call.answer, part);
  host_call(SYS_mlock2, part.start, part.size(), MLOCK_ONFAULT);
  return result;
}

// madvise_remove(): the file, or the shared memory, loses the pages.
long punch(Call& call, const Mapping& mapping, Range part, int advice) {
  if (mapping.locked) return -EINVAL;
  if (!mapping.shared) return mapping.backing == Backing::anonymous ? -EINVAL : -EACCES;
  const long result = host_advice(part, advice);
  if (result == 0) call.answer.written(part.start, part.size());
  return result;
}

// faultin_page_range(): what the protection forbids is EINVAL, and EFAULT lies beyond a file's end.
long populate(Call&, const Mapping& mapping, Range part, int advice) {
  const int needed = advice == MADV_POPULATE_WRITE ? PROT_WRITE : PROT_READ;
  return (mapping.prot & needed) == 0 ? -EINVAL : host_advice(part, advice);
}

struct Advice {
  int advice;
  Advise advise;
  bool stop_at_hole = false;
};

// What isn't here answers EINVAL, as on a kernel that lacks it.
constexpr Advice kAdvice[] = {
    {MADV_NORMAL, nothing},
    {MADV_RANDOM, nothing},
    {MADV_SEQUENTIAL, nothing},
    {MADV_WILLNEED, nothing},
    {MADV_DONTNEED, discard},
    {kDontNeedLocked, discard},
    {MADV_FREE, free_lazily},
    {MADV_REMOVE, punch},
    {MADV_DONTFORK, mark_for_forks},
    {MADV_DOFORK, mark_for_forks},
    {MADV_MERGEABLE, nothing},
    {MADV_UNMERGEABLE, nothing},
    {MADV_HUGEPAGE, nothing},
    {MADV_NOHUGEPAGE, nothing},
    {MADV_DONTDUMP, nothing},
    {MADV_DODUMP, nothing},
    {MADV_WIPEONFORK, mark_for_forks},
    {MADV_KEEPONFORK, mark_for_forks},
    {MADV_COLD, unless_locked},
    {MADV_PAGEOUT, unless_locked},
    {MADV_POPULATE_READ, populate, true},
    {MADV_POPULATE_WRITE, populate, true},
};

// mlock() and munlock(): the mapped start of the range gets the mark, a hole gives ENOMEM.
long change_locks(Call& call, Range range, bool locked, Range& changed) {
  AddressSpace& space = call.process.memory.space();
  changed = {range.start, range.start};
  const long result = walk(space, range, true, [&](const Mapping&, Range part) {
    changed.end = part.end;
    return 0L;
  });
  if (changed.size() != 0) space.mark(changed, &Mapping::locked, locked);
  return result;
}

}  // namespace

namespace calls {

long madvise(Call& call) {
  const auto [start, length, advice_value, d, e, f] = call.args;
  const auto advice = static_cast<int>(advice_value);
  const auto* row = std::ranges::find(kAdvice, advice, &Advice::advice);
  Range range;
  if (row == std::end(kAdvice) || !page_aligned(start) || !whole_pages(start, length, range)) return -EINVAL;
  return walk(call.process.memory.space(), range, row->stop_at_hole,
              [&](const Mapping& mapping, Range part) { return row->advise(call, mapping, part, advice); });
}

long mincore(Call& call) {
  const auto [start, length, vector, d, e, f] = call.args;
  if (!page_aligned(start)) return -EINVAL;
  Range range;
  if (!whole_pages(start, length, range)) return -ENOMEM;
  if (range.size() == 0) return 0;
  // The vector is written mapping by mapping.
  Range mapped{range.start, range.start};
  const long holes = walk(call.process.memory.space(), range, true, [&](const Mapping&, Range part) {
    mapped.end = part.end;
    return 0L;
  });
  if (mapped.size() == 0) return -ENOMEM;
  const uint64_t pages = mapped.size() / kPageSize, target = guest_pointer(vector, pages);
  const long result = host_call(SYS_mincore, mapped.start, mapped.size(), target);
  if (result == 0) call.answer.written(target, pages);
  if (result == -EFAULT) note_reachable(call, target, pages);
  return result != 0 ? result : holes;
}

long msync(Call& call) {
  const uint64_t start = call.args[0], length = call.args[1], flags = call.args[2];
  if ((flags & ~static_cast<uint64_t>(MS_ASYNC | MS_INVALIDATE | MS_SYNC)) != 0 || !page_aligned(start) ||
      (flags & (MS_ASYNC | MS_SYNC)) == (MS_ASYNC | MS_SYNC))
    return -EINVAL;
  Range range;
  if (!whole_pages(start, length, range)) return -ENOMEM;
  return walk(call.process.memory.space(), range, false, [&](const Mapping& mapping, Range part) -> long {
    if ((flags & MS_INVALIDATE) != 0 && mapping.locked) return -EBUSY;
    if ((flags & MS_SYNC) == 0 || !mapping.shared || mapping.backing != Backing::file) return 0;
    return host_call(SYS_msync, part.start, part.size(), MS_SYNC);
  });
}

long mlock(Call& call) {
  const auto [start, length, flags_asked, d, e, f] = call.args;
  const uint64_t flags = call.row.number == SYS_mlock2 ? flags_asked : 0;
  if ((flags & ~static_cast<uint64_t>(MLOCK_ONFAULT)) != 0) return -EINVAL;
  Range range;
  const bool fits = whole_pages(start, length, range);
  if (const long error = may_lock(call.process, fits ? range.size() : 0))
    return error == -EAGAIN ? -ENOMEM : error;
  if (!fits) return -EINVAL;
  Range locked;
  const long holes = change_locks(call, range, true, locked);
  if (locked.size() == 0) return holes;
  // To lock is to bring the pages in, and what can't be brought in is ENOMEM; the mark stays.
  const long result = host_call(SYS_mlock2, locked.start, locked.size(), flags);
  return result != 0 ? result : holes;
}

long munlock(Call& call) {
  Range range, unlocked;
  if (!whole_pages(call.args[0], call.args[1], range)) return -EINVAL;
  const long holes = change_locks(call, range, false, unlocked);
  if (unlocked.size() != 0) host_call(SYS_munlock, unlocked.start, unlocked.size());
  return holes;
}

// Marks only: the kernel's would lock the recorder and its windows.
long mlockall(Call& call) {
  const uint64_t flags = call.args[0];
  if (flags == 0 || flags == MCL_ONFAULT ||
      (flags & ~static_cast<uint64_t>(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)) != 0)
    return -EINVAL;
  AddressSpace& space = call.process.memory.space();
  uint64_t all = 0;
  if ((flags & MCL_CURRENT) != 0)
    for (const auto& [start, mapping] : space.mappings())
      if (!mapping.locked) all += mapping.end - start;
  if (const long error = may_lock(call.process, all)) return error == -EAGAIN ? -ENOMEM : error;
  call.process.lock_future = (flags & MCL_FUTURE) != 0;
  if ((flags & MCL_CURRENT) != 0) space.mark({0, UINT64_MAX}, &Mapping::locked, true);
  return 0;
}

long munlockall(Call& call) {
  AddressSpace& space = call.process.memory.space();
  std::vector<Range> locked;
  for (const auto& [start, mapping] : space.mappings())
    if (mapping.locked) locked.push_back({start, mapping.end});
  for (const Range& range : locked) {
    space.mark(range, &Mapping::locked, false);
    host_call(SYS_munlock, range.start, range.size());
  }
  call.process.lock_future = false;
  return 0;
}

}  // namespace calls
}  // namespace aftercheck
