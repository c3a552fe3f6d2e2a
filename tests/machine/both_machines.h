// A machine to be compared with KVM, where there is KVM: both on the same memory, with room for many
// instructions.
#pragma once

#include <sys/mman.h>

#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "tests/machine/machines.h"

namespace aftercheck {

using Code = std::vector<uint8_t>;

// An instruction has a slot of its own; slots are filled a batch at a time, because KVM looks anew at changed
// code.
constexpr uint64_t kCode = kMainWindow.start + 0x10'0000, kData = kMainWindow.start + 0x400000;
constexpr uint64_t kSlot = 32, kBatch = 4096, kCodeEnd = kCode + kSlot * kBatch;
// Writable, with nothing mapped before or behind.
constexpr uint64_t kDataSize = 2 * kPageSize, kDataMiddle = kData + kPageSize;

class BothMachines {
 public:
  explicit BothMachines(MachineKind compared, CpuModelKind model = CpuModelKind::portable) {
    const CpuModel cpu(model);
    machines_.push_back(make_machine(compared, space_, cpu));
    try {
      machines_.push_back(create_kvm_machine(space_, cpu));
    } catch (const Error& error) {
      why_not_kvm_ = error.what();
    }
    prepare();
  }

  // A translated machine that journals stores, and in KVM's place one that does not. INT3 is behind each
  // instruction.
  struct Journaled {
    CpuModelKind model;
  };
  explicit BothMachines(Journaled journaled) : padding_(0xcc) {
    const CpuModel cpu(journaled.model);
    machines_.push_back(create_translated_machine(space_, cpu, BranchCounts::automatic, Stores::journaled));
    machines_.push_back(create_translated_machine(space_, cpu));
    prepare();
  }

  bool has_kvm() const { return machines_.size() == 2; }
  StoreJournal& journal() { return *machines_.front()->journal(); }
  const std::string& why_not_kvm() const { return why_not_kvm_; }
  MachineKind compared() const { return machines_.front()->kind(); }
  Vcpu& vcpu(size_t machine) { return *vcpus_[machine]; }  // 0: the one to be compared, 1: KVM

  // Instructions, each with NOPs behind it.
  void put(std::span<const Code> batch) {
    check(space_.protect({kCode, kCodeEnd + kPageSize}, PROT_READ | PROT_WRITE));
    std::memset(reinterpret_cast<void*>(kCode), padding_, kSlot * kBatch);
    for (size_t i = 0; i < batch.size(); ++i)
      std::memcpy(reinterpret_cast<void*>(kCode + i * kSlot), batch[i].data(), batch[i].size());
    check(space_.protect({kCode, kCodeEnd + kPageSize}, PROT_READ | PROT_EXEC));
  }

 private:
  int padding_ = 0x90;

  void prepare() {
    check(space_.map_anonymous({kCode, kCodeEnd + kPageSize}, PROT_READ | PROT_WRITE, false));
    check(space_.map_anonymous({kData, kData + kDataSize}, PROT_READ | PROT_WRITE, false));
    for (const auto& machine : machines_) vcpus_.push_back(machine->create_vcpu());
  }
  static void check(int error) {
    if (error != 0) fail(ErrorKind::internal, "no memory for instructions: {}", error);
  }
  AddressSpace space_;
  std::string why_not_kvm_;
  std::vector<std::unique_ptr<Machine>> machines_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

}  // namespace aftercheck
