#include "tools/doctor_guest.h"

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "base/error.h"

namespace aftercheck::tools {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// Kicks a vCPU that does not come back.
class Watchdog {
 public:
  explicit Watchdog(Vcpu& vcpu)
      : thread_([this, &vcpu] {
          std::unique_lock lock(mutex_);
          while (!done_.wait_for(lock, 2s, [this] { return finished_; })) vcpu.kick();
        }) {}
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      finished_ = true;
    }
    done_.notify_all();
    thread_.join();
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  bool finished_ = false;
  std::thread thread_;
};

ProbeAnswer works(std::string value = "") { return {"", std::move(value)}; }
ProbeAnswer came(const Exit& exit) {
  return {exit.kind == ExitKind::kick ? "nothing came" : "came: " + describe(exit), ""};
}
ProbeAnswer expect(const Exit& expected, const Exit& exit) { return exit == expected ? works() : came(exit); }

ProbeAnswer probe_system_call(ProbeGuest& guest) {
  static constexpr uint8_t kCode[] = {0xb8, 0x27, 0, 0, 0, 0x0f, 0x05};  // mov $39, %eax; syscall
  const Exit exit = guest.run(kCode);
  if (exit.kind != ExitKind::syscall) return came(exit);
  const Registers& registers = guest.vcpu().registers();
  if (registers.rax != 0x27 || registers.rip != guest.code() + sizeof kCode) return {"wrong registers", ""};
  return works();
}

ProbeAnswer probe_exit_cost(ProbeGuest& guest) {
  static constexpr uint8_t kCode[] = {0x0f, 0x05, 0xeb, 0xfc};  // 1: syscall; jmp 1b
  guest.load(kCode);
  constexpr uint64_t kWarmUp = 50;
  uint64_t exits = 0;
  auto start = Clock::now();
  for (;; ++exits) {
    if (exits == kWarmUp) start = Clock::now();
    if (exits > kWarmUp && exits % 16 == 0 && Clock::now() - start > 100ms) break;
    const Exit exit = guest.vcpu().run();
    if (exit.kind != ExitKind::syscall) return came(exit);
  }
  const std::chrono::duration<double, std::micro> took = Clock::now() - start;
  return works(fmt::format("{:.1f} us", took.count() / static_cast<double>(exits - kWarmUp)));
}

ProbeAnswer probe_step(ProbeGuest& guest) {
  static constexpr uint8_t kCode[] = {0xb8, 1, 0, 0, 0,   0xbb,
                                      2,    0, 0, 0, 0x90};  // mov $1, %eax; mov $2, %ebx; nop
  guest.load(kCode);
  for (const uint64_t offset : {5u, 10u, 11u}) {
    const Exit exit = guest.vcpu().step();
    if (exit.kind != ExitKind::step) return came(exit);
    if (const uint64_t rip = guest.vcpu().registers().rip; rip != guest.code() + offset)
      return {fmt::format("stopped at byte {} instead of {}", rip - guest.code(), offset), ""};
  }
  return works();
}

ProbeAnswer probe_breakpoint(ProbeGuest& guest) {
  static constexpr uint8_t kCode[] = {0x90, 0xcc};  // nop; int3
  const Exit exit = guest.run(kCode);
  if (exit.kind != ExitKind::breakpoint) return came(exit);
  return guest.vcpu().registers().rip == guest.code() + 1 ? works() : ProbeAnswer{"RIP is not on it", ""};
}

ProbeAnswer probe_invalid_opcode(ProbeGuest& guest) {
  static constexpr uint8_t kCode[] = {0x0f, 0x0b};  // ud2
  return expect(Exit{.kind = ExitKind::exception, .vector = vector::kInvalidOpcode}, guest.run(kCode));
}

ProbeAnswer probe_patch(ProbeGuest& guest) {
  static constexpr uint8_t kCode[] = {0x0f, 0x31, 0x0f, 0x05};  // rdtsc; syscall
  guest.load(kCode);
  const TrappedInstruction rdtsc = *decode_trapped(kCode);
  CodePatch patch{.address = guest.code(), .instruction = rdtsc};
  std::memcpy(patch.original.data(), kCode, rdtsc.length);
  if (!guest.space().apply_patch(patch)) return {"the code could not be changed", ""};
  return expect(Exit{.kind = ExitKind::trapped_instruction, .instruction = rdtsc}, guest.run());
}

ProbeAnswer probe_divide(ProbeGuest& guest) {
  static constexpr uint8_t kCode[] = {0x31, 0xc9, 0xf7, 0xf1};  // xor %ecx, %ecx; div %ecx
  return expect(Exit{.kind = ExitKind::exception, .vector = vector::kDivideError}, guest.run(kCode));
}

