/* SPDX-License-Identifier: BSD-2-Clause
 * What checks call (vassert.h), and the module's note.
 *
 * A thunk keeps all registers but the flags (an asm's flags are lost anyway), so that a check costs its function neither
 * registers nor a frame. x87 and MMX registers are left alone: nothing called from here uses them. The caller stepped 128 bytes
 * below its stack pointer, over the red zone; the unwind information gives the stack pointer it had before.
 * The instruction after the call is a NOP whose displacement leads to the check's record: no return address is changed, so
 * shadow stacks stay in step. */
        .text

        .macro thunk name function answers_eager quickly
        .globl  \name
        .hidden \name
        .type   \name, @function
        .balign 16
\name:
        .cfi_startproc
        .cfi_def_cfa_offset 8 + 128
        .cfi_offset rip, -8 - 128
        .if !\answers_eager
        cmpl    $0, 4 + vassert_control_(%rip)
        jne     1f
        .endif
        .ifnb \quickly
        call    \quickly
        cmpl    $0, vassert_more_(%rip)
        je      1f
        .endif
        pushq   %rbp
        .cfi_def_cfa_offset 16 + 128
        .cfi_offset rbp, -16 - 128
        movq    %rsp, %rbp
        .cfi_def_cfa rbp, 16 + 128
        pushq   %rdi
        movq    8(%rbp), %rdi           /* the return address: 0f 1f 80, then the displacement from its own address */
        pushq   %rax
        movslq  3(%rdi), %rax
        leaq    3(%rdi,%rax), %rdi
        pushq   %rbx
        .cfi_offset rbx, -40 - 128
        leaq    \function(%rip), %rbx
        call    keep_and_call
        popq    %rbx
        .cfi_restore rbx
        popq    %rax
        popq    %rdi
        popq    %rbp
        .cfi_def_cfa rsp, 8 + 128
        .cfi_restore rbp
1:      ret
        .cfi_endproc
        .size   \name, . - \name
        .endm

        thunk   vassert_begin_thunk_, vassert_begin_slowly_, 0, vassert_begin_quickly_
        thunk   vassert_end_thunk_, vassert_end_slowly_, 0, vassert_end_quickly_
        thunk   vassert_failed_thunk_, vassert_failed_, 1
        thunk   vassert_threw_thunk_, vassert_threw_, 1

/* VASSERT_CALL: the function and its three arguments are on the stack; the result takes the function's place. */
        .globl  vassert_call_thunk_
        .hidden vassert_call_thunk_
        .type   vassert_call_thunk_, @function
        .balign 16
vassert_call_thunk_:
        .cfi_startproc
        .cfi_def_cfa_offset 8 + 32 + 128
        .cfi_offset rip, -8 - 32 - 128
        pushq   %rax
        .cfi_adjust_cfa_offset 8
        pushq   %rdi
        .cfi_adjust_cfa_offset 8
        pushq   %rsi
        .cfi_adjust_cfa_offset 8
        pushq   %rdx
        .cfi_adjust_cfa_offset 8
        pushq   %rbx
        .cfi_adjust_cfa_offset 8
        .cfi_offset rbx, -8 - 40 - 32 - 128
        movq    48(%rsp), %rbx
        movq    56(%rsp), %rdi
        movq    64(%rsp), %rsi
        movq    72(%rsp), %rdx
        call    keep_and_call
        movq    %rax, 48(%rsp)
        popq    %rbx
        .cfi_adjust_cfa_offset -8
        .cfi_restore rbx
        popq    %rdx
        .cfi_adjust_cfa_offset -8
        popq    %rsi
        .cfi_adjust_cfa_offset -8
        popq    %rdi
        .cfi_adjust_cfa_offset -8
        popq    %rax
        .cfi_adjust_cfa_offset -8
        ret
        .cfi_endproc
        .size   vassert_call_thunk_, . - vassert_call_thunk_

/* Calls rbx(rdi, rsi, rdx); keeps all registers but rax (the result) and rdi. */
        .type   keep_and_call, @function
        .balign 16
keep_and_call:
        .cfi_startproc
        pushq   %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset rbp, -16
        movq    %rsp, %rbp
        .cfi_def_cfa_register rbp
        pushq   %rcx
        pushq   %rdx
        pushq   %rsi
        pushq   %r8
        pushq   %r9
        pushq   %r10
        pushq   %r11
        movl    12 + vassert_control_(%rip), %eax
        cmpl    $1, %eax
        je      3f
        ja      4f

        subq    $16 * 16, %rsp
        andq    $-64, %rsp
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        movaps  %xmm\n, (\n * 16)(%rsp)
        .endr
        call    *%rbx
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        movaps  (\n * 16)(%rsp), %xmm\n
        .endr
        jmp     5f

3:      subq    $32 * 16, %rsp
        andq    $-64, %rsp
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        vmovaps %ymm\n, (\n * 32)(%rsp)
        .endr
        vzeroupper
        call    *%rbx
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        vmovaps (\n * 32)(%rsp), %ymm\n
        .endr
        jmp     5f

4:      subq    $64 * 32 + 64, %rsp
        andq    $-64, %rsp
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
        vmovaps %zmm\n, (\n * 64)(%rsp)
        .endr
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7
        kmovq   %k\n, (64 * 32 + \n * 8)(%rsp)
        .endr
        vzeroupper
        call    *%rbx
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7
        kmovq   (64 * 32 + \n * 8)(%rsp), %k\n
        .endr
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
        vmovaps (\n * 64)(%rsp), %zmm\n
        .endr

5:      leaq    -56(%rbp), %rsp
        popq    %r11
        popq    %r10
        popq    %r9
        popq    %r8
        popq    %rsi
        popq    %rdx
        popq    %rcx
        popq    %rbp
        .cfi_def_cfa rsp, 8
        .cfi_restore rbp
        ret
        .cfi_endproc
        .size   keep_and_call, . - keep_and_call

/* The library's share of both sections makes them exist in modules that have only one of them; its ghosts are whole pages. */
        .section vassert_sites, "aR", @progbits
        .balign 4
        .section vassert_ghost, "awR", @progbits
        .balign 4096
        .globl  vassert_ghost_state_
        .hidden vassert_ghost_state_
        .type   vassert_ghost_state_, @object
        .size   vassert_ghost_state_, 400
vassert_ghost_state_:
        .zero   4096

        .hidden __start_vassert_sites
        .hidden __stop_vassert_sites
        .hidden __start_vassert_ghost
        .hidden __stop_vassert_ghost
        .section .note.vassert, "a", @note
        .balign 4
        .long   8, 2f - 1f, 1           /* name size, descriptor size, type (vassert_format.h) */
        .asciz  "Vassert"
        .globl  vassert_note_
        .hidden vassert_note_
vassert_note_:
1:      .quad   __start_vassert_sites - 1b
        .quad   __stop_vassert_sites - 1b
        .quad   __start_vassert_ghost - 1b
        .quad   __stop_vassert_ghost - 1b
        .quad   vassert_control_ - 1b
2:
        .section .note.GNU-stack, "", @progbits
