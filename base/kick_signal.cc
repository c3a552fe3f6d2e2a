#include "base/kick_signal.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

// What a signal handler returns to. The bytes are those by which debuggers and unwinders know it.
asm(R"(
    .text
    .local aftercheck_kick_restorer
    .type aftercheck_kick_restorer, @function
    nop
aftercheck_kick_restorer:
    mov $15, %rax
    syscall
    .size aftercheck_kick_restorer, . - aftercheck_kick_restorer
)");
extern "C" [[gnu::visibility("hidden")]] void aftercheck_kick_restorer();

namespace aftercheck {
namespace {

// The kernel's struct sigaction for x86-64 (arch/x86/include/uapi/asm/signal.h): the libc's sigaction()
// refuses the signal.
struct Action {
  KickHandler handler = nullptr;
  uint64_t flags = 0;
  void (*restorer)() = nullptr;
  uint64_t mask = 0;
};
constexpr uint64_t kRestorer = 0x04000000;  // SA_RESTORER

Action set_action(const Action* wanted) {
  Action before;
  syscall(SYS_rt_sigaction, kKickSignal, wanted, &before, sizeof before.mask);
  return before;
}

void do_nothing(int, siginfo_t*, void*) {}

}  // namespace

KickHandler replace_kick_handler(KickHandler handler) {
  constexpr uint64_t kFaultSignals = uint64_t{1} << (SIGSEGV - 1) | uint64_t{1} << (SIGBUS - 1);
  // No SA_RESTART: calls are to return.
  const Action action{handler != nullptr ? handler : do_nothing, SA_SIGINFO | SA_ONSTACK | kRestorer,
                      aftercheck_kick_restorer, ~kFaultSignals};
  return set_action(&action).handler;
}

void prepare_kicks() {
  const auto handler = reinterpret_cast<uint64_t>(set_action(nullptr).handler);
  if (handler == reinterpret_cast<uint64_t>(SIG_DFL) || handler == reinterpret_cast<uint64_t>(SIG_IGN))
    replace_kick_handler(nullptr);
}

bool is_kick(const siginfo_t& info) { return info.si_code == SI_TKILL && info.si_pid == getpid(); }

void kick_thread(pid_t thread) noexcept { syscall(SYS_tgkill, getpid(), thread, kKickSignal); }

}  // namespace aftercheck
