#include "base/fault_claims.h"

#include <array>
#include <atomic>

#include "base/error.h"
#include "base/guarded_copy.h"

namespace aftercheck {
namespace {

// SIGSEGV and SIGBUS are guarded_copy's, which asks too.
constexpr std::array kSignals = {SIGFPE, SIGILL, SIGTRAP};

std::atomic<FaultClaim> the_claim{nullptr};
std::array<struct sigaction, 32> previous;

[[gnu::noinline]] void on_fault(int signal, siginfo_t* info, void* context) {
  if (claim_fault(signal, info, context)) return;
  const struct sigaction& before = previous[static_cast<size_t>(signal)];
  if ((before.sa_flags & SA_SIGINFO) != 0 && before.sa_sigaction != nullptr)
    return before.sa_sigaction(signal, info, context);
  if (before.sa_handler == SIG_IGN && info->si_code <= 0) return;
  std::signal(signal, SIG_DFL);  // returning raises it anew and dies with the right status
  if (info->si_code <= 0) std::raise(signal);
}

}  // namespace

bool claim_fault(int signal, siginfo_t* info, void* context) {
  const FaultClaim claim = the_claim.load(std::memory_order_relaxed);
  return claim != nullptr && claim(signal, info, context);
}

void set_fault_claim(FaultClaim claim) {
  the_claim.store(claim);
  install_fault_guard();
  for (const int signal : kSignals) {
    struct sigaction action {};
    sigaction(signal, nullptr, &action);
    if ((action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == interrupting_guest<on_fault>) continue;
    previous[static_cast<size_t>(signal)] = action;
    action = {};
    action.sa_sigaction = interrupting_guest<on_fault>;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    if (sigaction(signal, &action, nullptr) != 0)
      fail(ErrorKind::internal, "sigaction({}): {}", signal, errno_text(errno));
  }
}

}  // namespace aftercheck
