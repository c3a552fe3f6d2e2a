#include "machine/kvm/monitor.h"

#include <array>
#include <cstring>

namespace aftercheck::kvm {
namespace {

template <typename T>
void put(std::byte* monitor, uint64_t offset, const T& value) {
  std::memcpy(monitor + offset, &value, sizeof value);
}

// Vectors that push an error code (SDM vol. 3, table 6-1; 29 and 30 are AMD's #VC and #SX).
constexpr uint32_t kErrorCodeVectors = 1u << 8 | 0x1fu << 10 | 1u << 17 | 1u << 21 | 1u << 29 | 1u << 30;

constexpr uint64_t vcpu_page(unsigned id) { return layout::kVcpus + id * layout::kVcpuSize; }
constexpr uint64_t stack_top(unsigned id) { return vcpu_page(id) + layout::kVcpuSize; }
// The I/O permission bitmap follows the TSS proper (SDM vol. 1, 19.5.2): ring 3 has no port but that of the
// SYSCALL stub, whose port write kvm_pvm makes with ring 3's rights, and no more ports than the bitmap has
// bits.
constexpr uint16_t kTssSize = 0x68;
constexpr std::array<uint8_t, 10> kPortBitmap = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f, 0xff};
static_assert(kSyscallPort == 0x44, "bits 4 to 7 of byte 8: the four ports from 0x44 on");
constexpr uint16_t kTssLimit = kTssSize + kPortBitmap.size() - 1;
constexpr uint64_t kTssOffset = 0x100;  // in the vCPU's first page, after the GDT

kvm_segment flat(uint16_t selector, uint8_t type, bool code, uint8_t ring) {
  kvm_segment segment{};
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.s = 1;
  segment.l = code ? 1 : 0;
  segment.db = code ? 0 : 1;
  segment.g = 1;
  segment.limit = 0xffffffff;
  segment.dpl = ring;
  return segment;
}

}  // namespace

void build_monitor(std::byte* monitor) {
  for (unsigned vector = 0; vector < kVectors; ++vector) {
    const uint64_t offset = layout::kStubs + vector * 16;
    // out %al, $vector; hlt
    put(monitor, offset, std::array<uint8_t, 3>{0xe6, static_cast<uint8_t>(vector), 0xf4});
    const uint64_t handler = kMonitorBase + offset;
    // 64-bit interrupt gate (SDM vol. 3, 6.14.1). Only #BP may be raised by INT n from ring 3.
    const uint8_t dpl = vector == 3 ? 3 : 0;
    const uint64_t low = (handler & 0xffff) | uint64_t{kKernelCode} << 16 |
                         uint64_t{static_cast<uint8_t>(0x8e | dpl << 5)} << 40 |
                         (handler >> 16 & 0xffff) << 48;
    put(monitor, layout::kIdt + vector * 16, low);
    put(monitor, layout::kIdt + vector * 16 + 8, handler >> 32);
  }
  // out %eax, $kSyscallPort; hlt. Four bytes wide, so that no vector's port can be mistaken for it.
  put(monitor, layout::kSyscallStub, std::array<uint8_t, 3>{0xe7, kSyscallPort, 0xf4});
  // RSI: list of TableWrite, ECX: their number. KVM must see page-table writes made by the guest: under
  // shadow paging it does not notice the host's own.
  static constexpr uint8_t kUpdateCode[] = {
      0x48, 0x8b,        0x3e,        // 1: mov (%rsi), %rdi
      0x48, 0x8b,        0x46, 0x08,  //    mov 8(%rsi), %rax
      0x48, 0x89,        0x07,        //    mov %rax, (%rdi)
      0x48, 0x83,        0xc6, 0x10,  //    add $16, %rsi
      0xff, 0xc9,                     //    dec %ecx
      0x75, 0xee,                     //    jnz 1b
      0x0f, 0x20,        0xd8,        //    mov %cr3, %rax
      0x0f, 0x22,        0xd8,        //    mov %rax, %cr3     (flushes the TLB)
      0xe7, kUpdatePort,              //    out %eax, $kUpdatePort
      0xf4,                           //    hlt
  };
  static_assert(kUpdateCode[layout::kReload - layout::kUpdate] == 0x0f);
  std::memcpy(monitor + layout::kUpdate, kUpdateCode, sizeof kUpdateCode);
}

void set_ring(kvm_sregs& sregs, unsigned ring) {
  // Types: 11 = code, execute/read, accessed; 3 = data, read/write, accessed (SDM vol. 3, table 3-1).
  sregs.cs = ring == 0 ? flat(kKernelCode, 11, true, 0) : flat(kUserCode, 11, true, 3);
  sregs.ss = ring == 0 ? flat(kKernelData, 3, false, 0) : flat(kUserData, 3, false, 3);
}

void build_vcpu(std::byte* monitor, unsigned id, kvm_sregs& sregs, bool xsave) {
  const uint64_t page = vcpu_page(id);
  const uint64_t tss = kMonitorBase + page + kTssOffset;
  put(monitor, page + kKernelCode, uint64_t{0x00af9b000000ffff});
  put(monitor, page + kKernelData, uint64_t{0x00cf93000000ffff});
  put(monitor, page + (kUserData & ~7u), uint64_t{0x00cff3000000ffff});
  put(monitor, page + (kUserCode & ~7u), uint64_t{0x00affb000000ffff});
  put(monitor, page + kTaskSegment,
      (0x0000890000000000 | kTssLimit) | (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56);
  put(monitor, page + kTaskSegment + 8, tss >> 32);
  put(monitor, page + kTssOffset + 4, kMonitorBase + stack_top(id));  // RSP0 (SDM vol. 3, figure 8-11)
  put(monitor, page + kTssOffset + 0x66, kTssSize);
  put(monitor, page + kTssOffset + kTssSize, kPortBitmap);

  sregs.cr0 = 0x80050033;  // PG AM WP NE ET MP PE
  sregs.cr3 = layout::kPml4;
  // PAE, PGE, OSFXSR, OSXMMEXCPT; TSD makes RDTSC fault where the host honours it: a net for code made at run
  // time.
  sregs.cr4 = 0x20 | 0x80 | 0x200 | 0x400 | 0x4 | (xsave ? 0x40000u : 0u);
  sregs.efer = 0xd01;  // SCE LME LMA NXE
  sregs.gdt = {.base = kMonitorBase + page, .limit = 63, .padding = {}};
  sregs.idt = {.base = kMonitorBase + layout::kIdt, .limit = kVectors * 16 - 1, .padding = {}};
  set_ring(sregs, 3);
  sregs.ds = sregs.es = flat(kUserData, 3, false, 3);
  sregs.fs = sregs.gs = flat(0, 3, false, 3);
  sregs.tr = {};
  sregs.tr.base = tss;
  sregs.tr.limit = kTssLimit;
  sregs.tr.selector = kTaskSegment;
  sregs.tr.type = 11;  // busy 64-bit TSS
  sregs.tr.present = 1;
}

ExceptionFrame exception_frame(const std::byte* monitor, unsigned id, unsigned vector, uint32_t& error_code) {
  ExceptionFrame frame;
  const uint64_t top = stack_top(id);
  std::memcpy(&frame, monitor + top - sizeof frame, sizeof frame);
  error_code = 0;
  if ((kErrorCodeVectors >> vector & 1) != 0)
    std::memcpy(&error_code, monitor + top - sizeof frame - sizeof(uint64_t), sizeof error_code);
  return frame;
}

}  // namespace aftercheck::kvm
