// What an exit costs on this host: what `--machine auto` decides by.
#pragma once

#include <optional>
#include <string>

#include "machine/vcpu.h"

namespace aftercheck {

// From guest to host and back, by a system call in an empty loop. Microseconds.
struct ExitCosts {
  std::optional<double> kvm, translated;  // nothing: this machine can't be had here
  std::string why_not_kvm, why_not_translated;
};

// Measures, which takes some 30 ms, by guests in a child process that uses its copy of `space`; nothing is
// mapped there yet. A child that crashes or hangs is a reason not to have the machine that it tried. Throws
// Error(io) where there can be no child.
ExitCosts measure_exit_costs(AddressSpace& space);

// Where the costs of this host are kept: $XDG_CACHE_HOME/aftercheck (~/.cache/aftercheck), in a file for this
// version, kernel, processor and KVM module. Empty where the environment names no such place.
std::string exit_costs_file();
// Nothing where there is no such file, or one that says something else.
std::optional<ExitCosts> read_exit_costs(const std::string& file);
// Only where both machines can be had: the lack of one may pass, and is found out at little cost. False where
// the file can't be written.
bool keep_exit_costs(const std::string& file, const ExitCosts& costs);

// From the file, else measured, and then kept. Where /dev/kvm can't be opened it says just that.
ExitCosts exit_costs_of_host(AddressSpace& space);

}  // namespace aftercheck
