// Words of our own on standard error, from anywhere in the process: for base/log.h and base/invariant.h. What
// the command tells people in the ordinary course of things is tools/console.h's.
#pragma once

#include <string_view>

namespace aftercheck {

// Keeps a descriptor of standard error that a guest in this process can neither see nor close. Call it once,
// before a guest or a thread runs; without it, or where standard error is closed, words go to descriptor 2 as
// it is then. Never fails.
void keep_standard_error() noexcept;

// Writes `text` with one write(2), so that lines of several threads and processes do not mix; what does not
// fit into a full pipe is lost. False where it could not be written. Leaves errno, and raises no SIGPIPE or
// SIGXFSZ, which the guest would take for its own. Any thread.
bool say_on_standard_error(std::string_view text) noexcept;

}  // namespace aftercheck
