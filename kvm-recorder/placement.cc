#include "kvm-recorder/placement.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <iterator>

#include "kvm-recorder/system_calls.h"

namespace aftercheck {

bool is_free(const AddressSpace& space, Range range) {
  const auto& mappings = space.mappings();
  auto next = mappings.lower_bound(range.start);
  if (next != mappings.end() && next->second.start < range.end) return false;
  return next == mappings.begin() || std::prev(next)->second.end <= range.start;
}

namespace {

// Where mmap(2) puts what asks for the low 2 GiB (arch/x86/kernel/sys_x86_64.c, find_start_end): from here
// upwards.
constexpr uint64_t kLowStart = 0x4000'0000, kLowEnd = 0x8000'0000;

// As the kernel for MAP_32BIT, from the bottom up; below kLowStart only what can't be had above it.
std::optional<Range> find_low(const AddressSpace& space, uint64_t length) {
  uint64_t at = kLowStart;
  const auto& mappings = space.mappings();
  for (auto next = mappings.upper_bound(at);; ++next) {
    if (next != mappings.begin()) at = std::max(at, std::prev(next)->second.end);
    const uint64_t end = std::min(kLendable.start, next == mappings.end() ? UINT64_MAX : next->second.start);
    if (at <= end && end - at >= length) return Range{at, at + length};
    if (next == mappings.end() || end == kLendable.start) break;
  }
  return space.find_free(length, kLowStart, kLowWindow);
}

}  // namespace

std::optional<Range> find_place(GuestProcess& process, uint64_t length) {
  AddressSpace& space = process.memory.space();
  if (const auto found = space.find_free(length, process.mmap_top)) return found;
  if (const auto found = space.find_free(length)) return found;
  const auto wide = space.find_free(length, 0, kWideArea);
  return wide && space.claim(*wide) == 0 ? wide : std::nullopt;
}

namespace {

// MAP_FIXED and MAP_FIXED_NOREPLACE.
long check_fixed(GuestProcess& process, Range place, bool replace) {
  AddressSpace& space = process.memory.space();
  if (place.start < kLowWindow.start) return -EPERM;  // mmap_min_addr
  if (space.claim(place) != 0) {
    tell_once(
        process, "mmap outside",
        fmt::format(
            "the guest asked mmap for the fixed address {:#x} (+{:#x}), which can't be given to it, because "
            "the recorder's own memory may be there: answered ENOMEM. Programs that run under valgrind, or "
            "are built with MemorySanitizer or ThreadSanitizer, can't be recorded",
            place.start, place.size()));
    return -ENOMEM;
  }
  return !replace && !is_free(space, place) ? -EEXIST : 0;
}

}  // namespace

long choose_place(GuestProcess& process, uint64_t hint, uint64_t length, uint64_t flags, Range& place) {
  AddressSpace& space = process.memory.space();
  if (length > kUserEnd) return -ENOMEM;
  if (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) {
    if (hint > kUserEnd - length) return -ENOMEM;
    if (!page_aligned(hint)) return -EINVAL;
    place = {hint, hint + length};
    return check_fixed(process, place, !(flags & MAP_FIXED_NOREPLACE));
  }
  // A hint stands for the page that it is in, and for mmap_min_addr at least (mm/mmap.c, round_hint_to_min).
  const uint64_t wanted = page_down(hint);
  if (wanted != 0 && wanted <= kUserEnd - length) {
    const uint64_t start = std::max(wanted, kLowWindow.start);
    const bool low_enough = !(flags & MAP_32BIT) || (length <= kLowEnd && start <= kLowEnd - length);
    place = {start, start + length};
    // What a replaying machine may have lent itself is a guest's only where it insists.
    const bool lendable = place.start < kLendable.end && place.end > kLendable.start;
    if (low_enough && !lendable && is_free(space, place) && space.claim(place) == 0) return 0;
  }
  const std::optional<Range> found =
      flags & MAP_32BIT ? find_low(space, length) : find_place(process, length);
  if (!found) return -ENOMEM;
  place = *found;
  return 0;
}

}  // namespace aftercheck
