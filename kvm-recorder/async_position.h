// Where a guest may be stopped so that a replay can find the very instant again (docs/architecture.md,
// "Asynchronous positions").
#pragma once

#include <optional>

#include "machine/address_space.h"
#include "machine/exit.h"
#include "machine/vcpu.h"

namespace aftercheck {

// Steps the guest, which was stopped anywhere, on to an instruction that can be a position: none that enters
// the kernel, is answered by the host, saves or loads flags, or repeats; if one comes soon, the place a
// function returns to, which the guest passes less often than the inside of a loop. nullopt: it is there.
// Otherwise the guest exited by itself on the way: that exit.
std::optional<Exit> step_to_position(Vcpu& vcpu, const AddressSpace& space);

}  // namespace aftercheck
