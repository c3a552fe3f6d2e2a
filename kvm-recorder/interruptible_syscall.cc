#include "kvm-recorder/interruptible_syscall.h"

#include <ucontext.h>

// A handler that runs between the check and SYSCALL sends the thread back to the check; one that runs later
// makes the kernel return -EINTR by itself. An interrupted call that the kernel would restart by itself (RIP
// back on SYSCALL) counts as not begun. SYSCALL has lost RCX and R11 by then, so the check takes nothing from
// registers.
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
    mov 16(%rsp), %r11
    cmpl $0, (%r11)
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
long aftercheck_interruptible_syscall(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                                      uint64_t f, const std::atomic<int>* waiting);
extern const char aftercheck_interruptible_syscall_check[];
extern const char aftercheck_interruptible_syscall_made[];
}

namespace aftercheck {

static_assert(std::atomic<int>::is_always_lock_free && sizeof(std::atomic<int>) == 4);

void recheck_interrupted_call(void* context) {
  auto& rip = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  const auto check = reinterpret_cast<greg_t>(aftercheck_interruptible_syscall_check);
  if (rip >= check && rip < reinterpret_cast<greg_t>(aftercheck_interruptible_syscall_made)) rip = check;
}

long interruptible_syscall(const std::atomic<int>& waiting, long number, uint64_t a, uint64_t b, uint64_t c,
                           uint64_t d, uint64_t e, uint64_t f) {
  return aftercheck_interruptible_syscall(number, a, b, c, d, e, f, &waiting);
}

}  // namespace aftercheck
