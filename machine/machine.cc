#include "base/error.h"
#include "machine/vcpu.h"

namespace aftercheck {

std::unique_ptr<Machine> create_machine(MachineChoice choice, AddressSpace& space, const CpuModel& cpu,
                                        std::string* why_not_kvm) {
  if (choice == MachineChoice::kvm) return create_kvm_machine(space, cpu);
  if (choice == MachineChoice::automatic) {
    try {
      return create_kvm_machine(space, cpu);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::host_lacks) throw;
      if (why_not_kvm != nullptr) *why_not_kvm = error.what();
    }
  }
  return create_soft_machine(space, cpu);
}

}  // namespace aftercheck
