// Starting a guest from a kept checkpoint.
#pragma once

#include <vector>

#include "checkpoint/checkpoint.h"
#include "recording/event.h"
#include "replay-engine/guest.h"

namespace aftercheck {

// Builds the guest, which must be as before its first event, as the checkpoint has it. Gives what was built
// for the participants, as Guest::describe() does, without the contents of memory. Throws Error(bad_input)
// for what is damaged, missing or does not fit; the guest is then to be reset.
std::vector<recording::Event> restore(Guest& guest, const Checkpoint& checkpoint, recording::Store& store);

}  // namespace aftercheck
