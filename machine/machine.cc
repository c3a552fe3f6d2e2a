#include "base/error.h"
#include "base/log.h"
#include "machine/vcpu.h"

namespace aftercheck {

std::unique_ptr<Machine> create_machine(MachineChoice choice, AddressSpace& space, const CpuModel& cpu,
                                        std::string* why_not_kvm) {
  const auto as_asked_for = [](std::unique_ptr<Machine> machine) {
    AFTERCHECK_LOG_TO(LogTopic::machine, "{}, as asked for", name(machine->kind()));
    return machine;
  };
  if (choice == MachineChoice::kvm) return as_asked_for(create_kvm_machine(space, cpu));
  if (choice == MachineChoice::soft) return as_asked_for(create_soft_machine(space, cpu));
  if (choice == MachineChoice::translated) return as_asked_for(create_translated_machine(space, cpu));
  try {
    std::unique_ptr<Machine> machine = create_kvm_machine(space, cpu);
    AFTERCHECK_LOG_TO(LogTopic::machine, "kvm, which works here");
    return machine;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::host_lacks) throw;
    AFTERCHECK_LOG_TO(LogTopic::machine, "soft, because kvm does not work here: {}", error.what());
    if (why_not_kvm != nullptr) *why_not_kvm = error.what();
  }
  return create_soft_machine(space, cpu);
}

}  // namespace aftercheck
