#include "machine/kvm/kvm_machine.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "machine/kvm/kvm_vcpu.h"

namespace aftercheck {

std::unique_ptr<Machine> create_kvm_machine(AddressSpace& space, const CpuModel& cpu) {
  require_host(cpu.kind());
  return std::make_unique<kvm::KvmMachine>(space, cpu);
}

namespace kvm {
namespace {

// Slots follow one another from 4 GiB on, clear of what KVM puts below (TSS, APIC page), and stay below 2^39:
// processors with 39 physical address bits exist.
constexpr uint64_t kFirstSlotPhysical = uint64_t{4} << 30;
constexpr uint64_t kPhysicalEnd = uint64_t{1} << 39;

}  // namespace

KvmMachine::KvmMachine(AddressSpace& space, const CpuModel& cpu)
    : space_(space), cpu_(cpu), vm_(system_), written_code_(space) {
  void* mapped =
      mmap(nullptr, kMonitorSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) fail(ErrorKind::host_lacks, "mmap of the monitor: {}", errno_text(errno));
  monitor_ = static_cast<std::byte*>(mapped);
  vm_.set_memory(0, 0, kMonitorSize, monitor_);
  build_monitor(monitor_);
  tables_ = std::make_unique<PageTables>(monitor_, space_, written_code_);
  space_.add_observer(this);
}

KvmMachine::~KvmMachine() {
  space_.remove_observer(this);
  munmap(monitor_, kMonitorSize);
}

std::unique_ptr<Vcpu> KvmMachine::create_vcpu() {
  if (idle_.empty()) {
    if (vcpus_ == layout::kMaxVcpus) fail(ErrorKind::unsupported, "more than {} vCPUs", layout::kMaxVcpus);
    auto fd = std::make_unique<VcpuFd>(system_, vm_, vcpus_);
    fd->set_cpuid(cpu_);
    idle_.push_back({vcpus_++, std::move(fd)});
  }
  VcpuParts parts = std::move(idle_.back());
  idle_.pop_back();
  return std::make_unique<KvmVcpu>(*this, std::move(parts), cpu_);
}

void KvmMachine::add_slot(uint64_t chunk_start) {
  // Whole: what of it isn't the guest's is not in the page tables.
  const uint64_t start = std::max(chunk_start, kLowWindow.start), end = chunk_start + kChunkSize;
  const uint64_t physical = kFirstSlotPhysical + slots_.size() * kChunkSize;
  if (physical + kChunkSize > kPhysicalEnd)
    fail(ErrorKind::unsupported, "the guest uses more than {} GiB of address space",
         (kPhysicalEnd >> 30) - 4);
  const Slot slot{static_cast<uint32_t>(slots_.size() + 1), start, physical + (start - chunk_start),
                  end - start};
  vm_.set_memory(slot.number, slot.guest_physical, slot.size, reinterpret_cast<void*>(start));
  slots_.push_back(slot);
  AFTERCHECK_LOG_TO(LogTopic::kvm, "slot {} added: {:#x} to {:#x}, at guest-physical {:#x}", slot.number,
                    slot.start, slot.start + slot.size, slot.guest_physical);
  tables_->add_chunk(chunk_start, physical);
}

void KvmMachine::on_map(Range range, int prot) {
  for (const Range& part : used_parts(range)) {
    if (prot != PROT_NONE)
      for (uint64_t chunk = part.start & ~(kChunkSize - 1); chunk < part.end; chunk += kChunkSize)
        if (!tables_->has_chunk(chunk)) add_slot(chunk);
    tables_->changed(part, (prot & PROT_EXEC) != 0);
  }
  written_code_.mapped(range);
}

void KvmMachine::on_unmap(Range range) {
  tables_->changed(range, false);
  written_code_.mapped(range);
}

void KvmMachine::code_changed(Range range) {
  if (!written_code_.watching()) return;  // code is coherent on x86
  written_code_.forget(range);
  tables_->changed(range, false);
}

void KvmMachine::watch_written_code(bool on) {
  written_code_.watch(on);
  for (const auto& [start, mapping] : space_.mappings())
    if ((mapping.prot & PROT_EXEC) != 0 && (mapping.prot & PROT_WRITE) != 0)
      for (const Range& part : used_parts({start, mapping.end})) tables_->changed(part, true);
}

WrittenCode::Verdict KvmMachine::judge(uint64_t address, Access access, uint64_t rip) {
  const WrittenCode::Verdict verdict = written_code_.judge(address, access, rip);
  if (verdict == WrittenCode::Verdict::changed)
    tables_->changed({page_down(address), page_down(address) + 1}, true);
  return verdict;
}

void KvmMachine::rebuild_tables() {
  // Deleting a slot makes KVM drop all shadow pages (kvm_arch_flush_shadow_memslot).
  vm_.set_memory(0, 0, 0, monitor_);
  tables_->rebuild();
  vm_.set_memory(0, 0, kMonitorSize, monitor_);
  AFTERCHECK_LOG_TO(LogTopic::kvm, "page tables rebuilt, with {} slots", slots_.size());
}

}  // namespace kvm
}  // namespace aftercheck
