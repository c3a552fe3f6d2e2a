// What the x86-64 kernel pushes on the user stack before a signal handler runs:
// arch/x86/include/asm/sigframe.h, arch/x86/include/uapi/asm/{ucontext,sigcontext}.h. The libc's types of the
// same names have other sizes.
#pragma once

#include <csignal>
#include <cstddef>
#include <cstdint>

namespace aftercheck {

struct KernelStack {  // stack_t
  uint64_t address = 0;
  int32_t flags = 0;
  uint32_t padding = 0;
  uint64_t size = 0;
};

struct KernelSigcontext {
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
  uint64_t rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags;
  uint16_t cs, gs, fs, ss;
  uint64_t error_code, trap_number, old_mask, cr2;
  uint64_t fpstate;  // address of 512 bytes in FXSAVE64 layout, or of an XSAVE area
  uint64_t reserved[8];
};
static_assert(sizeof(KernelSigcontext) == 256 && offsetof(KernelSigcontext, fpstate) == 184);

struct KernelUcontext {
  uint64_t flags;
  uint64_t link;
  KernelStack stack;
  KernelSigcontext registers;
  uint64_t mask;
};
static_assert(sizeof(KernelUcontext) == 304);

struct SignalFrame {  // struct rt_sigframe
  uint64_t return_address;
  KernelUcontext context;
  siginfo_t info;
};
static_assert(sizeof(SignalFrame) == 440 && sizeof(siginfo_t) == 128);

// ucontext.h: ss is meaningful, and restored strictly. UC_FP_XSTATE: the FPU state is an XSAVE area, not the
// bare 512 bytes.
constexpr uint64_t kContextHasXsave = 0x1, kContextHasSs = 0x2, kContextStrictSs = 0x4;

// struct _fpx_sw_bytes, at the end of the 512 bytes, and what is behind the XSAVE area (FP_XSTATE_MAGIC1 and
// 2).
struct KernelXsaveMark {
  uint32_t magic = 0;
  uint32_t extended_size = 0;  // of the area, with the second magic number
  uint64_t features = 0;       // components of the area
  uint32_t size = 0;           // of the area
  uint32_t padding[7] = {};
};
constexpr size_t kXsaveMark = 464;
static_assert(sizeof(KernelXsaveMark) == 512 - kXsaveMark);
constexpr uint32_t kXsaveMagic = 0x46505853, kXsaveMagicBehind = 0x46505845;
// arch/x86/include/asm/segment.h: what a 64-bit Linux process has in CS and SS.
constexpr uint16_t kUserCs = 0x33, kUserSs = 0x2b;
// uapi/asm/signal.h
constexpr uint64_t kSaRestorer = 0x04000000;

}  // namespace aftercheck
