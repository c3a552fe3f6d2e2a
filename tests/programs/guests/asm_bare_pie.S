# Static PIE without a C library: what the stack holds at the start (argc, argv, environment, auxiliary vector).
# flags: -nostdlib -static-pie
# args: a bc def
# expect: exit 4
.globl _start
_start:
  mov (%rsp), %rdi            # argc
  lea 16(%rsp,%rdi,8), %rsi   # environment
  test $15, %spl
  jnz bad
  cmpq $0, -8(%rsi)
  jne bad
1: add $8, %rsi
  cmpq $0, -8(%rsi)
  jne 1b
2: cmpq $6, (%rsi)            # AT_PAGESZ
  je 3f
  cmpq $0, (%rsi)
  je bad
  add $16, %rsi
  jmp 2b
3: cmpq $4096, 8(%rsi)
  jne bad
  mov $60, %eax
  syscall
bad:
  mov $99, %edi
  mov $60, %eax
  syscall
