#include "machine/kvm/kvm_api.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "machine/kvm/kvm_ioctl_numbers.h"

namespace aftercheck::kvm {
namespace {

template <typename Argument>
int call(int fd, unsigned long number, Argument argument, const char* name) {
  const int result = ioctl(fd, number, argument);
  if (result < 0) fail(ErrorKind::host_lacks, "{} failed: {}", name, errno_text(errno));
  return result;
}

struct Needed {
  long capability;
  const char* name;
};
constexpr Needed kNeeded[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_SYNC_MMU, "KVM_CAP_SYNC_MMU"},
    {KVM_CAP_SYNC_REGS, "KVM_CAP_SYNC_REGS"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
    {KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
};

}  // namespace

System::System() {
  UniqueFd opened(open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!opened) {
    const int error = errno;
    const char* way_out = error == ENOENT
                              ? "load kvm_intel or kvm_amd, or enable virtualisation in the firmware"
                          : error == EACCES ? "join the group that owns it (often `kvm`)"
                                            : "see `aftercheck doctor`";
    fail(ErrorKind::host_lacks, "/dev/kvm can't be opened: {}; {}", errno_text(error), way_out);
  }
  fd_ = move_out_of_guest_reach(std::move(opened));
  const int version = ioctl(fd_.get(), KVM_GET_API_VERSION, 0);
  if (version != KVM_API_VERSION)
    fail(ErrorKind::host_lacks, "/dev/kvm: API version {} instead of {}", version, KVM_API_VERSION);
  for (const Needed& needed : kNeeded)
    if (check_extension(needed.capability) <= 0)
      fail(ErrorKind::host_lacks, "/dev/kvm lacks {}; a newer kernel has it", needed.name);
}

int System::check_extension(long capability) const {
  return ioctl(fd_.get(), KVM_CHECK_EXTENSION, capability);
}

size_t System::run_size() const {
  return static_cast<size_t>(call(fd_.get(), KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE"));
}

VirtualMachine::VirtualMachine(const System& system)
    : fd_(move_out_of_guest_reach(UniqueFd(call(system.get(), KVM_CREATE_VM, 0UL, "KVM_CREATE_VM")))) {
  // Intel hosts without "unrestricted guest" want three pages for a TSS (api.rst, KVM_SET_TSS_ADDR); below 4
  // GiB and outside every slot. Others ignore it.
  constexpr unsigned long kTssAddress = 0xfffbd000;
  ioctl(fd_.get(), KVM_SET_TSS_ADDR, kTssAddress);
}

void VirtualMachine::set_memory(uint32_t slot, uint64_t guest_physical, uint64_t size, void* host) const {
  kvm_userspace_memory_region region{};
  region.slot = slot;
  region.guest_phys_addr = guest_physical;
  region.memory_size = size;
  region.userspace_addr = reinterpret_cast<uint64_t>(host);
  call(fd_.get(), KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
}

VcpuFd::VcpuFd(const System& system, const VirtualMachine& vm, unsigned id)
    : fd_(move_out_of_guest_reach(
          UniqueFd(call(vm.get(), KVM_CREATE_VCPU, static_cast<unsigned long>(id), "KVM_CREATE_VCPU")))),
      run_size_(system.run_size()) {
  void* mapped = mmap(nullptr, run_size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (mapped == MAP_FAILED) fail(ErrorKind::host_lacks, "mmap of kvm_run: {}", errno_text(errno));
  run_ = static_cast<kvm_run*>(mapped);
}

VcpuFd::~VcpuFd() { munmap(run_, run_size_); }

int VcpuFd::run() noexcept { return ioctl(fd_.get(), KVM_RUN, 0) == 0 ? 0 : errno; }

void VcpuFd::set_cpuid(const CpuModel& model) {
  const std::vector<CpuModel::Leaf> leaves = model.leaves();
  std::vector<std::byte> buffer(sizeof(uint32_t) * 2 + leaves.size() * sizeof(kvm_cpuid_entry2));
  const auto count = static_cast<uint32_t>(leaves.size());
  std::memcpy(buffer.data(), &count, sizeof count);
  size_t at = 2 * sizeof(uint32_t);
  for (const CpuModel::Leaf& leaf : leaves) {
    kvm_cpuid_entry2 entry{};
    entry.function = leaf.leaf;
    entry.index = leaf.subleaf;
    entry.flags = leaf.subleaf_significant ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
    entry.eax = leaf.result.eax;
    entry.ebx = leaf.result.ebx;
    entry.ecx = leaf.result.ecx;
    entry.edx = leaf.result.edx;
    std::memcpy(&buffer[at], &entry, sizeof entry);
    at += sizeof entry;
  }
  call(fd_.get(), aftercheck_kvm_set_cpuid2, buffer.data(), "KVM_SET_CPUID2");
}

void VcpuFd::set_msrs(std::span<const Msr> msrs) {
  std::vector<std::byte> buffer(sizeof(uint32_t) * 2 + msrs.size() * sizeof(kvm_msr_entry));
  const auto count = static_cast<uint32_t>(msrs.size());
  std::memcpy(buffer.data(), &count, sizeof count);
  size_t at = 2 * sizeof(uint32_t);
  for (const Msr& msr : msrs) {
    kvm_msr_entry entry{};
    entry.index = msr.index;
    entry.data = msr.value;
    std::memcpy(&buffer[at], &entry, sizeof entry);
    at += sizeof entry;
  }
  const int set = call(fd_.get(), aftercheck_kvm_set_msrs, buffer.data(), "KVM_SET_MSRS");
  if (static_cast<size_t>(set) != msrs.size())
    fail(ErrorKind::host_lacks, "KVM_SET_MSRS refused MSR {:#x}", msrs[static_cast<size_t>(set)].index);
}

void VcpuFd::set_xcr0(uint64_t value) {
  kvm_xcrs xcrs{};
  xcrs.nr_xcrs = 1;
  xcrs.xcrs[0].value = value;
  call(fd_.get(), KVM_SET_XCRS, &xcrs, "KVM_SET_XCRS");
}

kvm_sregs VcpuFd::sregs() const {
  kvm_sregs sregs{};
  call(fd_.get(), KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
  return sregs;
}

void VcpuFd::set_sregs(const kvm_sregs& sregs) { call(fd_.get(), KVM_SET_SREGS, &sregs, "KVM_SET_SREGS"); }

kvm_xsave VcpuFd::xsave() const {
  kvm_xsave xsave{};
  call(fd_.get(), aftercheck_kvm_get_xsave, &xsave, "KVM_GET_XSAVE");
  return xsave;
}

void VcpuFd::set_xsave(const kvm_xsave& xsave) {
  call(fd_.get(), aftercheck_kvm_set_xsave, &xsave, "KVM_SET_XSAVE");
}

}  // namespace aftercheck::kvm
