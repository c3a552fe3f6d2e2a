// The machine on KVM: memory slots, monitor and page tables that follow the guest's address space.
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "machine/kvm/kvm_api.h"
#include "machine/kvm/page_tables.h"
#include "machine/kvm/written_code.h"
#include "machine/vcpu.h"

namespace aftercheck::kvm {

class KvmMachine final : public Machine, public SpaceObserver {
 public:
  KvmMachine(AddressSpace& space, const CpuModel& cpu);
  ~KvmMachine() override;

  MachineKind kind() const override { return MachineKind::kvm; }
  std::unique_ptr<Vcpu> create_vcpu() override;

  void on_map(Range range, int prot) override;
  void on_unmap(Range range) override;
  void on_protect(Range range, int prot) override { on_map(range, prot); }
  void on_code_change(Range range) override { code_changed(range); }
  void code_changed(Range range) override;

  // Pages in memory that is writable and executable are executed only where nothing is in them that can't be
  // trapped here (written_code.h).
  void watch_written_code(bool on);
  WrittenCode::Verdict judge(uint64_t address, Access access, uint64_t rip);

  AddressSpace& space() { return space_; }
  std::byte* monitor() { return monitor_; }
  PageTables& tables() { return *tables_; }
  // A KVM vCPU and its number, which can't be given back to KVM: of one that is gone those go to the next.
  struct VcpuParts {
    unsigned id = 0;
    std::unique_ptr<VcpuFd> fd;
  };
  void give_back(VcpuParts parts) { idle_.push_back(std::move(parts)); }
  // Makes KVM drop everything it derived from the page tables, and builds them anew.
  void rebuild_tables();

  // For probes of KVM itself: the VM's descriptor, and the memory slots of the guest.
  struct Slot {
    uint32_t number = 0;
    uint64_t start = 0, guest_physical = 0, size = 0;
  };
  int vm() const { return vm_.get(); }
  const std::vector<Slot>& slots() const { return slots_; }

 private:
  AddressSpace& space_;
  CpuModel cpu_;
  System system_;
  VirtualMachine vm_;
  std::byte* monitor_ = nullptr;
  WrittenCode written_code_;
  std::unique_ptr<PageTables> tables_;
  unsigned vcpus_ = 0;  // that KVM has
  std::vector<VcpuParts> idle_;
  std::vector<Slot> slots_;  // numbered from 1: slot 0 is the monitor

  void add_slot(uint64_t chunk_start);
};

}  // namespace aftercheck::kvm
