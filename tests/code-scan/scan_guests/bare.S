// Without CFI, symbols of functions or a C library: the entry point is all there is to start from.
#include "scan_guest.h"
        .text
        .globl  _start
_start:
        jmp     1f
        DECOY(0, .byte 0x0f, 0x31)
        DECOY(0, .ascii "\x0f\xa2 text between instructions")
1:      call    leaf
        EXPECT(rdtsc)
        DECOY(1, movl $0x310f, %eax)
        DECOY(4, movq 0xa20f(%rsp), %rax)
        DECOY(5, movabsq $0x1122f9010f334455, %rax)
        jc      2f
        EXPECT(.byte 0xf3, 0x0f, 0x31)
        EXPECT(.byte 0x66, 0x0f, 0xa2)
2:      je      3f
        lock                            // glibc's way to skip the prefix in single-threaded programs
3:      cmpxchg %ecx, (%rsp)
        jrcxz   4f
        EXPECT(rdrand %r13w)
4:      loop    2b
        xbegin  5f
        xend
        movl    $60, %eax
        xorl    %edi, %edi
        syscall
        hlt
        DECOY(0, .byte 0x0f, 0xa2)
5:      EXPECT(rdtscp)
        jmp     *%rax
        DECOY(0, .byte 0x0f, 0xc7, 0xf0)
        .skip   300, 0xcc
leaf:
        EXPECT(cpuid)
        call    deeper
        ret
        DECOY(0, .byte 0x0f, 0x31)
        .skip   300, 0xcc
deeper:
        EXPECT(rdpid %r9)
        EXPECT(rdseed %rbx)
        ud2
        DECOY(0, .byte 0x0f, 0x31)
        .section .note.GNU-stack, "", @progbits