ProbeAnswer probe_missing_page(ProbeGuest& guest) {
  static constexpr uint8_t kCode[] = {0x48, 0x8b, 0x04, 0x25, 0, 0, 2, 0};  // mov 0x20000, %rax
  return expect(Exit{.kind = ExitKind::memory_fault, .address = 0x20000, .access = Access::read},
                guest.run(kCode));
}

ProbeAnswer probe_read_only(ProbeGuest& guest) {
  static constexpr uint8_t kCode[] = {0x88, 0x05, 0, 0, 0, 0};  // mov %al, (%rip)
  guest.load(kCode);
  return expect(
      Exit{.kind = ExitKind::memory_fault, .address = guest.code() + sizeof kCode, .access = Access::write},
      guest.run());
}

ProbeAnswer probe_no_execute(ProbeGuest& guest) {
  static constexpr uint8_t kCode[] = {0x0f, 0x05};  // syscall
  guest.load(kCode);
  guest.space().write(guest.data(), kCode, sizeof kCode);
  guest.vcpu().registers().rip = guest.data();
  return expect(Exit{.kind = ExitKind::memory_fault, .address = guest.data(), .access = Access::fetch},
                guest.run());
}

ProbeAnswer probe_fpu(ProbeGuest& guest) {
  static constexpr uint8_t kCode[] = {0x66, 0x0f, 0xfc, 0xc0, 0x0f, 0x05};  // paddb %xmm0, %xmm0; syscall
  constexpr size_t kXmm0 = 160, kMxcsr = 24;                                // SDM vol. 1, table 10-2
  constexpr uint32_t kRoundDown = 0x3f80;
  guest.load(kCode);
  FpuState state = FpuState::initial();
  for (size_t i = 0; i < 16; ++i) state.fxsave[kXmm0 + i] = static_cast<std::byte>(i);
  std::memcpy(&state.fxsave[kMxcsr], &kRoundDown, sizeof kRoundDown);
  guest.vcpu().set_fpu(state);
  const Exit exit = guest.run();
  const FpuState after = guest.vcpu().fpu();
  guest.vcpu().set_fpu(FpuState::initial());
  if (exit.kind != ExitKind::syscall) return came(exit);
  for (size_t i = 0; i < 16; ++i)
    if (after.fxsave[kXmm0 + i] != static_cast<std::byte>(2 * i)) return {"XMM0 is wrong", ""};
  uint32_t mxcsr = 0;
  std::memcpy(&mxcsr, &after.fxsave[kMxcsr], sizeof mxcsr);
  return mxcsr == kRoundDown ? works() : ProbeAnswer{fmt::format("MXCSR is {:#x}", mxcsr), ""};
}

ProbeAnswer probe_tsc_disable(ProbeGuest& guest) {
  static constexpr uint8_t kCode[] = {0x0f, 0x31, 0x0f, 0x05};  // rdtsc; syscall
  const Exit exit = guest.run(kCode);
  if (exit.kind == ExitKind::trapped_instruction) return works();
  return exit.kind == ExitKind::syscall ? ProbeAnswer{"CR4.TSD is ignored", ""} : came(exit);
}

ProbeAnswer probe_cpuid(ProbeGuest& guest) {
  static constexpr uint8_t kCode[] = {
      0xb8, 1,    0,    0,    0,    0x31, 0xc9,        // mov $1, %eax; xor %ecx, %ecx
      0x0f, 0xa2, 0x41, 0x89, 0xc8, 0x41, 0x89, 0xd1,  // cpuid; mov %ecx, %r8d; mov %edx, %r9d
      0x0f, 0x05};                                     // syscall
  const Exit exit = guest.run(kCode);
  if (exit.kind == ExitKind::trapped_instruction) return works("trapped");
  if (exit.kind != ExitKind::syscall) return came(exit);
  const CpuidResult model = guest.cpu().cpuid(1, 0);
  const Registers& registers = guest.vcpu().registers();
  if (registers.r8 == model.ecx && registers.r9 == model.edx && registers.rax == model.eax) return works();
  return {"it shows the host's processor", ""};
}

ProbeAnswer probe_avx(ProbeGuest& guest) {
  static constexpr uint8_t kCode[] = {0xc5, 0xfc, 0x58,
                                      0xc0, 0x0f, 0x05};  // vaddps %ymm0, %ymm0, %ymm0; syscall
  const Exit exit = guest.run(kCode);
  if (exit.kind == ExitKind::syscall) return {"it runs", ""};
  return expect(Exit{.kind = ExitKind::exception, .vector = vector::kInvalidOpcode}, exit);
}

