// Tiny guests, one per capability. Only for the child process that doctor_machine.cc makes.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "machine/vcpu.h"
#include "tools/doctor.h"

namespace aftercheck::tools {

// What a probe answers: empty `why_not` means that it works; `value` is a measurement.
struct ProbeAnswer {
  std::string why_not;
  std::string value;
};

// Code and data pages for one probe after the other, on one vCPU.
class ProbeGuest {
 public:
  explicit ProbeGuest(MachineKind kind);

  // Puts `code` on a fresh page (readable, executable), with a fresh writable page and stack; registers are
  // zero but for RIP and RSP.
  void load(std::span<const uint8_t> code);
  // Runs until the next exit; an exit that does not come is ended by a kick after two seconds.
  Exit run();
  // load() and run().
  Exit run(std::span<const uint8_t> code);

  AddressSpace& space() { return space_; }
  Vcpu& vcpu() { return *vcpu_; }
  const CpuModel& cpu() const { return cpu_; }
  uint64_t code() const { return code_; }
  uint64_t data() const { return code_ + kPageSize; }

 private:
  CpuModel cpu_{CpuModelKind::portable};
  AddressSpace space_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<Vcpu> vcpu_;
  uint64_t code_ = kMainWindow.start;
};

struct GuestProbe {
  const char* name;
  const char* title;
  const char* cost;
  bool needed;
  ProbeAnswer (*run)(ProbeGuest&);
};
std::span<const GuestProbe> guest_probes();

// KVM's log of written pages, and its account of faults: not behind the vCPU interface, so probed apart.
std::vector<Finding> examine_kvm_extras();

}  // namespace aftercheck::tools
