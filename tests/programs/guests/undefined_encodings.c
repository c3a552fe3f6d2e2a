// Encodings that no processor accepts: LOCK where it may not be, reserved opcodes. Each is SIGILL, with the
// address of the instruction; the soft vCPU once died of the first.
#include <setjmp.h>
#include <signal.h>

#include "check.h"

static sigjmp_buf back;
static void* address;
static void handler(int number, siginfo_t* info, void* context) {
  CHECK(number == SIGILL && info->si_signo == SIGILL);
  address = info->si_addr;
  siglongjmp(back, 1);
}

extern char undefined_begin[], undefined_end[];
// Each in a slot of 8 bytes.
__asm__(
    ".text; .balign 8; undefined_begin:\n"
    ".balign 8, 0x90; .byte 0xf0, 0x0f, 0xa3, 0xc8\n"        // lock bt eax, ecx
    ".balign 8, 0x90; .byte 0xf0, 0x0f, 0xab, 0xc8\n"        // lock bts eax, ecx
    ".balign 8, 0x90; .byte 0xf0, 0x0f, 0xa3, 0x0c, 0x24\n"  // lock bt [rsp], ecx
    ".balign 8, 0x90; .byte 0xf0, 0x0f, 0xb1, 0xc8\n"        // lock cmpxchg eax, ecx
    ".balign 8, 0x90; .byte 0xf0, 0x0f, 0xc1, 0xc8\n"        // lock xadd eax, ecx
    ".balign 8, 0x90; .byte 0xf0, 0x01, 0xc8\n"              // lock add eax, ecx
    ".balign 8, 0x90; .byte 0xf0, 0xff, 0xc0\n"              // lock inc eax
    ".balign 8, 0x90; .byte 0xf0, 0xf7, 0xd8\n"              // lock neg eax
    ".balign 8, 0x90; .byte 0xf0, 0x89, 0x04, 0x24\n"        // lock mov [rsp], eax
    ".balign 8, 0x90; .byte 0xf0, 0x90\n"                    // lock nop
    ".balign 8, 0x90; .byte 0xf0, 0x66, 0x0f, 0x58, 0xc1\n"  // lock addpd
    ".balign 8, 0x90; .byte 0x06\n"                          // push es
    ".balign 8, 0x90; .byte 0xd6\n"                          // salc
    ".balign 8, 0x90; .byte 0x0f, 0x04\n"
    ".balign 8, 0x90; .byte 0x0f, 0xb9, 0xc0\n"  // ud1
    ".balign 8, 0x90; .byte 0x8d, 0xc0\n"        // lea eax, eax
    ".balign 8, 0x90; .byte 0xfe, 0xd0\n"
    ".balign 8, 0x90; undefined_end:\n");

int main(void) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGILL, &action, NULL) == 0);
  volatile int caught = 0;
  for (char* volatile at = undefined_begin; at < undefined_end; at += 8) {
    if (sigsetjmp(back, 1) == 0) {
      ((void (*)(void))at)();
      CHECK(0);
    }
    CHECK(address == at);
    ++caught;
  }
  printf("%d encodings\n", caught);
  return 0;
}
