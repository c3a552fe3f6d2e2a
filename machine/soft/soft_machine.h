// The machine of the soft vCPU: page tables that follow the guest's address space, and the vCPUs that use
// them.
#pragma once

#include <set>
#include <vector>

#include "machine/soft/page_tables.h"
#include "machine/vcpu.h"

namespace aftercheck::soft {

class SoftVcpu;

class SoftMachine : public Machine, private SpaceObserver {
 public:
  SoftMachine(AddressSpace& space, const CpuModel& cpu, Stores stores = Stores::performed);
  ~SoftMachine() override;

  MachineKind kind() const override { return MachineKind::soft; }
  std::unique_ptr<Vcpu> create_vcpu() override;

  bool has_view() const override { return true; }
  void show(Range range, int prot) override;
  bool allows(uint64_t address, Access access) const override { return tables_.allows(address, access); }
  void code_changed(Range range) override;

  PageTables& tables() { return tables_; }
  const AddressSpace& space() const { return space_; }
  bool bring_in(uint64_t address) { return space_.bring_in(address); }
  const CpuModel& cpu() const { return cpu_; }
  // Stretches of the windows in which something accessible is or was mapped; only ever grows.
  const std::vector<Range>& chunks() const { return chunks_; }
  // Before a vCPU runs.
  void take_turn(SoftVcpu& vcpu);
  void forget(SoftVcpu* vcpu);

 private:
  AddressSpace& space_;
  const CpuModel cpu_;
  const Stores stores_;
  PageTables tables_;
  std::vector<Range> chunks_;
  std::set<uint64_t> chunk_starts_;
  std::set<SoftVcpu*> vcpus_;
  SoftVcpu* ran_last_ = nullptr;  // null: one that is gone, or none

  void on_map(Range range, int prot) override;
  void on_unmap(Range range) override;
  void on_protect(Range range, int prot) override;
  void on_code_change(Range range) override { code_changed(range); }

  void mirror(Range range);
  void add_chunks(Range range);
  void tell_vcpus(Range range);
};

}  // namespace aftercheck::soft
