// Where a guest may be stopped so that a replay can find the very instant again (docs/architecture.md,
// "Asynchronous positions").
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "machine/address_space.h"
#include "machine/exit.h"
#include "machine/vcpu.h"
#include "recording/event.h"

namespace aftercheck {

// What is known of the way to a position.
struct Approach {
  std::optional<Exit> exit;      // the guest exited by itself: there is no position
  std::vector<uint64_t> stored;  // where the steps stored something, in their order
};

// Steps the guest, which was stopped anywhere, on to an instruction that can be a position: none that enters
// the kernel, is answered by the host, saves or loads flags, or repeats; if one comes soon, the place a
// function returns to, which the guest passes less often than the inside of a loop. Nothing
// if it is there already.
Approach step_to_position(Vcpu& vcpu, const AddressSpace& space);

// The same for a position that is known by how many branches were executed: the next instruction that can be
// one. Stops without one, where `*found` is false, when it does not come within a few instructions (a long
// string instruction). `further`: so many instructions behind the first.
Approach step_to_counted_position(Vcpu& vcpu, const AddressSpace& space, unsigned further, bool* found);

// Whether what executes at `rip` comes by there again before any branch that vCPUs count (machine/vcpu.h): an
// endless loop of direct jumps, in which count and RIP are no position.
bool comes_again_uncounted(uint64_t rip, const AddressSpace& space);

// Digests of a few cache lines that tell this instant from others at the same place, for an asynchronous
// event to have before those of all memory: a replay refuses nearly every wrong arrival by one of them. They
// are what was stored last, what is near the stack pointer, and what registers point at.
std::vector<recording::MemoryDigest> sample_memory(const AddressSpace& space, const Registers& registers,
                                                   std::span<const uint64_t> stored);

}  // namespace aftercheck