ProbeAnswer probe_kicks(ProbeGuest& guest) {
  // 1: inc %rax; inc %rbx; jmp 1b. RAX is RBX, or one more in the middle: so a stop anywhere can be checked.
  static constexpr uint8_t kCode[] = {0x48, 0xff, 0xc0, 0x48, 0xff, 0xc3, 0xeb, 0xf8};
  constexpr int kKicks = 100;
  guest.load(kCode);
  std::atomic<bool> done{false};
  std::thread kicker([&] {
    while (!done) {
      std::this_thread::sleep_for(500us);
      guest.vcpu().kick();
    }
  });
  ProbeAnswer answer = works(fmt::format("{} of {}", kKicks, kKicks));
  for (int kick = 0; kick < kKicks; ++kick) {
    const Exit exit = guest.vcpu().run();
    const Registers& registers = guest.vcpu().registers();
    const uint64_t offset = registers.rip - guest.code();
    const bool exact =
        (offset == 0 || offset == 3 || offset == 6) && registers.rax == registers.rbx + (offset == 3 ? 1 : 0);
    if (exit.kind == ExitKind::kick && exact) continue;
    answer = {exit.kind == ExitKind::kick ? fmt::format("registers are wrong at kick {}", kick + 1)
                                          : came(exit).why_not,
              ""};
    break;
  }
  if (answer.why_not.empty() && guest.vcpu().registers().rax == 0)
    answer.why_not = "the guest did not run between them";
  done = true;
  kicker.join();
  guest.vcpu().clear_kick();
  return answer;
}

constexpr const char* kUnusable = "programs can't be run on this machine";
constexpr GuestProbe kProbes[] = {
    {"system_call", "system calls arrive at the host", kUnusable, true, probe_system_call},
    {"exit_cost", "cost of one exit and return", "it is unknown", false, probe_exit_cost},
    {"invalid_opcode", "#UD arrives", kUnusable, true, probe_invalid_opcode},
    {"code_patch", "patched RDTSC traps", kUnusable, true, probe_patch},
    {"divide_error", "#DE arrives", "a division by zero ends the recording", true, probe_divide},
    {"missing_page", "reading a missing page faults", kUnusable, true, probe_missing_page},
    {"read_only", "writing a read-only page faults", kUnusable, true, probe_read_only},
    {"no_execute", "code on a page that is not executable faults",
     "code runs there unscanned: time stamps and the like in it are not recorded", false, probe_no_execute},
    {"fpu_state", "x87 and SSE state goes in and out", kUnusable, true, probe_fpu},
    {"kicks", "kicks stop the guest at exact registers",
     "a signal that kills reaches a computing program late", false, probe_kicks},
    {"single_step", "single-stepping (RFLAGS.TF)",
     "replays stop at breakpoints only, not at single instructions", false, probe_step},
    {"breakpoint", "INT3 arrives", "replays can't stop at chosen instructions; a program's own INT3 is lost",
     false, probe_breakpoint},
    {"time_stamp_disable", "unpatched RDTSC traps (CR4.TSD)",
     "with --cpu=host, RDTSC in code made at run time (by JIT compilers) may go unseen; such programs "
     "diverge",
     false, probe_tsc_disable},
    {"cpuid_masking", "unpatched CPUID shows the CPU model",
     "with --cpu=host, CPUID in code made at run time may go unseen; such programs may not replay on another",
     false, probe_cpuid},
    {"avx_refused", "AVX is #UD under the portable model",
     "programs that use AVX without asking CPUID record, and may not replay on another host or on soft",
     false, probe_avx},
};

}  // namespace

std::span<const GuestProbe> guest_probes() { return kProbes; }

ProbeGuest::ProbeGuest(MachineKind kind)
    : machine_(create_machine(choice_of(kind), space_, cpu_)), vcpu_(machine_->create_vcpu()) {}

void ProbeGuest::load(std::span<const uint8_t> code) {
  constexpr uint64_t kApart = 16 * kPageSize;
  code_ += kApart;
  const Range code_page{code_, code_ + kPageSize}, data_pages{data(), data() + 2 * kPageSize};
  if (space_.map_anonymous(code_page, PROT_READ | PROT_WRITE, false) != 0 ||
      space_.map_anonymous(data_pages, PROT_READ | PROT_WRITE, false) != 0 ||
      !space_.write(code_, code.data(), code.size()) || space_.protect(code_page, PROT_READ | PROT_EXEC) != 0)
    fail(ErrorKind::host_lacks, "guest memory at {:#x} can't be made", code_);
  vcpu_->registers() = Registers{};
  vcpu_->registers().rip = code_;
  vcpu_->registers().rsp = data_pages.end;
}

Exit ProbeGuest::run() {
  const Watchdog watchdog(*vcpu_);
  return vcpu_->run();
}

Exit ProbeGuest::run(std::span<const uint8_t> code) {
  load(code);
  return run();
}

}  // namespace aftercheck::tools
