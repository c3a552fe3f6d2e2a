// Where a new mapping of the guest's goes.
#pragma once

#include <cstdint>
#include <optional>

#include "kvm-recorder/guest_process.h"
#include "machine/address_space.h"

namespace aftercheck {

constexpr uint64_t kUserEnd = 0x7fff'ffff'f000;  // TASK_SIZE_MAX

constexpr bool page_aligned(uint64_t address) { return (address & (kPageSize - 1)) == 0; }

// Nothing is mapped in the range.
bool is_free(const AddressSpace& space, Range range);

// A place for `length` bytes where the guest did not say: below the stack's room, as the kernel's mmap_base;
// above it there is only what address randomisation left free; what fits into no window goes elsewhere.
std::optional<Range> find_place(GuestProcess& process, uint64_t length);

// Where mmap(2) with these flags (MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_32BIT) puts a new mapping. 0 or -errno.
long choose_place(GuestProcess& process, uint64_t hint, uint64_t length, uint64_t flags, Range& place);

}  // namespace aftercheck
