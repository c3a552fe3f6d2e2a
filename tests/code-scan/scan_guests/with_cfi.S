// Functions with CFI that hold data, and routines without CFI or symbol types between them.
#include "scan_guest.h"
        .text
        .globl  _start
        .type   _start, @function
_start:
        .cfi_startproc
        jmp     1f
        DECOY(0, .byte 0x0f, 0x31, 0x90, 0xc3)
1:      EXPECT(rdtsc)
        DECOY(1, movl $0x310f, %eax)
        call    data_inside
        call    first_routine
        jmp     dispatch
        DECOY(0, .byte 0x0f, 0xa2, 0xc3)
        .cfi_endproc
        .size   _start, . - _start

        DECOY(0, .byte 0x0f, 0xa2)      // between functions
untyped_label:
        DECOY(0, .byte 0x0f, 0x31, 0xc3)

second_routine:                         // entered from first_routine only, which has no CFI either
        EXPECT(rdrand %eax)
        ret
        DECOY(0, .byte 0x0f, 0x31)

        .type   data_inside, @function
data_inside:
        .cfi_startproc
        testl   %eax, %eax
        jz      2f
        ret
        DECOY(0, .ascii "\x0f\x31\x0f\xa2")
2:      EXPECT(cpuid)
        leaq    untyped_label(%rip), %rax
        ret
        DECOY(0, .byte 0x0f, 0x31)
        .cfi_endproc
        .size   data_inside, . - data_inside

first_routine:
        EXPECT(cpuid)
        jmp     second_routine
        DECOY(0, .byte 0x0f, 0x01, 0xf9)

        .type   dispatch, @function
dispatch:                               // jump table in the text: the hole doesn't decode to its end
        .cfi_startproc
        jmp     *%rax
        DECOY(0, .byte 0x0f, 0x31)
        .byte   0x06                    // PUSH ES: invalid in 64-bit mode
3:      jmp     3b
        .cfi_endproc
        .size   dispatch, . - dispatch

        .type   no_size, @function
no_size:                                // function symbol without size or CFI, only called from elsewhere
        EXPECT(rdtscp)
        ret
        DECOY(0, .byte 0x0f, 0x31)

        .type   sized, @function
sized:                                  // has a size, but no CFI
        cmpl    $1, %edi
        je      4f
        ret
        DECOY(0, .byte 0x0f, 0xa2)
4:      EXPECT(rdseed %r8)
        ret
        .size   sized, . - sized

        .section .rodata
        DECOY(0, .byte 0x0f, 0x31, 0x0f, 0xa2)
        .section .note.GNU-stack, "", @progbits
