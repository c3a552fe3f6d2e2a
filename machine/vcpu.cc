#include "machine/vcpu.h"

#include <sys/mman.h>

#include <array>

#include "base/error.h"
#include "base/invariant.h"

namespace aftercheck {

const char* name(MachineKind kind) {
  static constexpr std::array<const char*, 3> kNames = {"kvm", "soft", "translated"};
  return kNames.at(static_cast<size_t>(kind));
}

MachineChoice choice_of(MachineKind kind) {
  static constexpr std::array<MachineChoice, 3> kChoices = {MachineChoice::kvm, MachineChoice::soft,
                                                            MachineChoice::translated};
  return kChoices.at(static_cast<size_t>(kind));
}

Exit Vcpu::run_to(uint64_t address, ArrivalFilter*) {
  AFTERCHECK_INVARIANT(false, "this backend has no way to run to {:#x} without an INT3", address);
}

void Vcpu::set_bounds(uint64_t, uint64_t) { fail(ErrorKind::internal, "this backend knows no bounds"); }

uint64_t Vcpu::code_left() const { fail(ErrorKind::internal, "this backend knows no bounds"); }

uint64_t Vcpu::branches() { fail(ErrorKind::internal, "this backend counts no branches"); }

void Vcpu::reset_branches() { fail(ErrorKind::internal, "this backend counts no branches"); }

Exit Vcpu::run_until(uint64_t, uint64_t) { fail(ErrorKind::internal, "this backend counts no branches"); }

void for_each_changeable_code(const AddressSpace& space, const std::function<void(Range)>& visit) {
  for (const auto& [start, mapping] : space.mappings())
    if ((mapping.prot & PROT_EXEC) != 0 && ((mapping.prot & PROT_WRITE) != 0 || mapping.shared))
      visit({start, mapping.end});
}

void code_changed_elsewhere(Machine& machine, const AddressSpace& space) {
  for_each_changeable_code(space, [&machine](Range range) { machine.code_changed(range); });
}

void Machine::show(Range range, int) {
  fail(ErrorKind::internal, "this backend can't show memory at {:#x} otherwise than it is mapped",
       range.start);
}

bool Machine::allows(uint64_t address, Access) const {
  fail(ErrorKind::internal, "this backend does not tell what may be done with memory at {:#x}", address);
}

}  // namespace aftercheck
