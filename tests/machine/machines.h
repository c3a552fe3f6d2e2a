// The machines that tests run on, and whether this host has them.
#pragma once

#include <iostream>
#include <memory>
#include <string>

#include "base/error.h"
#include "machine/vcpu.h"

namespace aftercheck {

// What the translated machines that tests make from now on do.
inline BranchCounts branch_counts = BranchCounts::automatic;

inline std::unique_ptr<Machine> make_machine(MachineKind kind, AddressSpace& space, const CpuModel& cpu) {
  if (kind == MachineKind::translated) return create_translated_machine(space, cpu, branch_counts);
  return create_machine(choice_of(kind), space, cpu);
}

// Why this host lacks the machine; empty: it has it.
inline std::string why_lacking(MachineKind kind, CpuModelKind model = CpuModelKind::portable) {
  try {
    AddressSpace space;
    make_machine(kind, space, CpuModel(model));
    return {};
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::host_lacks) throw;
    return error.what();
  }
}

// True, and said, where the machine is not to be had here.
inline bool lacking(MachineKind kind, CpuModelKind model = CpuModelKind::portable) {
  const std::string why = why_lacking(kind, model);
  if (!why.empty()) std::cout << "SKIPPED: " << name(kind) << ": " << why << std::endl;
  return !why.empty();
}

}  // namespace aftercheck

// A test case for each machine, in each of which `machine` is its kind.
#define ON_MACHINE(name, kind, call)                                           \
  TEST_CASE(name) {                                                            \
    constexpr aftercheck::MachineKind machine = aftercheck::MachineKind::kind; \
    if (!aftercheck::lacking(machine)) call;                                   \
  }
#define ON_PROCESSORS(name, call)        \
  ON_MACHINE(name ", on KVM", kvm, call) \
  ON_MACHINE(name ", translated", translated, call)
#define ON_ALL_MACHINES(name, call) \
  ON_PROCESSORS(name, call)         \
  ON_MACHINE(name ", on the soft vCPU", soft, call)
