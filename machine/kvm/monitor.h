// The ring-0 monitor: descriptor tables and stubs in a memory slot of their own. Every stub is a port write
// that exits to the host; the host goes back to ring 3 by setting registers. Layout is by page, as offsets
// into the slot, which starts at guest-physical 0 and guest-virtual kMonitorBase.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>

namespace aftercheck::kvm {

// Canonical, outside every guest window; guests see it as an address that faults.
constexpr uint64_t kMonitorBase = 0x7f00'0000'0000;
constexpr uint64_t kMonitorSize = 32 << 20;

namespace layout {
constexpr uint64_t kPml4 = 0x1000, kPdptLow = 0x2000, kPdptMain = 0x3000, kPdptMonitor = 0x4000,
                   kPdMonitor = 0x5000, kPtMonitor = 0x6000;
constexpr uint64_t kIdt = 0x8000;
constexpr uint64_t kStubs = 0xa000;  // one per vector, 16 bytes apart, then the update routine
constexpr uint64_t kUpdate = kStubs + 0x800;
constexpr uint64_t kReload = kUpdate + 18;  // of the update routine what flushes the TLB
constexpr uint64_t kSyscallStub =
    0xb000;  // a page of its own: ring 3 may read and execute it (needed on kvm_pvm)
constexpr uint64_t kUpdateList = 0xc000;  // one page of page-table writes for the update routine
constexpr uint64_t kVcpus = 0x10000;      // two pages each: GDT and TSS, then the ring-0 stack
constexpr uint64_t kVcpuSize = 0x2000;
constexpr unsigned kMaxVcpus = 240;       // at once
constexpr uint64_t kTablePool = 2 << 20;  // page tables made at run time; up to kMonitorSize
static_assert(kVcpus + kMaxVcpus * kVcpuSize <= kTablePool);
}  // namespace layout

// Ports that tell the host which stub ran. Vectors write one byte to the port of their own number.
constexpr uint16_t kSyscallPort = 0x44, kUpdatePort = 0x45;
constexpr uint16_t kPortsAllowed = 4;  // from kSyscallPort on
constexpr unsigned kVectors = 32;

constexpr uint16_t kKernelCode = 0x08, kKernelData = 0x10, kUserData = 0x1b, kUserCode = 0x23,
                   kTaskSegment = 0x30;

// Writes IDT and stubs. `monitor` is the host address of the slot, zeroed.
void build_monitor(std::byte* monitor);
// GDT, TSS of one vCPU; fills in `sregs` (taken from KVM_GET_SREGS) for 64-bit ring 3. `xsave`: the guest may
// use XSAVE.
void build_vcpu(std::byte* monitor, unsigned id, kvm_sregs& sregs, bool xsave);
// Ring of a vCPU's next instruction.
void set_ring(kvm_sregs& sregs, unsigned ring);

// What the processor pushed for an exception (SDM vol. 3, 6.14.2), top of the ring-0 stack downwards.
struct ExceptionFrame {
  uint64_t rip, cs, rflags, rsp, ss;
};
// The frame on vCPU `id`'s stack, and the error code where the vector has one (0 otherwise).
ExceptionFrame exception_frame(const std::byte* monitor, unsigned id, unsigned vector, uint32_t& error_code);

// One 8-byte store by the update routine; `entry` is a guest-virtual address in the monitor.
struct TableWrite {
  uint64_t entry, value;
};
constexpr size_t kMaxTableWrites = 4096 / sizeof(TableWrite);

}  // namespace aftercheck::kvm
