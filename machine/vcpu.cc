#include "machine/vcpu.h"

#include "base/invariant.h"

namespace aftercheck {

const char* name(MachineKind kind) { return kind == MachineKind::kvm ? "kvm" : "soft"; }

Exit Vcpu::run_to(uint64_t address) {
  AFTERCHECK_INVARIANT(false, "this backend has no way to run to {:#x} without an INT3", address);
}

}  // namespace aftercheck
