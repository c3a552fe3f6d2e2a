#include "machine/translated/host_faults.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/error.h"
#include "base/fault_claims.h"
#include "machine/registers.h"
#include "machine/translated/translated_machine.h"

namespace aftercheck::translated {
namespace {

// Handlers need it, so it must be there without the dynamic linker's help.
[[gnu::tls_model("initial-exec")]] thread_local constinit Running* running_here = nullptr;

// Tells our signals from others under the same number.
int kick_mark = 0;

constexpr int kKick = SIGTRAP;
// Reserved for us by the recorder (kFaultSignals in kvm-recorder/signal_sets.h), and never blocked.
constexpr std::array kNeeded = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};

// Numbers of registers in the kernel's order, by those of encoding.
constexpr std::array<int, 16> kSaved = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                        REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                        REG_R12, REG_R13, REG_R14, REG_R15};

bool is_ours(const siginfo_t& info) { return info.si_code == SI_QUEUE && info.si_ptr == &kick_mark; }

struct Interrupted {
  greg_t* registers;
  uint64_t pc() const { return static_cast<uint64_t>(registers[REG_RIP]); }
  void go_on_at(uint64_t address) const { registers[REG_RIP] = static_cast<greg_t>(address); }
  void step(bool on) const {
    constexpr auto kTrap = static_cast<greg_t>(rflags::kTrap);
    registers[REG_EFL] = on ? registers[REG_EFL] | kTrap : registers[REG_EFL] & ~kTrap;
  }
};

// At the mark.
LeftInside left_inside(const Translator::Place& place) {
  LeftInside left;
  left.inside = true;
  left.so_far = {.start = place.block->guest,
                 .end = place.mark->guest,
                 .next = place.mark->guest,
                 .first_conditional = place.block->first_conditional,
                 .first_access = place.block->first_access,
                 .conditionals = place.mark->passed,
                 .accesses = place.mark->accesses};
  return left;
}

// The thread is somewhere between the entry into translated code and the exit from it, or about to enter: it
// is led out at the next boundary of the guest's instructions, one single step after the other.
void lead_out(Running& running, const Interrupted& at) {
  using Kind = Translator::Place::Kind;
  TranslatedMachine& machine = running.machine();
  Context& context = machine.context();
  const auto place = machine.find_place(at.pc());
  at.step(false);
  if (!place || place->kind == Kind::enter) {
    // Registers come and go unchanged.
    context.target = machine.translator().common_routines().leave_by_kick;
    return;
  }
  if (place->kind == Kind::leave) return;
  if (place->kind == Kind::block && place->at_mark && place->mark->held == Held::boundary) {
    context.rip = place->mark->guest;
    running.left() = left_inside(*place);
    at.go_on_at(place->routines->leave_by_kick);
    return;
  }
  at.step(true);
}

bool is_host_code(uint64_t pc) {
  Dl_info module{};
  return dladdr(reinterpret_cast<const void*>(pc), &module) != 0;
}

// There was no room for a note. A path's branch is executed, and the host makes the note; an instruction
// whose access could not be noted is not.
void leave_unnoted(Running& running, const Interrupted& at, const Translator::Place& place) {
  Context& context = running.machine().context();
  const Mark& mark = *place.mark;
  context.exit = kLeftUnnoted;
  if (mark.held == Held::address) {
    running.left() = left_inside(place);
    context.rip = mark.guest;
  } else {
    running.left().unnoted = static_cast<uint32_t>(mark.guest);
    if (mark.reg != kRcx) {  // an indirect branch
      context.rip = static_cast<uint64_t>(at.registers[REG_RCX]);
      at.registers[kSaved[mark.reg]] = static_cast<greg_t>(context.other_spill);
      at.registers[REG_RCX] = static_cast<greg_t>(context.rcx_spill);
    }
  }
  at.step(false);
  at.go_on_at(place.routines->leave);
}

