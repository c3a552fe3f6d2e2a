#include "kvm-recorder/memory_limits.h"

#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>

namespace aftercheck {
namespace {

// mm/mmap.c, stack_guard_gap.
constexpr uint64_t kGuardGap = 256 * kPageSize;
// The stack grows by at least this much at once, where it may: each growth is an event of its own.
constexpr uint64_t kStackStep = 1 << 20;

bool may_lock_anything() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
  return syscall(SYS_capget, &header, data.data()) == 0 && (data[0].effective >> CAP_IPC_LOCK & 1) != 0;
}

bool overcommits_by_guess() {
  static const bool guess = [] {
    std::ifstream file("/proc/sys/vm/overcommit_memory");
    int mode = 0;
    return !(file >> mode) || mode == 0;
  }();
  return guess;
}

// The lowest address that the mapping may have after it has grown: what lies below it, and the window.
uint64_t lowest_start(const AddressSpace& space, const Mapping& mapping) {
  uint64_t lowest = window_of(mapping.start).start;
  const auto it = space.mappings().lower_bound(mapping.start);
  if (it == space.mappings().begin()) return lowest;
  const Mapping& below = std::prev(it)->second;
  const bool gap = below.prot != PROT_NONE && !below.grows_down;
  return std::max(lowest, below.end + (gap ? kGuardGap : 0));
}

}  // namespace

bool is_data(bool shared, int prot, bool grows_down) {
  return !shared && (prot & PROT_WRITE) != 0 && !grows_down;
}

bool within_limits(GuestProcess& process, uint64_t bytes, bool data, Range replaced) {
  const uint64_t space_limit = soft_limit(process, RLIMIT_AS),
                 data_limit = data ? soft_limit(process, RLIMIT_DATA) : RLIM_INFINITY;
  if (space_limit == RLIM_INFINITY && data_limit == RLIM_INFINITY) return true;
  uint64_t all = 0, all_data = 0;
  for (const auto& [start, mapping] : process.memory.space().mappings()) {
    const uint64_t first = std::clamp(replaced.start, start, mapping.end),
                   last = std::clamp(replaced.end, start, mapping.end);
    const uint64_t size = mapping.end - start - (last > first ? last - first : 0);
    all += size;
    if (is_data(mapping.shared, mapping.prot, mapping.grows_down)) all_data += size;
  }
  // Whole pages count.
  return all + bytes <= page_down(space_limit) && (!data || all_data + bytes <= page_down(data_limit));
}

bool could_ever_be_had(uint64_t bytes) {
  struct sysinfo info {};
  if (!overcommits_by_guess() || sysinfo(&info) != 0) return true;
  return bytes <= (static_cast<uint64_t>(info.totalram) + info.totalswap) * info.mem_unit;
}

long may_lock(GuestProcess& process, uint64_t bytes) {
  const uint64_t limit = soft_limit(process, RLIMIT_MEMLOCK);
  if (limit == RLIM_INFINITY || may_lock_anything()) return 0;
  if (limit == 0) return -EPERM;
  uint64_t locked = bytes;
  for (const auto& [start, mapping] : process.memory.space().mappings())
    if (mapping.locked) locked += mapping.end - start;
  return locked <= page_down(limit) ? 0 : -EAGAIN;
}

bool grow_down(GuestProcess& process, Answer& answer, uint64_t address) {
  const AddressSpace& space = process.memory.space();
  const auto above = space.mappings().upper_bound(address);
  if (above == space.mappings().end() || space.find(address) != nullptr) return false;
  const Mapping mapping = above->second;
  if (!mapping.grows_down) return false;
  const uint64_t lowest = lowest_start(space, mapping), limit = soft_limit(process, RLIMIT_STACK);
  const auto allowed = [&](uint64_t start) {
    return start >= lowest && mapping.end - start <= limit &&
           within_limits(process, mapping.start - start, false) &&
           (!mapping.locked || may_lock(process, mapping.start - start) == 0);
  };
  const bool stack = mapping.end == process.stack.end;
  uint64_t start = page_down(address);
  if (!allowed(start)) return false;
  if (stack && mapping.start - start < kStackStep && mapping.start > kStackStep &&
      allowed(mapping.start - kStackStep))
    start = mapping.start - kStackStep;
  LoggedSpace& memory = process.memory;
  const Range more{start, mapping.start};
  if (memory.map_anonymous(answer, more, mapping.prot, false, mapping.name) != 0) return false;
  if (mapping.locked) memory.space().mark(more, &Mapping::locked, true);
  memory.space().mark(more, &Mapping::grows_down, true);
  if (stack) process.stack.start = start;
  return true;
}

void reach_stack(GuestTask& task, uint64_t address) {
  const Range& stack = task.process.stack;
  if (address >= stack.start || stack.start == 0) return;
  const AddressSpace& space = task.process.memory.space();
  const auto above = space.mappings().upper_bound(address);
  if (above != space.mappings().end() && above->second.grows_down)
    grow_down(task.process, task.answer, address);
}

}  // namespace aftercheck
