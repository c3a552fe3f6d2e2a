# No C library, no stack use: two system calls.
# flags: -nostdlib -static
# expect: exit 44
# expect-output: bare
.globl _start
_start:
  mov $1, %eax
  mov $1, %edi
  lea text(%rip), %rsi
  mov $5, %edx
  syscall
  lea 39(%rax), %edi
  mov $231, %eax
  syscall
text: .ascii "bare\n"