bool take_fault(Running& running, int signal, const siginfo_t& info, const Interrupted& at) {
  using Kind = Translator::Place::Kind;
  TranslatedMachine& machine = running.machine();
  const auto place = machine.find_place(at.pc());
  Context& context = machine.context();
  const bool unnoted = place && place->mark != nullptr &&
                       (place->mark->held == Held::note || place->mark->held == Held::address);
  const bool astray = unnoted && !machine.lacks_room(reinterpret_cast<uint64_t>(info.si_addr));
  if (!place || place->kind != Kind::block || place->mark == nullptr || astray) {
    // The guest has changed a table, or the context: nothing of its state is worth keeping.
    if (is_host_code(at.pc())) return false;
    context.exit = kLeftAstray;
    at.step(false);
    at.go_on_at(machine.translator().common_routines().leave);
    return true;
  }
  if (unnoted) {
    leave_unnoted(running, at, *place);
    return true;
  }
  if (place->mark->held == Held::rcx) at.registers[REG_RCX] = static_cast<greg_t>(context.rcx_spill);
  const bool notes = place->mark->held == Held::journal;
  if (notes) {
    at.registers[REG_RAX] = static_cast<greg_t>(context.journal_rax);
    at.registers[REG_RCX] = static_cast<greg_t>(context.journal_rcx);
  }
  if (place->mark->held == Held::scratch)
    at.registers[kSaved[place->mark->reg]] = static_cast<greg_t>(context.scratch);
  running.fault() = {signal, static_cast<uint64_t>(at.registers[REG_TRAPNO]),
                     static_cast<uint64_t>(at.registers[REG_ERR]), reinterpret_cast<uint64_t>(info.si_addr),
                     place->mark->held == Held::counted};
  // It reads what is about to be stored to.
  constexpr uint64_t kWrite = 2;  // SDM vol. 3, figure 4-12
  if (notes) running.fault().error_code |= kWrite;
  running.left() = left_inside(*place);
  context.rip = place->mark->guest;
  context.exit = kLeftByFault;
  at.step(false);
  at.go_on_at(place->routines->leave);
  return true;
}

// Has it interrupted another handler?
bool on_signal_stack(const ucontext_t& context) {
  const auto stack = reinterpret_cast<uint64_t>(context.uc_stack.ss_sp);
  const auto at = static_cast<uint64_t>(context.uc_mcontext.gregs[REG_RSP]);
  return (context.uc_stack.ss_flags & SS_DISABLE) == 0 && at - stack < context.uc_stack.ss_size;
}

// Until that one has returned, which lets the signal through again.
void put_off(ucontext_t& context) {
  sigset_t kick;
  sigemptyset(&kick);
  sigaddset(&kick, kKick);
  pthread_sigmask(SIG_BLOCK, &kick, nullptr);
  interrupt(static_cast<int>(syscall(SYS_gettid)));
  sigaddset(&context.uc_sigmask, kKick);
}

bool claim(int signal, siginfo_t* info, void* context) {
  auto* const user = static_cast<ucontext_t*>(context);
  const Interrupted at{user->uc_mcontext.gregs};
  Running* const running = running_here;
  if (signal == kKick) {
    // A late one finds nobody.
    const bool ours = is_ours(*info);
    constexpr greg_t kDebug = 1;
    const bool stepped = info->si_code > 0 && at.registers[REG_TRAPNO] == kDebug;
    if (running == nullptr) return ours;
    if (!ours && !stepped) return false;
    if (on_signal_stack(*user))
      put_off(*user);
    else
      lead_out(*running, at);
    return true;
  }
  if (running == nullptr || info->si_code <= 0) return false;
  return take_fault(*running, signal, *info, at);
}

// A stack for signal handlers: the guest's is not ours to write to.
class SignalStack {
 public:
  SignalStack() {
    stack_t there{};
    if (sigaltstack(nullptr, &there) == 0 && (there.ss_flags & SS_DISABLE) == 0 && there.ss_size >= kSize)
      return;
    memory_ = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    stack_t ours{};
    ours.ss_sp = memory_;
    ours.ss_size = kSize;
    if (memory_ == MAP_FAILED || sigaltstack(&ours, nullptr) != 0)
      fail(ErrorKind::host_lacks, "no stack for signal handlers: {}", errno_text(errno));
  }
  ~SignalStack() {
    if (memory_ == nullptr) return;
    stack_t none{};
    none.ss_flags = SS_DISABLE;
    sigaltstack(&none, nullptr);
    munmap(memory_, kSize);
  }
  SignalStack(const SignalStack&) = delete;
  SignalStack& operator=(const SignalStack&) = delete;

 private:
  // With AVX-512 a frame alone takes some 3 KiB, and handlers nest.
  static constexpr size_t kSize = 256 << 10;
  void* memory_ = nullptr;
};

void prepare_thread() {
  thread_local const SignalStack stack;
  thread_local bool unblocked = false;
  if (unblocked) return;
  sigset_t needed;
  sigemptyset(&needed);
  for (const int signal : kNeeded) sigaddset(&needed, signal);
  pthread_sigmask(SIG_UNBLOCK, &needed, nullptr);
  unblocked = true;
}

}  // namespace

void claim_host_faults() { set_fault_claim(claim); }

Running::Running(TranslatedMachine& machine, HostFault& fault, LeftInside& left)
    : machine_(machine), fault_(fault), left_(left) {
  prepare_thread();
  running_here = this;
}

Running::~Running() { running_here = nullptr; }

void interrupt(int thread) noexcept {
  siginfo_t info{};
  info.si_signo = kKick;
  info.si_code = SI_QUEUE;
  info.si_pid = getpid();
  info.si_ptr = &kick_mark;
  syscall(SYS_rt_tgsigqueueinfo, info.si_pid, thread, kKick, &info);
}

}  // namespace aftercheck::translated
