#include "machine/machine_choice.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"

namespace aftercheck {
namespace {

using enum MachineKind;

std::unique_ptr<Machine> create(MachineKind kind, AddressSpace& space, const CpuModel& cpu) {
  switch (kind) {
    case kvm:
      return create_kvm_machine(space, cpu);
    case soft:
      if (cpu.kind() == CpuModelKind::v3)
        fail(ErrorKind::host_lacks,
             "the soft vCPU has the portable CPU model only, and this is --cpu {}; use --machine kvm or "
             "--machine translated",
             name(cpu.kind()));
      return create_soft_machine(space, cpu);
    case translated:
      return create_translated_machine(space, cpu);
  }
  fail(ErrorKind::internal, "no machine is of kind {}", static_cast<int>(kind));
}

std::optional<MachineKind> asked_for(MachineChoice choice) {
  for (const MachineKind kind : {kvm, soft, translated})
    if (choice == choice_of(kind)) return kind;
  return std::nullopt;
}

MachineOrder of_all_machines(const MachineNeeds& needs, CpuModelKind cpu,
                             const std::function<ExitCosts()>& costs) {
  if (cpu == CpuModelKind::host) return {{kvm}, "only KVM runs guests with the host's own CPU model"};
  if (needs.control_flow && needs.walls)
    return {{soft}, "of the machines with walls it alone tells branches"};
  if (needs.control_flow) return {{translated, soft}, "KVM does not tell the guest's branches"};
  if (needs.walls) return {{kvm, soft}, "translated code is no wall between the guest and this process"};
  if (needs.processor_trace) return {{kvm, translated, soft}, "the processor traces guests on KVM only"};
  const ExitCosts found = costs();
  if (!found.kvm) return {{translated, soft}, "there is no KVM: " + found.why_not_kvm};
  if (!found.translated) return {{kvm, soft}, "there is no translated code: " + found.why_not_translated};
  std::string reason = fmt::format("an exit costs {:.2g} us on KVM, {:.2g} us in translated code", *found.kvm,
                                   *found.translated);
  if (*found.kvm <= kCheapExit) return {{kvm, translated, soft}, std::move(reason)};
  return {{translated, kvm, soft}, std::move(reason)};
}

}  // namespace

MachineOrder machines_in_order(const MachineNeeds& needs, CpuModelKind cpu,
                               const std::function<ExitCosts()>& costs) {
  MachineOrder order = of_all_machines(needs, cpu, costs);
  if (cpu == CpuModelKind::v3) std::erase(order.kinds, soft);
  return order;
}

std::unique_ptr<Machine> create_machine(MachineChoice choice, AddressSpace& space, const CpuModel& cpu,
                                        const MachineNeeds& needs, std::string* reason) {
  require_host(cpu.kind());
  std::string why = "asked for";
  std::unique_ptr<Machine> machine;
  if (const std::optional<MachineKind> asked = asked_for(choice)) {
    if (asked == translated && needs.walls)
      fail(ErrorKind::usage,
           "translated code is no wall between a stranger's program and this process; use kvm or soft");
    machine = create(*asked, space, cpu);
  } else {
    MachineOrder order = machines_in_order(needs, cpu.kind(), [&space] { return exit_costs_of_host(space); });
    why = std::move(order.reason);
    for (const MachineKind kind : order.kinds) try {
        machine = create(kind, space, cpu);
        break;
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::host_lacks || kind == order.kinds.back()) throw;
        why += fmt::format("; {} can't be had: {}", name(kind), error.what());
      }
  }
  AFTERCHECK_LOG_TO(LogTopic::machine, "{}: {}", name(machine->kind()), why);
  if (reason != nullptr) *reason = std::move(why);
  return machine;
}

}  // namespace aftercheck
