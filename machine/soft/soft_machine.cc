#include "machine/soft/soft_machine.h"

#include <sys/mman.h>

#include <algorithm>

#include "machine/soft/soft_vcpu.h"

namespace aftercheck::soft {
namespace {

// Memory is given to Unicorn in pieces of this size, once each. It clears its TLB page by page when memory is
// added (0.6 ms for 1 GiB), so the windows are not added whole.
constexpr uint64_t kChunk = 1 << 30;

// The piece that has `address`: those of the windows are counted from their starts, all others lie at
// multiples.
Range chunk_of(uint64_t address) {
  for (const Range& window : {kLowWindow, kMainWindow, kGhostWindow})
    if (window.contains(address)) {
      const uint64_t start = window.start + (address - window.start) / kChunk * kChunk;
      return {start, std::min(start + kChunk, window.end)};
    }
  const uint64_t start = address & ~(kChunk - 1);
  return {start < kLowWindow.end ? kLowWindow.end : start, start + kChunk};
}

// End of the pages that a file stands behind; accesses after it are SIGBUS, on the host too.
uint64_t valid_end(const Mapping& mapping) {
  if (mapping.backing == Backing::anonymous) return UINT64_MAX;
  return mapping.start +
         (mapping.file_size > mapping.offset ? page_up(mapping.file_size - mapping.offset) : 0);
}

}  // namespace

SoftMachine::SoftMachine(AddressSpace& space, const CpuModel& cpu, Stores stores)
    : space_(space), cpu_(cpu), stores_(stores) {
  space_.add_observer(this);
}

SoftMachine::~SoftMachine() { space_.remove_observer(this); }

std::unique_ptr<Vcpu> SoftMachine::create_vcpu() {
  auto vcpu = std::make_unique<SoftVcpu>(*this);
  vcpus_.insert(vcpu.get());
  return vcpu;
}

void SoftMachine::forget(SoftVcpu* vcpu) {
  vcpus_.erase(vcpu);
  if (ran_last_ == vcpu) ran_last_ = nullptr;
}

// Each has translations of its own, and notices only what it writes over itself.
void SoftMachine::take_turn(SoftVcpu& vcpu) {
  if (ran_last_ == &vcpu) return;
  ran_last_ = &vcpu;
  for_each_changeable_code(space_, [&vcpu](Range range) { vcpu.code_changed(range); });
}

void SoftMachine::on_map(Range range, int) {
  for (const Range& part : used_parts(range)) {
    mirror(part);
    tell_vcpus(part);
  }
}

void SoftMachine::on_unmap(Range range) {
  for (const Range& part : used_parts(range)) {
    tables_.set(part, 0);
    tell_vcpus(part);
  }
}

void SoftMachine::on_protect(Range range, int prot) { on_map(range, prot); }

void SoftMachine::code_changed(Range range) {
  for (SoftVcpu* vcpu : vcpus_) vcpu->code_changed(range);
}

void SoftMachine::mirror(Range range) {
  const auto& mappings = space_.mappings();
  auto it = mappings.upper_bound(range.start);
  if (it != mappings.begin()) --it;
  for (; it != mappings.end() && it->second.start < range.end; ++it) {
    const Mapping& mapping = it->second;
    const Range part{std::max(mapping.start, range.start), std::min(mapping.end, range.end)};
    if (part.start >= part.end) continue;
    if (mapping.prot != 0) add_chunks(part);
    const bool trapped = stores_ == Stores::trapped && (mapping.prot & PROT_WRITE) != 0;
    tables_.set(part, trapped ? (mapping.prot & ~PROT_WRITE) | PROT_READ : mapping.prot, valid_end(mapping));
  }
}

void SoftMachine::show(Range range, int prot) {
  if (prot != 0) add_chunks(range);
  // What becomes writable needs no flush: a store looks the page up again where it was not.
  const bool wider = (prot & PROT_WRITE) != 0;
  tables_.set(range, prot);
  if (!wider) tell_vcpus(range);
}

void SoftMachine::add_chunks(Range range) {
  for (uint64_t at = range.start; at < range.end;) {
    const Range chunk = chunk_of(at);
    if (chunk_starts_.insert(chunk.start).second) chunks_.push_back(chunk);
    at = chunk.end;
  }
}

void SoftMachine::tell_vcpus(Range range) {
  for (SoftVcpu* vcpu : vcpus_) vcpu->mapping_changed(range);
}

}  // namespace aftercheck::soft

namespace aftercheck {

std::unique_ptr<Machine> create_soft_machine(AddressSpace& space, const CpuModel& cpu, Stores stores) {
  return std::make_unique<soft::SoftMachine>(space, cpu, stores);
}

}  // namespace aftercheck
