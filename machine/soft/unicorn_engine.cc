#include "machine/soft/unicorn_engine.h"

#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "machine/soft/fpu_transfer.h"
#include "machine/soft/sse_arithmetic.h"
#include "machine/soft/translation_guard.h"
#include "machine/soft/x87.h"

namespace aftercheck::soft {
namespace {

constexpr std::array<int, kRegisterCount> kRegisterIds = {
    UC_X86_REG_RAX, UC_X86_REG_RBX, UC_X86_REG_RCX,    UC_X86_REG_RDX,     UC_X86_REG_RSI,
    UC_X86_REG_RDI, UC_X86_REG_RSP, UC_X86_REG_RBP,    UC_X86_REG_R8,      UC_X86_REG_R9,
    UC_X86_REG_R10, UC_X86_REG_R11, UC_X86_REG_R12,    UC_X86_REG_R13,     UC_X86_REG_R14,
    UC_X86_REG_R15, UC_X86_REG_RIP, UC_X86_REG_EFLAGS, UC_X86_REG_FS_BASE, UC_X86_REG_GS_BASE};

// SDM vol. 3, 2.5: protected mode with paging, native x87 errors and write protection; PAE, FXSAVE and SIMD
// errors.
constexpr uint64_t kCr0 = 0x8001'0033, kCr4 = 0x0000'0620;

// The page from which the engine enters ring 3 once, below the page tables; closed afterwards.
constexpr uint64_t kStartPage = PageTables::kPhysical - kPageSize;
// A page that exists only to be changed, see flush_tlb().
constexpr uint64_t kFlushPage = kStartPage - kPageSize;
constexpr size_t kStop = 0x80, kGdt = 0x100, kFrame = 0x200;
// Linux's selectors and descriptors (arch/x86/include/asm/segment.h): data in entry 5, 64-bit code in
// entry 6.
constexpr uint64_t kUserData = 0x2b, kUserCode = 0x33;
constexpr std::array<uint64_t, 7> kDescriptors = {
    0, 0, 0, 0, 0, 0x00cf'f300'0000'ffff, 0x00af'fb00'0000'ffff};

void write_register(uc_engine* engine, int id, uint64_t value) {
  check(uc_reg_write(engine, id, &value), "uc_reg_write");
}

void stop(uc_engine* engine, void*) { uc_emu_stop(engine); }

void* nowhere() {
  // Never touched: the page tables have no entry that leads here.
  static void* const page = mmap(nullptr, kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return page;
}

}  // namespace

void check(uc_err error, const char* call) {
  if (error != UC_ERR_OK) fail(ErrorKind::internal, "{}: {}", call, uc_strerror(error));
}

UnicornEngine::UnicornEngine(PageTables& tables) : tables_(tables) {
  check_sse_arithmetic();
  check_x87();
  uc_engine* engine = nullptr;
  const uc_err error = uc_open(UC_ARCH_X86, UC_MODE_64, &engine);
  if (error != UC_ERR_OK)
    fail(ErrorKind::host_lacks,
         "Unicorn can't make an x86-64 CPU: {}; install libunicorn 2.0.1 with x86 support",
         uc_strerror(error));
  engine_.reset(engine);
  check(uc_ctl_set_cpu_model(engine, UC_CPU_X86_WESTMERE), "uc_ctl_set_cpu_model");
  // Without this mode the address of uc_emu_start's `until` would be taken out of the guest's code.
  check(uc_ctl_exits_enable(engine), "uc_ctl_exits_enable");
  check(uc_mem_map_ptr(engine, PageTables::kPhysical, PageTables::memory_size(), UC_PROT_READ | UC_PROT_WRITE,
                       tables.memory()),
        "uc_mem_map_ptr");
  check(uc_mem_map_ptr(engine, kFlushPage, kPageSize, UC_PROT_READ | UC_PROT_WRITE, nowhere()),
        "uc_mem_map_ptr");
  write_register(engine, UC_X86_REG_CR4, kCr4);
  write_register(engine, UC_X86_REG_CR3, PageTables::kPhysical);
  write_register(engine, UC_X86_REG_CR0, kCr0);
  enter_user_mode();

  uc_context* context = nullptr;
  check(uc_context_alloc(engine, &context), "uc_context_alloc");
  pristine_.reset(context);
  write_fpu(engine, FpuState::initial());
  check(uc_context_save(engine, context), "uc_context_save");
}

void UnicornEngine::enter_user_mode() {
  // Writing CS leaves the privilege level alone, so the change is made as a kernel makes it: by IRETQ.
  void* page = mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) fail(ErrorKind::host_lacks, "no memory for one page: {}", errno_text(errno));
  auto* bytes = static_cast<std::byte*>(page);
  constexpr std::array<uint8_t, 2> kIretq = {0x48, 0xcf}, kSyscall = {0x0f, 0x05};
  const std::array<uint64_t, 5> frame = {kStartPage + kStop, kUserCode, Registers().rflags, 0, kUserData};
  std::memcpy(bytes, kIretq.data(), kIretq.size());
  std::memcpy(bytes + kStop, kSyscall.data(), kSyscall.size());
  std::memcpy(bytes + kGdt, kDescriptors.data(), sizeof kDescriptors);
  std::memcpy(bytes + kFrame, frame.data(), sizeof frame);

