#include "base/error.h"
#include "base/log.h"
#include "machine/vcpu.h"

namespace aftercheck {

std::unique_ptr<Machine> create_machine(MachineChoice choice, AddressSpace& space, const CpuModel& cpu,
                                        std::string* why_not_kvm) {
  if (choice != MachineChoice::automatic)
    AFTERCHECK_LOG_TO(LogTopic::machine, "{}, as asked for", choice == MachineChoice::kvm ? "kvm" : "soft");
  if (choice == MachineChoice::kvm) return create_kvm_machine(space, cpu);
  if (choice == MachineChoice::automatic) {
    try {
      std::unique_ptr<Machine> machine = create_kvm_machine(space, cpu);
      AFTERCHECK_LOG_TO(LogTopic::machine, "kvm, which works here");
      return machine;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::host_lacks) throw;
      AFTERCHECK_LOG_TO(LogTopic::machine, "soft, because kvm does not work here: {}", error.what());
      if (why_not_kvm != nullptr) *why_not_kvm = error.what();
    }
  }
  return create_soft_machine(space, cpu);
}

}  // namespace aftercheck
