/* vassert_test_registers(const void* before, void* after, int ymm): loads 15 general registers (all but rsp; 8 bytes each) and
 * 16 vector registers (32 bytes each) from `before`, lets a check fail, and stores them to `after`. Also keeps something
 * in the red zone over the call: 1 if it was there afterwards. */
        .text
        .globl  vassert_test_registers
        .hidden vassert_test_registers
        .type   vassert_test_registers, @function
vassert_test_registers:
        .cfi_startproc
        pushq   %rbx
        pushq   %rbp
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        pushq   %rsi
        pushq   %rdx
        .cfi_adjust_cfa_offset 64
        testl   %edx, %edx
        jnz     1f
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        movups  (120 + \n * 32)(%rdi), %xmm\n
        .endr
        jmp     2f
1:
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        vmovups (120 + \n * 32)(%rdi), %ymm\n
        .endr
2:      movq    0(%rdi), %rax
        movq    8(%rdi), %rbx
        movq    16(%rdi), %rcx
        movq    24(%rdi), %rdx
        movq    32(%rdi), %rsi
        movq    48(%rdi), %rbp
        movq    56(%rdi), %r8
        movq    64(%rdi), %r9
        movq    72(%rdi), %r10
        movq    80(%rdi), %r11
        movq    88(%rdi), %r12
        movq    96(%rdi), %r13
        movq    104(%rdi), %r14
        movq    112(%rdi), %r15
        movq    40(%rdi), %rdi
        movq    %rdi, -8(%rsp)
        movq    %rdi, -128(%rsp)
        leaq    -128(%rsp), %rsp
        call    vassert_failed_thunk_
        .byte   0x0f, 0x1f, 0x80
        .long   vassert_test_record - .
        leaq    128(%rsp), %rsp
        xchgq   %rsi, 8(%rsp)           /* after; rsi goes to its place */
        movq    %rax, 0(%rsi)
        movq    %rbx, 8(%rsi)
        movq    %rcx, 16(%rsi)
        movq    %rdx, 24(%rsi)
        movq    8(%rsp), %rax
        movq    %rax, 32(%rsi)
        movq    %rdi, 40(%rsi)
        movq    %rbp, 48(%rsi)
        movq    %r8, 56(%rsi)
        movq    %r9, 64(%rsi)
        movq    %r10, 72(%rsi)
        movq    %r11, 80(%rsi)
        movq    %r12, 88(%rsi)
        movq    %r13, 96(%rsi)
        movq    %r14, 104(%rsi)
        movq    %r15, 112(%rsi)
        cmpl    $0, (%rsp)
        jnz     3f
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        movups  %xmm\n, (120 + \n * 32)(%rsi)
        .endr
        jmp     4f
3:
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        vmovups %ymm\n, (120 + \n * 32)(%rsi)
        .endr
        vzeroupper
4:      xorl    %eax, %eax
        cmpq    %rdi, -8(%rsp)
        jne     5f
        cmpq    %rdi, -128(%rsp)
        sete    %al
5:      addq    $16, %rsp
        .cfi_adjust_cfa_offset -16
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbp
        popq    %rbx
        .cfi_adjust_cfa_offset -48
        ret
        .cfi_endproc
        .size   vassert_test_registers, . - vassert_test_registers
        .section .note.GNU-stack, "", @progbits