  uc_engine* engine = get();
  check(uc_mem_map_ptr(engine, kStartPage, kPageSize, UC_PROT_ALL, page), "uc_mem_map_ptr");
  const PageTables::Opened opened = tables_.open(kStartPage, true);
  const uc_x86_mmr gdtr{0, kStartPage + kGdt, sizeof kDescriptors - 1, 0};
  check(uc_reg_write(engine, UC_X86_REG_GDTR, &gdtr), "uc_reg_write(GDTR)");
  write_register(engine, UC_X86_REG_RSP, kStartPage + kFrame);
  uc_hook hook = 0;
  check(uc_hook_add(engine, &hook, UC_HOOK_INSN, reinterpret_cast<void*>(stop), nullptr, 1, 0,
                    UC_X86_INS_SYSCALL),
        "uc_hook_add");
  check(uc_emu_start(engine, kStartPage, 0, 0, 0), "uc_emu_start");
  check(uc_hook_del(engine, hook), "uc_hook_del");
  uint64_t selector = 0;
  check(uc_reg_read(engine, UC_X86_REG_CS, &selector), "uc_reg_read");
  tables_.close(opened);
  flush_tlb();
  check(uc_mem_unmap(engine, kStartPage, kPageSize), "uc_mem_unmap");
  munmap(page, kPageSize);
  if ((selector & 0xffff) != kUserCode)
    fail(ErrorKind::host_lacks, "this Unicorn can't enter ring 3; Debian's libunicorn 2.0.1 can");
  if (!TranslationGuard::interposed())
    fail(ErrorKind::host_lacks,
         "this Unicorn can't be kept from translating undefined instructions, which would end this process; "
         "Debian's shared libunicorn 2.0.1 can");
}

void UnicornEngine::add_memory(Range range) {
  check(uc_mem_map_ptr(get(), range.start, range.size(), UC_PROT_ALL, reinterpret_cast<void*>(range.start)),
        "uc_mem_map_ptr");
}

bool UnicornEngine::add_hole(uint64_t address) {
  const uint64_t page = page_down(address);
  if (uc_mem_map_ptr(get(), page, kPageSize, UC_PROT_ALL, nowhere()) != UC_ERR_OK) return false;
  holes_.push_back(page);
  return true;
}

void UnicornEngine::remove_holes() {
  for (const uint64_t page : holes_) check(uc_mem_unmap(get(), page, kPageSize), "uc_mem_unmap");
  holes_.clear();
}

void UnicornEngine::load(const Registers& registers) {
  const auto* wanted = reinterpret_cast<const uint64_t*>(&registers);
  const auto* present = reinterpret_cast<const uint64_t*>(&loaded_);
  std::array<int, kRegisterCount> ids{};
  std::array<void*, kRegisterCount> values{};
  int count = 0;
  for (size_t i = 0; i < kRegisterCount; ++i) {
    if (loaded_valid_ && wanted[i] == present[i]) continue;
    ids[count] = kRegisterIds[i];
    values[count++] = const_cast<uint64_t*>(&wanted[i]);
  }
  if (count != 0) check(uc_reg_write_batch(get(), ids.data(), values.data(), count), "uc_reg_write_batch");
}

uint64_t UnicornEngine::word(size_t number) const {
  uint64_t value = 0;
  uc_reg_read(get(), kRegisterIds[number], &value);
  return value;
}

std::array<uint64_t, 2> UnicornEngine::xmm(size_t number) const {
  std::array<uint64_t, 2> value{};
  uc_reg_read(get(), UC_X86_REG_XMM0 + static_cast<int>(number), value.data());
  return value;
}

void UnicornEngine::store(Registers& registers) {
  std::array<int, kRegisterCount> ids = kRegisterIds;
  std::array<void*, kRegisterCount> values{};
  for (size_t i = 0; i < kRegisterCount; ++i) values[i] = reinterpret_cast<uint64_t*>(&registers) + i;
  check(uc_reg_read_batch(get(), ids.data(), values.data(), kRegisterCount), "uc_reg_read_batch");
  loaded_ = registers;
  loaded_valid_ = true;
}

uint64_t UnicornEngine::fault_address() const {
  uint64_t address = 0;
  check(uc_reg_read(get(), UC_X86_REG_CR2, &address), "uc_reg_read(CR2)");
  return address;
}

void UnicornEngine::forget_exception() {
  const FpuState fpu = read_fpu(get());
  check(uc_context_restore(get(), pristine_.get()), "uc_context_restore");
  write_fpu(get(), fpu);
  loaded_valid_ = false;
}

// Of the public functions only a change of Unicorn's memory regions flushes the TLB: writing CR3 does not,
// and uc_ctl_flush_tlb of 2.0.1 drops all translated code instead, which takes 40 ms.
void UnicornEngine::flush_tlb() {
  flush_parity_ = !flush_parity_;
  check(uc_mem_protect(get(), kFlushPage, kPageSize,
                       flush_parity_ ? UC_PROT_READ : UC_PROT_READ | UC_PROT_WRITE),
        "uc_mem_protect");
}

// uc_hook_del looks up the page of each block that the hook was on. Those whose mapping is gone by now are
// page faults, nothing of which may stay in the CPU: two of them would make the guest's next exception a
// double one or, without a word, the end of the turn (check_exception() in qemu/target/i386/excp_helper.c).
void UnicornEngine::remove_hook(uc_hook hook) {
  check(uc_hook_del(get(), hook), "uc_hook_del");
  forget_exception();
}

void UnicornEngine::forget_code(const std::vector<uint64_t>& pages, const std::vector<uc_hook>& hooks) {
  // uc_ctl_remove_cache looks the page up as a fetch, and a page fault there would leave its trace in the
  // CPU.
  std::vector<PageTables::Opened> opened;
  for (const uint64_t page : pages) opened.push_back(tables_.open(page, true));
  flush_tlb();
  for (const uc_hook hook : hooks) remove_hook(hook);
  for (const uint64_t page : pages)
    check(uc_ctl_remove_cache(get(), page, page + kPageSize), "uc_ctl_remove_cache");
  for (auto it = opened.rbegin(); it != opened.rend(); ++it) tables_.close(*it);
  flush_tlb();
}

}  // namespace aftercheck::soft
