# System calls keep every register but RAX, RCX and R11, and the whole SSE state.
# flags: -nostdlib -static
.globl _start
_start:
  mov $0x1111, %rbx
  mov $0x2222, %rbp
  mov $0x3333, %r12
  mov $0x4444, %r13
  mov $0x5555, %r14
  mov $0x6666, %r15
  mov $0x7777, %rdi
  mov $0x8888, %rsi
  mov $0x9999, %rdx
  mov $0xaaaa, %r8
  mov $0xbbbb, %r9
  mov $0xcccc, %r10
  movq %rbx, %xmm0
  movq %r15, %xmm15
  fldpi
  mov $1000, %r12d
1: mov $39, %eax
  syscall
  dec %r12d
  jnz 1b
  movq %xmm0, %rax
  add %rbx, %rax
  add %rbp, %rax
  add %r13, %rax
  add %r14, %rax
  add %r15, %rax
  add %rdi, %rax
  add %rsi, %rax
  add %rdx, %rax
  add %r8, %rax
  add %r9, %rax
  add %r10, %rax
  movq %xmm15, %rdx
  add %rdx, %rax
  mov $0x1111+0x1111+0x2222+0x4444+0x5555+0x6666+0x7777+0x8888+0x9999+0xaaaa+0xbbbb+0xcccc+0x6666, %rcx
  xor %edi, %edi
  cmp %rcx, %rax
  setne %dil
  mov $231, %eax
  syscall
