#include "machine/exit.h"

#include <fmt/format.h>

#include <array>

namespace aftercheck {
namespace {

// SDM vol. 3, table 6-1.
constexpr std::array<const char*, 20> kVectorNames = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD",
                                                      "#NM", "#DF", "",    "#TS", "#NP", "#SS", "#GP",
                                                      "#PF", "",    "#MF", "#AC", "#MC", "#XM"};
constexpr std::array<const char*, 3> kAccessNames = {"read of", "write to", "fetch from"};

}  // namespace

const char* name(ExitKind kind) {
  static constexpr std::array<const char*, 8> kNames = {"system call",  "trapped instruction", "exception",
                                                        "memory fault", "breakpoint",          "step",
                                                        "kick",         "untrapped code"};
  return kNames.at(static_cast<size_t>(kind));
}

std::string describe(const Exit& exit) {
  switch (exit.kind) {
    case ExitKind::exception:
      return fmt::format("exception {} ({}), error code {:#x}", exit.vector,
                         exit.vector < kVectorNames.size() ? kVectorNames[exit.vector] : "", exit.error_code);
    case ExitKind::memory_fault:
      return fmt::format("memory fault: {} {:#x}", kAccessNames.at(static_cast<size_t>(exit.access)),
                         exit.address);
    case ExitKind::trapped_instruction:
      return fmt::format("trapped instruction {}", name(exit.instruction.kind));
    default:
      return name(exit.kind);
  }
}

}  // namespace aftercheck
