#include "machine/address_space.h"

#include <sys/mman.h>
#include <sys/random.h>
#include <sys/shm.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "base/error.h"
#include "base/guarded_copy.h"

namespace aftercheck {
namespace {

constexpr std::array<Range, 2> kWindows = {kLowWindow, kMainWindow};
constexpr std::array<Range, 3> kReserved = {kLowWindow, kMainWindow, kGhostWindow};

void* pointer(uint64_t address) { return reinterpret_cast<void*>(address); }

bool reserve(Range range, int extra_flags) {
  return mmap(pointer(range.start), range.size(), PROT_NONE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | extra_flags, -1, 0) == pointer(range.start);
}

// What was claimed beyond the windows. Of the process, as the windows are: there is at most one AddressSpace.
struct Claims {
  std::map<uint64_t, uint64_t> ranges;  // end by start, disjoint
  std::set<uint64_t> used;              // starts of stretches of kClaimSize
};

Claims& claims() {
  static Claims all;
  return all;
}

bool overlap(Range a, Range b) { return a.start < b.end && b.start < a.end; }

bool unusable(Range range, int prot) { return prot != PROT_NONE && overlap(range, kTablesRange); }

bool aligned(Range range) {
  return range.start % kPageSize == 0 && range.end % kPageSize == 0 && range.start < range.end;
}

bool mergeable(const Mapping& left, const Mapping& right) {
  return left.end == right.start && left.prot == right.prot && left.backing == Backing::anonymous &&
         right.backing == Backing::anonymous && !left.shared && !right.shared && left.name == right.name &&
         left.locked == right.locked && left.grows_down == right.grows_down &&
         left.left_out_of_forks == right.left_out_of_forks && left.wiped_in_forks == right.wiped_in_forks;
}

}  // namespace

// Guest code runs in the vCPU or translated, never where it is, so the host never maps it executable; what it
// needs is to be readable. (PROT_EXEC alone would even get a protection key that makes it
// unreadable.)
int host_protection(int prot) {
  int result = 0;
  if ((prot & (PROT_READ | PROT_EXEC)) != 0) result |= PROT_READ;
  if ((prot & PROT_WRITE) != 0) result |= PROT_READ | PROT_WRITE;
  return result;
}

bool in_windows(uint64_t address, uint64_t size) {
  for (const Range& window : kWindows)
    if (address >= window.start && address <= window.end && size <= window.end - address) return true;
  if (claims().ranges.empty()) return false;
  // Windows may lie side by side.
  for (;;) {
    const Range window = window_of(address);
    if (window.size() == 0) return false;
    if (size <= window.end - address) return true;
    size -= window.end - address;
    address = window.end;
  }
}

bool may_be_guest(uint64_t address, uint64_t size) {
  if (address < kLowWindow.start || address > kGuestEnd || size > kGuestEnd - address) return false;
  const Range range{address, address + size};
  return !overlap(range, kHostProgram) && !overlap(range, kGhostWindow) && !overlap(range, kCodeWindows[0]) &&
         !overlap(range, kCodeWindows[1]);
}

bool in_fixed_window(uint64_t address) {
  return kLowWindow.contains(address) || kMainWindow.contains(address);
}

Range window_of(uint64_t address) {
  for (const Range& window : kWindows)
    if (window.contains(address)) return window;
  const auto& ranges = claims().ranges;
  auto it = ranges.upper_bound(address);
  if (it == ranges.begin()) return {};
  --it;
  return address < it->second ? Range{it->first, it->second} : Range{};
}

std::vector<Range> parts_in_windows(Range range) {
  std::vector<Range> parts;
  const auto add = [&](Range window) {
    const Range part{std::max(range.start, window.start), std::min(range.end, window.end)};
    if (part.start < part.end) parts.push_back(part);
  };
  for (const Range& window : kWindows) add(window);
  const auto& ranges = claims().ranges;
  auto it = ranges.upper_bound(range.start);
  if (it != ranges.begin()) --it;
  for (; it != ranges.end() && it->first < range.end; ++it) add({it->first, it->second});
  std::ranges::sort(parts, {}, &Range::start);
  return parts;
}

std::vector<Range> used_parts(Range range) {
  std::vector<Range> parts;
  const auto add = [&](uint64_t start, uint64_t end) {
    const Range part{std::max(range.start, start), std::min(range.end, end)};
    if (part.start < part.end) parts.push_back(part);
  };
  for (const Range& window : kWindows) add(window.start, window.end);
  const auto& used = claims().used;
  for (auto it = used.lower_bound(range.start & ~(kClaimSize - 1)); it != used.end() && *it < range.end; ++it)
    add(in_fixed_window(*it) ? kLowWindow.end : *it,
        *it + kClaimSize);  // the low window ends within a stretch
  std::ranges::sort(parts, {}, &Range::start);
  return parts;
}

Mapping Mapping::part(uint64_t skip, uint64_t size) const {
  Mapping part = *this;
  part.start = start + skip;
  part.end = part.start + size;
  if (backing == Backing::file) part.offset += skip;
  return part;
}

AddressSpace::AddressSpace() {
  install_fault_guard();
  for (const Range& window : kReserved)
    if (!reserve(window, MAP_FIXED_NOREPLACE))
      fail(ErrorKind::host_lacks,
           "can't reserve the guest window {:#x}-{:#x}: {}; is another guest in this process, or is the "
           "address space "
           "limited (ulimit -v)?",
           window.start, window.end, errno_text(errno));
  // What is left of the low 2 GiB behind the low window, where nothing of ours is: not so under
  // AddressSanitizer.
  constexpr Range kTail{kLowWindow.end, 0x8000'0000};
  if (reserve(kTail, MAP_FIXED_NOREPLACE)) claims().ranges.emplace(kTail.start, kTail.end);
}

AddressSpace::~AddressSpace() {
  for (const Range& window : kReserved) munmap(pointer(window.start), window.size());
  for (const auto& [start, end] : claims().ranges) munmap(pointer(start), end - start);
  claims() = {};
}

int AddressSpace::claim(Range range) {
  if (in_windows(range.start, range.size())) return 0;
  if (!may_be_guest(range.start, range.size())) return -ENOMEM;
  const Range whole{std::max(range.start & ~(kClaimSize - 1), kLowWindow.start),
                    (range.end + kClaimSize - 1) & ~(kClaimSize - 1)};
  std::vector<Range> taken = parts_in_windows(whole);
  taken.push_back({whole.end, whole.end});
  uint64_t at = whole.start;
  for (const Range& part : taken) {
    if (at < part.start) {
      if (!reserve({at, part.start}, MAP_FIXED_NOREPLACE)) return -ENOMEM;
      claims().ranges.emplace(at, part.start);
    }
    at = part.end;
  }
  return 0;
}

bool AddressSpace::bring_in(uint64_t address) {
  if (in_fixed_window(address)) return false;
  const Mapping* mapping = find(address);
  return mapping != nullptr && mapping->prot != PROT_NONE && use(address);
}

bool AddressSpace::use(uint64_t address) {
  const uint64_t start = address & ~(kClaimSize - 1);
  if (!claims().used.insert(start).second) return false;
  mappings_.visit(start, kClaimSize, [&](uint64_t, const Mapping& there, uint64_t first, uint64_t size) {
    for (SpaceObserver* observer : observers_) observer->on_map({first, first + size}, there.prot);
  });
  return true;
}

void AddressSpace::use_all(Range range) {
  if (in_fixed_window(range.start)) return;
  for (uint64_t at = range.start; at < range.end; at = (at & ~(kClaimSize - 1)) + kClaimSize) use(at);
}

void AddressSpace::add_observer(SpaceObserver* observer) {
  observers_.push_back(observer);
  for (const auto& [start, mapping] : mappings_) observer->on_map({start, mapping.end}, mapping.prot);
}

void AddressSpace::remove_observer(SpaceObserver* observer) { std::erase(observers_, observer); }

template <typename Visit>
bool AddressSpace::for_each_part(Range range, Visit visit) const {
  if (!mappings_.covers(range.start, range.size())) return false;
  mappings_.visit(range.start, range.size(),
                  [&](uint64_t, const Mapping& mapping, uint64_t first, uint64_t size) {
                    visit(mapping, Range{first, first + size});
                  });
  return true;
}

void AddressSpace::erase_range(Range range) {
  mappings_.erase(range.start, range.size());
  erase_patches(range);
}

void AddressSpace::erase_patches(Range range) {
  patches_.erase(patches_.lower_bound(range.start), patches_.lower_bound(range.end));
}

void AddressSpace::insert(Mapping mapping) {
  const auto next = mappings_.find(mapping.end);
  if (next != mappings_.end() && mergeable(mapping, next->second)) mapping.end = next->second.end;
  const auto previous = mappings_.find(mapping.start - 1);
  if (previous != mappings_.end() && mergeable(previous->second, mapping)) mapping.start = previous->first;
  mappings_.put(mapping.start, std::move(mapping));
}

int AddressSpace::install(Range range, int prot, void* mapped, Mapping mapping) {
  if (mapped == MAP_FAILED) return -errno;
  erase_range(range);
  mapping.start = range.start;
  mapping.end = range.end;
  mapping.prot = prot;
  insert(std::move(mapping));
  for (SpaceObserver* observer : observers_) observer->on_map(range, prot);
  return 0;
}

int AddressSpace::map_anonymous(Range range, int prot, bool shared, const std::string& name) {
  if (!aligned(range)) return -EINVAL;
  if (!in_windows(range.start, range.size()) || unusable(range, prot) || is_lent(range)) return -ENOMEM;
  void* mapped = mmap(pointer(range.start), range.size(), host_protection(prot),
                      (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  Mapping mapping;
  mapping.shared = shared;
  mapping.name = name;
  return install(range, prot, mapped, std::move(mapping));
}

int AddressSpace::map_file(Range range, int prot, int fd, uint64_t offset, bool shared,
                           const std::string& name, const FileDetails& details) {
  if (!aligned(range) || offset % kPageSize != 0) return -EINVAL;
  if (!in_windows(range.start, range.size()) || unusable(range, prot) || is_lent(range)) return -ENOMEM;
  struct stat status {};
  if (fstat(fd, &status) != 0) return -errno;
  void* mapped =
      mmap(pointer(range.start), range.size(), host_protection(prot),
           (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_FIXED | MAP_NORESERVE, fd, static_cast<off_t>(offset));
  Mapping mapping;
  mapping.backing = Backing::file;
  mapping.shared = shared;
  mapping.offset = offset;
  mapping.file_size = static_cast<uint64_t>(status.st_size);
  mapping.name = name;
  mapping.device = details.device;
  mapping.inode = details.inode;
  mapping.contents = details.contents;
  mapping.number = details.number;
  mapping.copied_from = details.copied_from;
  mapping.may = details.may;
  return install(range, prot, mapped, std::move(mapping));
}

int AddressSpace::attach_segment(Range range, int prot, int segment, const std::string& name,
                                 const FileDetails& details) {
  if (!aligned(range)) return -EINVAL;
  if (!in_windows(range.start, range.size()) || unusable(range, prot) || is_lent(range)) return -ENOMEM;
  // Executable for the kernel's check alone: see host_protection(). The error is mmap's.
  const bool runs = (prot & PROT_EXEC) != 0;
  void* mapped = shmat(segment, pointer(range.start),
                       SHM_REMAP | ((prot & PROT_WRITE) != 0 ? 0 : SHM_RDONLY) | (runs ? SHM_EXEC : 0));
  if (mapped != MAP_FAILED && runs && mprotect(mapped, range.size(), host_protection(prot)) != 0) {
    const int error = -errno;
    unmap(range);
    return error;
  }
  Mapping mapping;
  mapping.backing = Backing::file;
  mapping.shared = true;
  mapping.file_size = range.size();
  mapping.name = name;
  mapping.device = details.device;
  mapping.inode = details.inode;
  mapping.number = details.number;
  mapping.may = details.may;
  return install(range, prot, mapped, std::move(mapping));
}

void AddressSpace::file_resized(uint64_t number, uint64_t size) {
  std::vector<Mapping> changed;
  for (const auto& [start, mapping] : mappings_)
    if (mapping.number == number && mapping.backing == Backing::file && mapping.file_size != size)
      changed.push_back(mapping);
  for (Mapping& mapping : changed) {
    mapping.file_size = size;
    const Range range{mapping.start, mapping.end};
    const int prot = mapping.prot;
    mappings_.put(range.start, std::move(mapping));
    for (SpaceObserver* observer : observers_) observer->on_protect(range, prot);
  }
}

void AddressSpace::file_written(uint64_t number, uint64_t from, uint64_t size) {
  for (const auto& [start, mapping] : mappings_) {
    if (mapping.number != number || (mapping.prot & PROT_EXEC) == 0) continue;
    const uint64_t first = std::max(from, mapping.offset);
    const uint64_t last = std::min(from + size, mapping.offset + mapping.extent());
    if (first >= last) continue;
    const Range part{start + (first - mapping.offset), start + (last - mapping.offset)};
    for (SpaceObserver* observer : observers_) observer->on_code_change(part);
  }
}

Range AddressSpace::lend(uint64_t size, uint64_t wished) {
  if (size == 0 || size > kLendable.size()) fail(ErrorKind::internal, "lend() of {} bytes", size);
  const uint64_t places = (kLendable.size() - size) / kPageSize + 1;
  uint64_t first = 0;
  if (kLendable.contains(wished) && size <= kLendable.end - wished)
    first = (wished - kLendable.start) / kPageSize;
  else if (getrandom(&first, sizeof first, GRND_NONBLOCK) < 0)
    first = 0;
  for (uint64_t place = 0; place < places; ++place) {
    const uint64_t start = kLendable.start + (first % places + place) % places * kPageSize;
    const Range range{start, start + size};
    const auto next = mappings_.entries().lower_bound(range.start);
    const bool before = find(range.start) != nullptr;
    if (before || (next != mappings_.end() && next->second.start < range.end) || is_lent(range)) continue;
    if (mmap(pointer(range.start), size, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
      fail(ErrorKind::host_lacks, "no memory at {:#x}: {}", range.start, errno_text(errno));
    lent_.push_back(range);
    return range;
  }
  fail(ErrorKind::host_lacks,
       "the guest has memory of its own from {:#x} to {:#x}, which this machine needs; use another "
       "(--machine)",
       kLendable.start, kLendable.end);
}

void AddressSpace::take_back(Range lent) {
  std::erase(lent_, lent);
  reserve(lent, MAP_FIXED);
}

bool AddressSpace::is_lent(Range range) const {
  return std::ranges::any_of(lent_, [range](const Range& lent) { return overlap(lent, range); });
}

int AddressSpace::unmap(Range range) {
  if (!aligned(range) || !in_windows(range.start, range.size())) return -EINVAL;
  if (is_lent(range)) {
    // Around it.
    uint64_t at = range.start;
    std::vector<Range> lent = lent_;
    std::ranges::sort(lent, {}, &Range::start);
    for (const Range& part : lent) {
      if (!overlap(part, range)) continue;
      if (at < part.start)
        if (const int error = unmap({at, part.start})) return error;
      at = part.end;
    }
    return at < range.end ? unmap({at, range.end}) : 0;
  }
  if (!reserve(range, MAP_FIXED)) return -errno;
  erase_range(range);
  for (SpaceObserver* observer : observers_) observer->on_unmap(range);
  return 0;
}

int AddressSpace::protect(Range range, int prot) {
  if (!aligned(range)) return -EINVAL;
  if (!in_windows(range.start, range.size()) || !accessible(range.start, range.size(), 0)) return -ENOMEM;
  if (unusable(range, prot)) return -ENOMEM;
  if (mprotect(pointer(range.start), range.size(), host_protection(prot)) != 0) return -errno;
  auto changed = mappings_.cut_out(range.start, range.size());
  for (auto& [start, mapping] : changed) {
    mapping.prot = prot;
    insert(std::move(mapping));
  }
  if ((prot & PROT_EXEC) == 0) lift_patches(range);
  for (SpaceObserver* observer : observers_) observer->on_protect(range, prot);
  return 0;
}

void AddressSpace::mark(Range range, bool Mapping::*what, bool value) {
  auto changed = mappings_.cut_out(range.start, range.size());
  for (auto& [start, mapping] : changed) {
    mapping.*what = value;
    insert(std::move(mapping));
  }
}

int AddressSpace::grow_in_place(const Mapping& old, Range to) {
  const Range extra{old.end, to.end};
  const auto next = mappings().lower_bound(extra.start);
  if (next != mappings_.end() && next->second.start < extra.end) return -ENOMEM;
  if (old.backing == Backing::anonymous && !old.shared) {
    if (const int error = map_anonymous(extra, old.prot, false, old.name)) return error;
    if (old.locked) mark(extra, &Mapping::locked, true);
    if (old.left_out_of_forks) mark(extra, &Mapping::left_out_of_forks, true);
    if (old.wiped_in_forks) mark(extra, &Mapping::wiped_in_forks, true);
    if (old.grows_down) mark(extra, &Mapping::grows_down, true);
    return 0;  // merged, here and in the kernel
  }
  if (munmap(pointer(extra.start), extra.size()) != 0) return -errno;
  if (mremap(pointer(old.start), old.end - old.start, to.end - old.start, 0) == MAP_FAILED) {
    const int error = errno;
    reserve(extra, MAP_FIXED);
    return -error;
  }
  Mapping grown = old;
  grown.end = to.end;
  mappings_.put(grown.start, grown);
  for (SpaceObserver* observer : observers_) observer->on_map(extra, grown.prot);
  return 0;
}

int AddressSpace::move_mapping(Range from, Range to) {
  const Mapping* source = find(from.start);
  void* moved =
      mremap(pointer(from.start), from.size(), to.size(), MREMAP_MAYMOVE | MREMAP_FIXED, pointer(to.start));
  if (moved == MAP_FAILED && errno == EFAULT && source->backing == Backing::anonymous && !source->shared) {
    // One mapping to us and to the guest, several to the kernel (it does not always merge): copy instead.
    Mapping copy = *source;
    if (const int error = map_anonymous(to, copy.prot, false, copy.name); error != 0) return error;
    std::vector<std::byte> page(kPageSize);
    for (uint64_t done = 0; done < std::min(from.size(), to.size()); done += kPageSize)
      if (!read(from.start + done, page.data(), kPageSize) || !write(to.start + done, page.data(), kPageSize))
        return -EFAULT;
    return unmap(from);
  }
  if (moved == MAP_FAILED) return -errno;
  if (!reserve(from, MAP_FIXED))
    fail(ErrorKind::internal, "mmap of a hole at {:#x}: {}", from.start, errno_text(errno));
  Mapping mapping = *source;
  mapping.offset += mapping.backing == Backing::file ? from.start - mapping.start : 0;
  std::vector<CodePatch> patches;
  for (auto it = patches_.lower_bound(from.start); it != patches_.end() && it->first < from.end; ++it)
    patches.push_back(it->second);
  erase_range(from);
  const int prot = mapping.prot;
  install(to, prot, moved, std::move(mapping));
  for (const Range& part : used_parts(from)) {
    const uint64_t start = to.start + (part.start - from.start);
    if (start < to.end) use_all({start, std::min(start + part.size(), to.end)});
  }
  for (CodePatch& patch : patches) {
    patch.address += to.start - from.start;
    if (patch.address + patch.instruction.length <= to.end) patches_.emplace(patch.address, patch);
  }
  for (SpaceObserver* observer : observers_) observer->on_unmap(from);
  return 0;
}

int AddressSpace::remap(Range from, Range to) {
  if (!aligned(from) || !aligned(to)) return -EINVAL;
  if (is_lent(to)) return -ENOMEM;
  if (!in_windows(from.start, from.size()) || !in_windows(to.start, to.size())) return -EINVAL;
  const Mapping* source = find(from.start);
  if (source == nullptr || source->end < from.end) return -EFAULT;
  if (unusable(to, source->prot)) return -ENOMEM;
  if (from.start == to.start) {
    if (to.end < from.end) return unmap({to.end, from.end});
    if (to.end == from.end) return 0;
    if (source->end != from.end) return -ENOMEM;
    mappings_.split_at(from.start);
    return grow_in_place(Mapping(*find(from.start)), to);
  }
  if (from.start < to.end && to.start < from.end) return -EINVAL;
  return move_mapping(from, to);
}

int AddressSpace::discard(Range range) {
  if (!aligned(range)) return -EINVAL;
  if (!in_windows(range.start, range.size()) || !accessible(range.start, range.size(), 0)) return -ENOMEM;
  if (madvise(pointer(range.start), range.size(), MADV_DONTNEED) != 0) return -errno;
  std::vector<CodePatch> patches;
  for (auto it = patches_.lower_bound(range.start); it != patches_.end() && it->first < range.end; ++it)
    patches.push_back(it->second);
  erase_patches(range);
  for_each_part(range, [&](const Mapping& mapping, Range part) {
    if ((mapping.prot & PROT_EXEC) != 0)
      for (SpaceObserver* observer : observers_) observer->on_code_change(part);
  });
  for (const CodePatch& patch : patches) apply_patch(patch);  // not if zeroes are there now
  return 0;
}

void AddressSpace::clear() {
  for (const Range& window : kWindows) unmap(window);
  for (const auto& [start, end] : claims().ranges) unmap({start, end});
}

const Mapping* AddressSpace::find(uint64_t address) const {
  const auto it = mappings_.find(address);
  return it == mappings_.end() ? nullptr : &it->second;
}

bool AddressSpace::accessible(uint64_t address, uint64_t size, int prot) const {
  if (size == 0) return true;
  if (!in_windows(address, size)) return false;
  bool allowed = true;
  const bool mapped = for_each_part({address, address + size}, [&](const Mapping& mapping, Range) {
    // x86 has no write-only or execute-only pages: what can be written or run can be read.
    const int granted = mapping.prot | (mapping.prot != 0 ? PROT_READ : 0);
    allowed = allowed && (granted & prot) == prot;
  });
  return mapped && allowed;
}

std::optional<Range> AddressSpace::find_free(uint64_t size, uint64_t below, Range window) const {
  if (size == 0 || size % kPageSize != 0 || size > window.size()) return std::nullopt;
  if (window == kLowWindow) window.end = kLendable.start;
  uint64_t end = below == 0 ? window.end : std::min(page_down(below), window.end);
  auto it = mappings().lower_bound(end);
  for (;;) {
    // [floor, end) is free where floor is the end of the mapping before `end`.
    uint64_t floor = window.start;
    if (it != mappings_.begin()) floor = std::max(floor, std::prev(it)->second.end);
    if (end >= window.start && floor <= end && end - floor >= size) return Range{end - size, end};
    if (it == mappings_.begin()) return std::nullopt;
    --it;
    if (it->second.start <= window.start) return std::nullopt;
    end = std::min(end, it->second.start);
  }
}

bool AddressSpace::read(uint64_t address, void* destination, size_t size) const {
  if (size == 0) return true;
  if (!in_windows(address, size)) return false;
  auto* out = static_cast<std::byte*>(destination);
  bool copied = true;
  const bool mapped = for_each_part({address, address + size}, [&](const Mapping& mapping, Range part) {
    const uint64_t page = page_down(part.start), length = page_up(part.end) - page;
    const bool lift = mapping.prot == PROT_NONE;
    if (lift && mprotect(pointer(page), length, PROT_READ) != 0) copied = false;
    copied = copied && guarded_copy(out + (part.start - address), pointer(part.start), part.size());
    if (lift) mprotect(pointer(page), length, PROT_NONE);
  });
  return mapped && copied;
}

bool AddressSpace::write(uint64_t address, const void* source, size_t size) {
  if (size == 0) return true;
  if (!in_windows(address, size)) return false;
  use_all({address, address + size});
  const auto* in = static_cast<const std::byte*>(source);
  bool copied = true;
  const bool mapped = for_each_part({address, address + size}, [&](const Mapping& mapping, Range part) {
    const uint64_t page = page_down(part.start), length = page_up(part.end) - page;
    const bool opened = opened_.start <= part.start && part.end <= opened_.end;
    const bool lift = (mapping.prot & PROT_WRITE) == 0 && !opened;
    if (lift && mprotect(pointer(page), length, PROT_READ | PROT_WRITE) != 0) copied = false;
    copied = copied && guarded_copy(pointer(part.start), in + (part.start - address), part.size());
    if (lift) mprotect(pointer(page), length, host_protection(mapping.prot));
  });
  if (mapped) host_wrote({address, address + size});
  return mapped && copied;
}

void AddressSpace::host_wrote(Range range) {
  if (range.start >= range.end) return;
  use_all(range);
  for_each_part(range, [&](const Mapping& mapping, Range part) {
    if ((mapping.prot & PROT_EXEC) == 0) return;
    for (SpaceObserver* observer : observers_) observer->on_code_change(part);
  });
}

namespace {

// What stands for an instruction: the trap, and NOPs up to the instruction's length.
std::array<uint8_t, 15> trap_bytes() {
  constexpr uint8_t kNop = 0x90;
  std::array<uint8_t, 15> bytes{};
  bytes.fill(kNop);
  std::copy(kTrapBytes.begin(), kTrapBytes.end(), bytes.begin());
  return bytes;
}

}  // namespace

void AddressSpace::lift_patches(Range range) {
  for (auto it = patches_.lower_bound(range.start); it != patches_.end() && it->first < range.end; ++it) {
    const CodePatch& patch = it->second;
    const size_t length = patch.instruction.length;
    std::array<uint8_t, 15> bytes{};
    if (read(patch.address, bytes.data(), length) &&
        std::equal(bytes.begin(), bytes.begin() + static_cast<long>(length), trap_bytes().begin()))
      write(patch.address, patch.original.data(), length);
  }
  erase_patches(range);
}

bool AddressSpace::apply_patch(const CodePatch& patch) {
  const size_t length = patch.instruction.length;
  std::array<uint8_t, 15> bytes{};
  if (length < kTrapBytes.size() || length > bytes.size()) return false;
  if (!read(patch.address, bytes.data(), length)) return false;
  if (!std::equal(bytes.begin(), bytes.begin() + static_cast<long>(length), patch.original.begin()))
    return false;
  if (!write(patch.address, trap_bytes().data(), length)) return false;
  patches_.insert_or_assign(patch.address, patch);
  return true;
}

std::vector<uint64_t> AddressSpace::apply_patches(std::span<const CodePatch> patches) {
  std::vector<uint64_t> applied;
  for (size_t first = 0; first < patches.size();) {
    const Mapping* mapping = find(patches[first].address);
    size_t last = first + 1;
    while (mapping != nullptr && last < patches.size() &&
           patches[last].address >= patches[last - 1].address &&
           patches[last].address + patches[last].instruction.length <= mapping->end)
      ++last;
    // Opened and closed once here, or where that fails (the whole may be more memory than may be committed)
    // and at a mapping's end by each.
    const bool together = mapping != nullptr && last - first > 1 && (mapping->prot & PROT_WRITE) == 0;
    const uint64_t start = page_down(patches[first].address);
    const uint64_t size = page_up(patches[last - 1].address + patches[last - 1].instruction.length) - start;
    const int closed = mapping == nullptr ? PROT_NONE : host_protection(mapping->prot);
    const bool open = together && mprotect(pointer(start), size, PROT_READ | PROT_WRITE) == 0;
    opened_ = open ? Range{start, start + size} : Range{};
    for (const CodePatch& patch : patches.subspan(first, last - first))
      if (apply_patch(patch)) applied.push_back(patch.address);
    opened_ = {};
    if (open) mprotect(pointer(start), size, closed);
    first = last;
  }
  return applied;
}

const CodePatch* AddressSpace::patch_at(uint64_t address) const {
  const auto it = patches_.find(address);
  return it == patches_.end() ? nullptr : &it->second;
}

}  // namespace aftercheck
