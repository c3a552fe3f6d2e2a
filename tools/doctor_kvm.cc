#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <vector>

#include "base/error.h"
#include "machine/kvm/kvm_machine.h"
#include "tools/doctor_guest.h"

namespace aftercheck::tools {
namespace {

// Documentation/virt/kvm/api.rst, 8.39; in linux/kvm.h from Linux 6.8 on.
constexpr long kCapMemoryFaultInfo = 232;
constexpr uint64_t kDataPage = 5;  // of the guest's range: the one that it writes

// Has KVM log what a guest writes, lets it write one page of sixteen, and looks at the log.
std::string why_no_dirty_log() {
  static constexpr uint8_t kCode[] = {0x88, 0x07, 0x0f, 0x05};  // mov %al, (%rdi); syscall
  const CpuModel cpu(CpuModelKind::portable);
  AddressSpace space;
  kvm::KvmMachine machine(space, cpu);
  const uint64_t base = kMainWindow.start;
  const Range code{base, base + kPageSize}, data{base + kPageSize, base + 16 * kPageSize};
  if (space.map_anonymous(code, PROT_READ | PROT_WRITE, false) != 0 ||
      space.map_anonymous(data, PROT_READ | PROT_WRITE, false) != 0 ||
      !space.write(base, kCode, sizeof kCode) || space.protect(code, PROT_READ | PROT_EXEC) != 0)
    return "guest memory can't be made";
  const kvm::KvmMachine::Slot slot = machine.slots().front();
  kvm_userspace_memory_region region{};
  region.slot = slot.number;
  region.flags = KVM_MEM_LOG_DIRTY_PAGES;
  region.guest_phys_addr = slot.guest_physical;
  region.memory_size = slot.size;
  region.userspace_addr = slot.start;
  if (ioctl(machine.vm(), KVM_SET_USER_MEMORY_REGION, &region) != 0) return errno_text(errno);

  const std::unique_ptr<Vcpu> vcpu = machine.create_vcpu();
  const uint64_t target = base + kDataPage * kPageSize;
  auto write_and_read_log = [&](std::vector<uint64_t>& log) -> std::string {
    vcpu->registers() = Registers{};
    vcpu->registers().rip = base;
    vcpu->registers().rdi = target;
    const Exit exit = vcpu->run();
    if (exit.kind != ExitKind::syscall) return "the guest did not arrive: " + describe(exit);
    kvm_dirty_log request{};
    request.slot = slot.number;
    request.dirty_bitmap = log.data();
    return ioctl(machine.vm(), KVM_GET_DIRTY_LOG, &request) == 0 ? "" : errno_text(errno);
  };
  constexpr uint64_t kBits = 64;
  std::vector<uint64_t> log(slot.size / kPageSize / kBits);
  const uint64_t first_page = (base - slot.start) / kPageSize;
  // Twice: the second time the page is mapped already, and reading the log must have protected it again.
  for (int round = 0; round < 2; ++round) {
    if (std::string error = write_and_read_log(log); !error.empty()) return error;
    for (uint64_t page = 0; page < 16; ++page) {
      const bool logged = (log[(first_page + page) / kBits] >> (first_page + page) % kBits & 1) != 0;
      if (logged != (page == kDataPage))
        return fmt::format("page {} is {} the log of round {}", page, logged ? "wrongly in" : "missing from",
                           round + 1);
    }
  }
  return "";
}

}  // namespace

std::vector<Finding> examine_kvm_extras() {
  std::vector<Finding> findings;
  std::string why_not;
  try {
    why_not = why_no_dirty_log();
  } catch (const Error& error) {
    why_not = error.what();
  }
  findings.push_back({.group = name(MachineKind::kvm),
                      .name = "dirty_log",
                      .title = "KVM logs which pages the guest writes",
                      .works = why_not.empty(),
                      .value = why_not,
                      .cost = "digests look at all of the guest's pages"});
  const bool info = kvm::System().check_extension(kCapMemoryFaultInfo) > 0;
  findings.push_back({.group = name(MachineKind::kvm),
                      .name = "memory_fault_info",
                      .title = "KVM tells the address of a forbidden access",
                      .works = info,
                      .value = info ? "" : "KVM_CAP_MEMORY_FAULT_INFO is missing",
                      .cost = "it is found by decoding the instruction: slower, same result"});
  return findings;
}

}  // namespace aftercheck::tools
