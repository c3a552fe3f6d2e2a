#include "base/guarded_copy.h"

#include <csignal>
#include <cstring>
#include <mutex>

#include "base/error.h"
#include "base/fault_claims.h"

// rep movsb keeps its progress in registers, so a fault in it can be turned into a return at `_fixup`.
asm(R"(
    .text
    .local aftercheck_guarded_copy
    .type aftercheck_guarded_copy, @function
aftercheck_guarded_copy:
    .cfi_startproc
    mov %rdx, %rcx
aftercheck_guarded_copy_touch:
    rep movsb
    mov $1, %eax
    ret
aftercheck_guarded_copy_fixup:
    xor %eax, %eax
    ret
    .cfi_endproc
    .size aftercheck_guarded_copy, . - aftercheck_guarded_copy
)");

extern "C" {
int aftercheck_guarded_copy(void* destination, const void* source, size_t size);
extern const char aftercheck_guarded_copy_touch[];
extern const char aftercheck_guarded_copy_fixup[];
}

namespace aftercheck {
namespace {

struct sigaction previous_segv, previous_bus;

[[gnu::noinline]] void on_fault(int signal, siginfo_t* info, void* context) {
  auto* user = static_cast<ucontext_t*>(context);
  auto& rip = user->uc_mcontext.gregs[REG_RIP];
  if (rip == reinterpret_cast<greg_t>(aftercheck_guarded_copy_touch)) {
    rip = reinterpret_cast<greg_t>(aftercheck_guarded_copy_fixup);
    return;
  }
  if (claim_fault(signal, info, context)) return;
  const struct sigaction& previous = signal == SIGSEGV ? previous_segv : previous_bus;
  if ((previous.sa_flags & SA_SIGINFO) != 0 && previous.sa_sigaction != nullptr) {
    previous.sa_sigaction(signal, info, context);
    return;
  }
  std::signal(signal, SIG_DFL);  // returning re-executes the access and dies with the right status
}

}  // namespace

void install_fault_guard() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_sigaction = interrupting_guest<on_fault>;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    if (sigaction(SIGSEGV, &action, &previous_segv) != 0 || sigaction(SIGBUS, &action, &previous_bus) != 0)
      fail(ErrorKind::internal, "sigaction(SIGSEGV): {}", errno_text(errno));
  });
}

bool guarded_copy(void* destination, const void* source, size_t size) {
  return aftercheck_guarded_copy(destination, source, size) != 0;
}

}  // namespace aftercheck
