// One vCPU on KVM.
#pragma once

#include <atomic>
#include <optional>

#include "machine/kvm/kvm_api.h"
#include "machine/kvm/kvm_machine.h"
#include "machine/kvm/monitor.h"
#include "machine/memory_accesses.h"
#include "machine/vcpu.h"

namespace aftercheck::kvm {

class KvmVcpu final : public Vcpu {
 public:
  // What an earlier vCPU has left of its state in `parts` is not seen.
  KvmVcpu(KvmMachine& machine, KvmMachine::VcpuParts parts, const CpuModel& cpu);
  ~KvmVcpu() override;
  KvmVcpu(const KvmVcpu&) = delete;
  KvmVcpu& operator=(const KvmVcpu&) = delete;

  Exit run() override;
  Exit step() override;
  Registers& registers() override { return registers_; }
  FpuState fpu() override;
  void set_fpu(const FpuState& state) override;
  void leave_untrapped(bool on) override;
  void kick() noexcept override;
  void clear_kick() noexcept override;

 private:
  KvmMachine& machine_;
  KvmMachine::VcpuParts parts_;
  const unsigned id_;
  const CpuModelKind model_;
  VcpuFd& fd_;
  uint64_t tables_ = UINT64_MAX;  // their generation of which nothing older is in the TLB
  Registers registers_;
  unsigned runs_ = 0;
  bool single_step_ = false;  // the entry under way is step()'s
  uint64_t hidden_trap_flag_ =
      0;                        // RFLAGS.TF where step() has set it; 0 where the guest itself has, or nobody
  uint64_t flags_at_exit_ = 0;  // RFLAGS as the last exception found them
  std::atomic<bool> kicked_{false};
  std::atomic<int> thread_{0};  // kernel thread id while run() is under way, for kicks from elsewhere

  Exit enter(bool single_step);
  std::optional<FpuState> vector_registers();
  void load_registers(bool single_step);
  void see_page_tables();
  bool update_page_tables();
  void run_monitor(uint64_t routine, size_t writes);
  int run_guest();
  // Called after KVM_RUN came back; nothing when the guest must simply go on.
  bool take_exit(int error, Exit& exit);
  // Is a fault only ours? Then the guest tries again.
  bool only_ours(Exit& exit);
  Exit syscall_exit();
  Exit port_access_exit();
  void take_back_output(const PortAccess& access);
  void give_back_input(const PortAccess& access);
  Exit exception_exit(unsigned number);
  Exit memory_fault_exit();
  Exit classify_page_fault(uint32_t error_code);
  bool in_monitor() const;
  bool in_syscall_stub() const;
  bool consume_kick() noexcept;
  void save_general_registers();
};

}  // namespace aftercheck::kvm
