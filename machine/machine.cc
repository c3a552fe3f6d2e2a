#include "base/error.h"
#include "base/log.h"
#include "machine/vcpu.h"

namespace aftercheck {
namespace {

std::unique_ptr<Machine> soft_machine(AddressSpace& space, const CpuModel& cpu) {
  if (cpu.kind() == CpuModelKind::v3)
    fail(
        ErrorKind::host_lacks,
        "the soft vCPU has the portable CPU model only, and this is --cpu {}; use --machine kvm or --machine "
        "translated",
        name(cpu.kind()));
  return create_soft_machine(space, cpu);
}

}  // namespace

std::unique_ptr<Machine> create_machine(MachineChoice choice, AddressSpace& space, const CpuModel& cpu,
                                        std::string* why_not_kvm) {
  const auto as_asked_for = [](std::unique_ptr<Machine> machine) {
    AFTERCHECK_LOG_TO(LogTopic::machine, "{}, as asked for", name(machine->kind()));
    return machine;
  };
  require_host(cpu.kind());
  if (choice == MachineChoice::kvm) return as_asked_for(create_kvm_machine(space, cpu));
  if (choice == MachineChoice::soft) return as_asked_for(soft_machine(space, cpu));
  if (choice == MachineChoice::translated) return as_asked_for(create_translated_machine(space, cpu));
  try {
    std::unique_ptr<Machine> machine = create_kvm_machine(space, cpu);
    AFTERCHECK_LOG_TO(LogTopic::machine, "kvm, which works here");
    return machine;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::host_lacks) throw;
    AFTERCHECK_LOG_TO(LogTopic::machine, "kvm does not work here: {}", error.what());
    if (why_not_kvm != nullptr) *why_not_kvm = error.what();
  }
  return cpu.kind() == CpuModelKind::v3 ? create_translated_machine(space, cpu) : soft_machine(space, cpu);
}

}  // namespace aftercheck
