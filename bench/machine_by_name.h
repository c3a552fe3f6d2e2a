// Machines by the names that `aftercheck --machine` takes.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "base/error.h"
#include "machine/vcpu.h"

namespace aftercheck {

// Throws Error(usage) for what is no name of a machine.
inline MachineChoice machine_by_name(std::string_view word) {
  constexpr std::string_view kAutomatic = "auto";
  if (word == kAutomatic) return MachineChoice::automatic;
  std::string names(kAutomatic);
  for (const MachineKind kind : {MachineKind::kvm, MachineKind::soft, MachineKind::translated}) {
    if (word == name(kind)) return choice_of(kind);
    names += fmt::format(", {}", name(kind));
  }
  fail(ErrorKind::usage, "no machine '{}'; there are {}", word, names);
}

}  // namespace aftercheck
