#include "kvm-recorder/interruptible_syscall.h"

#include <ucontext.h>

#include <atomic>
#include <cstdint>

#include "kvm-recorder/signals.h"

// A handler that runs between the check and SYSCALL sends the thread back to the check; one that runs later
// makes the kernel return -EINTR by itself. An interrupted call that the kernel would restart by itself (RIP
// back on SYSCALL) counts as not begun.
asm(R"(
    .text
    .local aftercheck_interruptible_syscall
    .type aftercheck_interruptible_syscall, @function
aftercheck_interruptible_syscall:
    .cfi_startproc
    mov %rdi, %rax
    mov %rsi, %rdi
    mov %rdx, %rsi
    mov %rcx, %rdx
    mov %r8, %r10
    mov %r9, %r8
    mov 8(%rsp), %r9
aftercheck_interruptible_syscall_check:
    cmpl $0, aftercheck_signal_waiting(%rip)
    jne 1f
    syscall
aftercheck_interruptible_syscall_made:
    ret
1:
    mov $-4, %rax
    ret
    .cfi_endproc
    .size aftercheck_interruptible_syscall, . - aftercheck_interruptible_syscall
)");

extern "C" {
[[gnu::visibility("hidden")]] std::atomic<int> aftercheck_signal_waiting{0};
long aftercheck_interruptible_syscall(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                                      uint64_t f);
extern const char aftercheck_interruptible_syscall_check[];
extern const char aftercheck_interruptible_syscall_made[];
}

namespace aftercheck {

static_assert(std::atomic<int>::is_always_lock_free && sizeof(std::atomic<int>) == 4);

void set_signal_waiting(bool waiting) { aftercheck_signal_waiting.store(waiting ? 1 : 0); }

bool signal_waiting() { return aftercheck_signal_waiting.load() != 0; }

void recheck_interrupted_call(void* context) {
  auto& rip = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  const auto check = reinterpret_cast<greg_t>(aftercheck_interruptible_syscall_check);
  if (rip >= check && rip < reinterpret_cast<greg_t>(aftercheck_interruptible_syscall_made)) rip = check;
}

long interruptible_syscall(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                           uint64_t f) {
  return aftercheck_interruptible_syscall(number, a, b, c, d, e, f);
}

}  // namespace aftercheck
