#include "machine/vcpu.h"

#include <sys/mman.h>

#include "base/error.h"
#include "base/invariant.h"

namespace aftercheck {

const char* name(MachineKind kind) { return kind == MachineKind::kvm ? "kvm" : "soft"; }

Exit Vcpu::run_to(uint64_t address, ArrivalFilter*) {
  AFTERCHECK_INVARIANT(false, "this backend has no way to run to {:#x} without an INT3", address);
}

void Vcpu::set_bounds(uint64_t, uint64_t) { fail(ErrorKind::internal, "this backend knows no bounds"); }

uint64_t Vcpu::code_left() const { fail(ErrorKind::internal, "this backend knows no bounds"); }

void code_changed_elsewhere(Machine& machine, const AddressSpace& space) {
  for (const auto& [start, mapping] : space.mappings())
    if ((mapping.prot & PROT_EXEC) != 0 && ((mapping.prot & PROT_WRITE) != 0 || mapping.shared))
      machine.code_changed({start, mapping.end});
}

void Machine::show(Range range, int) {
  fail(ErrorKind::internal, "this backend can't show memory at {:#x} otherwise than it is mapped",
       range.start);
}

bool Machine::allows(uint64_t address, Access) const {
  fail(ErrorKind::internal, "this backend does not tell what may be done with memory at {:#x}", address);
}

}  // namespace aftercheck
