// KVM's ioctls, wrapped once (Documentation/virt/kvm/api.rst). Errors throw Error(host_lacks) naming the
// call.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "machine/cpu_model.h"

namespace aftercheck::kvm {

// /dev/kvm. Its constructor checks the API version and the capabilities that everything here depends on.
class System {
 public:
  System();
  int get() const { return fd_.get(); }
  int check_extension(long capability) const;
  // Size of the kvm_run mapping in bytes.
  size_t run_size() const;

 private:
  UniqueFd fd_;
};

class VirtualMachine {
 public:
  explicit VirtualMachine(const System& system);
  int get() const { return fd_.get(); }
  // KVM_SET_USER_MEMORY_REGION; size 0 deletes the slot.
  void set_memory(uint32_t slot, uint64_t guest_physical, uint64_t size, void* host) const;

 private:
  UniqueFd fd_;
};

struct Msr {
  uint32_t index;
  uint64_t value;
};

// A vCPU descriptor with its mapped kvm_run.
class VcpuFd {
 public:
  VcpuFd(const System& system, const VirtualMachine& vm, unsigned id);
  ~VcpuFd();
  VcpuFd(const VcpuFd&) = delete;
  VcpuFd& operator=(const VcpuFd&) = delete;

  kvm_run& run_area() { return *run_; }
  // KVM_RUN; 0 or the errno (EINTR, EFAULT, ...).
  int run() noexcept;
  void set_cpuid(const CpuModel& model);
  void set_msrs(std::span<const Msr> msrs);
  void set_xcr0(uint64_t value);
  kvm_sregs sregs() const;
  void set_sregs(const kvm_sregs& sregs);
  kvm_xsave xsave() const;
  void set_xsave(const kvm_xsave& xsave);

 private:
  UniqueFd fd_;
  kvm_run* run_ = nullptr;
  size_t run_size_ = 0;
};

}  // namespace aftercheck::kvm
