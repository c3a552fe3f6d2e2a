// What bounds a guest's memory beside the room that there is: its resource limits (getrlimit(2)), the
// kernel's guess of what can't be had, and how far the stack and other mappings with MAP_GROWSDOWN grow.
#pragma once

#include <cstdint>

#include "kvm-recorder/guest_task.h"

namespace aftercheck {

// The guest's soft limit, RLIM_INFINITY for none (system_calls_settings.cc).
uint64_t soft_limit(GuestProcess& process, int resource);

// mm/vma.c, may_expand_vm(): may `bytes` more be mapped within RLIMIT_AS, and within RLIMIT_DATA where they
// are `data` (is_data_mapping())? `replaced`: what the new mapping takes the place of.
bool within_limits(GuestProcess& process, uint64_t bytes, bool data, Range replaced = {});
// is_data_mapping(): private, writable, no stack.
bool is_data(bool shared, int prot, bool grows_down);
// mm/util.c, __vm_enough_memory(), in its usual mode (vm.overcommit_memory 0): false for more than all memory
// and swap of the host.
bool could_ever_be_had(uint64_t bytes);

// mm/mlock.c: 0, or what mlock(2) answers where nothing may be locked (-EPERM), mmap(2) where `bytes` more
// are too many
// (-EAGAIN; mlock(2) makes ENOMEM of it).
long may_lock(GuestProcess& process, uint64_t bytes);

// mm/mmap.c, expand_downwards(): `address` is not mapped, and the next mapping above it grows: it now begins
// at or below `address`. False where it may not: RLIMIT_STACK as it is now, the gap to the mapping below, the
// end of the window.
bool grow_down(GuestProcess& process, Answer& answer, uint64_t address);
// Before the kernel, or we, use the stack at `address`: it grows as at a fault.
void reach_stack(GuestTask& task, uint64_t address);

}  // namespace aftercheck
