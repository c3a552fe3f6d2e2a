// Requests of ioctl(2) whose structures have pointers in them, or say themselves how long they are. Inside of
// ioctl_table.cc.
#pragma once

#include <cstdint>

#include "kvm-recorder/system_calls.h"

namespace aftercheck {

// The host gets a copy of the structure at guest address `address`, and the guest what the host made of it.
// The result is the host's, or -EFAULT.
long get_interfaces(Call& call, uint64_t address);  // SIOCGIFCONF
long ask_interface(Call& call, uint64_t address);   // SIOCETHTOOL
long get_extents(Call& call, uint64_t address);     // FS_IOC_FIEMAP
long deduplicate(Call& call, uint64_t address);     // FIDEDUPERANGE

}  // namespace aftercheck
