// Branches, flags, stack frames, segments and the x87 and SSE exceptions.
#include "tests/machine/exit_case_makers.h"

namespace aftercheck::exit_cases {
namespace {

using R = Registers;
namespace v = vector;

// pushfq; or qword [rsp], `flag`; popfq; what follows
std::vector<uint8_t> with_flag(uint64_t flag, std::vector<uint8_t> rest) {
  std::vector<uint8_t> code = {0x9c, 0x48, 0x81, 0x0c, 0x24};
  for (unsigned shift = 0; shift < 32; shift += 8) code.push_back(static_cast<uint8_t>(flag >> shift));
  code.push_back(0x9d);
  code.insert(code.end(), rest.begin(), rest.end());
  return code;
}
constexpr uint64_t kAfterFlag = 10;

void with_trap_flag(R& r) { r.rflags |= rflags::kTrap; }
void with_alignment_check(R& r) { r.rflags |= rflags::kAlignmentCheck; }

}  // namespace

std::vector<Case> flow_cases() {
  return {
      {"jump to a non-canonical address",
       {0x90, 0xff, 0xe7},
       [](R& r) { r.rdi = kNonCanonical; },
       exception(v::kGeneralProtection),
       1,
       nothing},
      {"call of a non-canonical address",
       {0x90, 0xff, 0xd7},
       [](R& r) { r.rdi = kNonCanonical; },
       exception(v::kGeneralProtection),
       1,
       nothing},
      {"ret to a non-canonical address",
       {0x57, 0xc3},
       [](R& r) { r.rdi = kNonCanonical; },
       exception(v::kGeneralProtection),
       1,
       [](R& r) { r.rsp -= 8; }},
      {"jump through memory in a hole",
       {0x90, 0xff, 0x27},
       [](R& r) { r.rdi = kHole; },
       fault(Access::read, kHole),
       1,
       nothing},
      {"call through memory in a hole",
       {0x90, 0xff, 0x17},
       [](R& r) { r.rdi = kHole; },
       fault(Access::read, kHole),
       1,
       nothing},
      {"ret into a hole",
       {0x57, 0xc3},
       [](R& r) { r.rdi = kHole; },
       fault(Access::fetch, kHole),
       kHole - kCode,
       nothing},
      {"ret that pops arguments",
       {0x57, 0xc2, 0x10, 0x00, 0x0f, 0x05},
       [](R& r) { r.rdi = kCode + 4; },
       syscall(),
       6,
       [](R& r) {
         r.rsp += 16;
         called<6>(r);
       }},
      {"an indirect call of the next instruction",
       {0xff, 0xd7, 0x58, 0x0f, 0x05},
       [](R& r) { r.rdi = kCode + 2; },
       syscall(),
       5,
       [](R& r) {
         r.rax = kCode + 2;
         called<5>(r);
       }},
      {"a call through RSP's own memory",
       {0x57, 0xff, 0x14, 0x24, 0x58, 0x0f, 0x05},  // push rdi; call [rsp]; pop rax; syscall
       [](R& r) { r.rdi = kCode + 4; },
       syscall(),
       7,
       [](R& r) {
         r.rax = kCode + 4;
         r.rsp -= 8;
         called<7>(r);
       }},
      {"push of RSP and pop into memory at RSP",
       {0x54, 0x58, 0x57, 0x8f, 0x44, 0x24, 0xf8, 0x48, 0x8b, 0x5c, 0x24, 0xf8, 0x0f, 0x05},
       nothing,  // push rsp; pop rax; push rdi; pop [rsp-8]; mov rbx, [rsp-8]; syscall
       syscall(),
       14,
       [](R& r) {
         r.rax = r.rsp;
         r.rbx = r.rdi;
         called<14>(r);
       }},

      {"flags after a branch not taken, at a fault",
       {0xf9, 0x73, 0x00, 0x88, 0x07},  // stc; jnc; mov [rdi], al
       [](R& r) { r.rdi = kHole; },
       fault(Access::write, kHole),
       3,
       [](R& r) { r.rflags |= rflags::kCarry; }},
      {"flags after a branch taken, at a fault",
       {0x31, 0xc0, 0x74, 0x01, 0x90, 0x88, 0x07},  // xor eax, eax; jz 1f; nop; 1: mov [rdi], al
       [](R& r) { r.rdi = kHole; },
       fault(Access::write, kHole),
       5,
       [](R& r) {
         r.rax = 0;
         r.rflags |= rflags::kZero | rflags::kParity;
       }},
      {"flags after a call and a return, at a fault",
       {0x31, 0xc0, 0xe8, 0x02, 0, 0, 0, 0x88, 0x07, 0xf9, 0xc3},  // xor; call 1f; mov [rdi], al; 1: stc; ret
       [](R& r) { r.rdi = kHole; },
       fault(Access::write, kHole),
       7,
       [](R& r) {
         r.rax = 0;
         r.rflags |= rflags::kZero | rflags::kParity | rflags::kCarry;
       }},
      {"flags after an indirect jump, at a fetch",
       {0xf9, 0xff, 0xe7},
       [](R& r) { r.rdi = kHole; },
       fault(Access::fetch, kHole),
       kHole - kCode,
       [](R& r) { r.rflags |= rflags::kCarry; }},
      {"flags through PUSHF and POPF around branches",
       {0xf9, 0x9c, 0xf8, 0xeb, 0x00, 0x9d, 0x0f, 0x05},  // stc; pushfq; clc; jmp; popfq; syscall
       nothing,
       syscall(),
       8,
       [](R& r) {
         r.rflags |= rflags::kCarry;
         called<8>(r);
       }},
      {"LOOP and JRCXZ leave the flags",
       {0xf9, 0xb9, 3, 0, 0, 0, 0xe2, 0xfe, 0xe3, 0x01, 0xf4, 0x88, 0x07},
       [](R& r) { r.rdi = kHole; },  // stc; mov ecx, 3; loop; jrcxz 1f; hlt; 1: mov [rdi], al
       fault(Access::write, kHole),
       11,
       [](R& r) {
         r.rcx = 0;
         r.rflags |= rflags::kCarry;
       }},
      {"LOOP of ECX",
       {0x67, 0xe2, 0xfd, 0x0f, 0x05},
       [](R& r) { r.rcx = 0xffff'ffff'0000'0003; },
       syscall(),
       5,
       called<5>},
      {"JECXZ looks at ECX",
       {0x67, 0xe3, 0x01, 0xf4, 0x0f, 0x05},
       [](R& r) { r.rcx = 0xffff'ffff'0000'0000; },
       syscall(),
       6,
       called<6>},

      {"the trap flag, one instruction later", with_flag(rflags::kTrap, {0x90, 0x90}), nothing,
       exception(v::kDebug), kAfterFlag + 1, with_trap_flag},
      {"the trap flag at a jump", with_flag(rflags::kTrap, {0xeb, 0x01, 0x90, 0x90}), nothing,
       exception(v::kDebug), kAfterFlag + 3, with_trap_flag},
      {"the trap flag at a call", with_flag(rflags::kTrap, {0xe8, 1, 0, 0, 0, 0x90, 0x90}), nothing,
       exception(v::kDebug), kAfterFlag + 6,
       [](R& r) {
         with_trap_flag(r);
         r.rsp -= 8;
       }},
      {"the trap flag at an indirect jump", with_flag(rflags::kTrap, {0xff, 0xe7}),
       [](R& r) { r.rdi = kCode + 0x100; }, exception(v::kDebug), 0x100, with_trap_flag},
      {"the trap flag at a branch not taken", with_flag(rflags::kTrap, {0x72, 0x05, 0x90}), nothing,
       exception(v::kDebug), kAfterFlag + 2, with_trap_flag},
      {"the trap flag at an iteration of a string instruction", with_flag(rflags::kTrap, {0xf3, 0xaa}),
       [](R& r) {
         r.rdi = kData;
         r.rcx = 5;
       },
       exception(v::kDebug), kAfterFlag,
       [](R& r) {
         with_trap_flag(r);
         r.rdi += 1;
         r.rcx = 4;
       }},
      {"the trap flag at a fault", with_flag(rflags::kTrap, {0x88, 0x07}), [](R& r) { r.rdi = kHole; },
       fault(Access::write, kHole), kAfterFlag, with_trap_flag},
      {"the trap flag to start with",
       {0x90, 0x90},
       [](R& r) { r.rflags |= rflags::kTrap; },
       exception(v::kDebug),
       1,
       nothing},

      {"alignment check", with_flag(rflags::kAlignmentCheck, {0x8b, 0x47, 0x01}), [](R& r) { r.rdi = kData; },
       exception(v::kAlignmentCheck), kAfterFlag, with_alignment_check, kCode, true},
      {"alignment check of what is aligned",
       with_flag(rflags::kAlignmentCheck, {0x8b, 0x47, 0x04, 0xe8, 0, 0, 0, 0, 0x9c, 0x5b, 0x0f, 0x05}),
       [](R& r) { r.rdi = kData; },  // mov eax, [rdi+4]; call; pushfq; pop rbx; syscall
       syscall(), kAfterFlag + 12,
       [](R& r) {
         with_alignment_check(r);
         r.rax = 0;
         r.rsp -= 8;
         r.rbx = r.rflags;
         called<kAfterFlag + 12>(r);
       }},
      {"alignment check of what is aligned, at a block that a jump has looked for",
       with_flag(rflags::kAlignmentCheck, {0xff, 0xe7, 0xcc, 0xe8, 0, 0, 0, 0, 0x9c, 0x5b, 0x0f, 0x05}),
       [](R& r) { r.rdi = kCode + kAfterFlag + 3; },  // jmp rdi; int3; call; pushfq; pop rbx; syscall
       syscall(), kAfterFlag + 12,
       [](R& r) {
         with_alignment_check(r);
         r.rsp -= 8;
         r.rbx = r.rflags;
         called<kAfterFlag + 12>(r);
       }},
      {"alignment check of flags on the stack",
       with_flag(rflags::kAlignmentCheck, {0x48, 0x8d, 0x64, 0x24, 0xfc, 0x9c}),
       nothing,  // lea rsp, [rsp - 4]; pushfq
       exception(v::kAlignmentCheck), kAfterFlag + 5,
       [](R& r) {
         with_alignment_check(r);
         r.rsp -= 4;
       },
       kCode, true},
      {"without alignment check",
       {0x8b, 0x47, 0x01, 0x0f, 0x05},
       [](R& r) { r.rdi = kData; },
       syscall(),
       5,
       [](R& r) {
         r.rax = 0;
         called<5>(r);
       }},

      {"x87 error at the next waiting instruction",
       {0x68, 0x7b, 0x03, 0, 0, 0xd9, 0x2c, 0x24, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x90, 0x9b},
       nothing,  // push 0x37b; fldcw [rsp]; fld1; fldz; fdivp; nop; fwait
       exception(v::kX87Error),
       15,
       [](R& r) { r.rsp -= 8; }},
      {"x87 error at the next x87 instruction",
       {0x68, 0x7b, 0x03, 0, 0, 0xd9, 0x2c, 0x24, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0xeb, 0, 0xd9, 0xe8},
       nothing,  // the same; jmp; fld1
       exception(v::kX87Error),
       16,
       [](R& r) { r.rsp -= 8; }},
      {"SSE error",
       {0x68, 0x80, 0x1d, 0,    0,    0x0f, 0xae, 0x14, 0x24, 0xf3,
        0x0f, 0x2a, 0xcc, 0x0f, 0x57, 0xc0, 0xf3, 0x0f, 0x5e, 0xc8},
       nothing,  // push 0x1d80; ldmxcsr [rsp]; cvtsi2ss xmm1, esp; xorps xmm0, xmm0; divss xmm1, xmm0
       exception(v::kSimdError),
       16,
       [](R& r) { r.rsp -= 8; }},

      {"RIP-relative load",
       {0x8b, 0x05, 0, 0, 0, 0, 0x0f, 0x05, 0x90, 0x90},
       nothing,
       syscall(),
       8,
       [](R& r) {
         r.rax = 0x9090050f;
         called<8>(r);
       }},
      {"RIP-relative load before an immediate",
       {0x81, 0x3d, 0, 0, 0, 0, 0x0f, 0x05, 0x90, 0x90, 0x74, 0x01, 0xf4, 0x0f, 0x05},
       nothing,  // cmp dword [rip], 0x9090050f: not what is there; jz 1f; hlt
       exception(v::kGeneralProtection),
       12,
       [](R& r) {
         // what is there: 74 01 f4 0f
         r.rflags |= rflags::kParity | rflags::kCarry | rflags::kAdjust;
       }},
      {"RIP-relative address",
       {0x48, 0x8d, 0x05, 0x10, 0, 0, 0, 0x8d, 0x1d, 0xf0, 0xff, 0xff, 0xff, 0x0f, 0x05},
       nothing,  // lea rax, [rip+16]; lea ebx, [rip-16]; syscall
       syscall(),
       15,
       [](R& r) {
         r.rax = kCode + 7 + 16;
         r.rbx = (kCode + 13 - 16) & UINT32_MAX;
         called<15>(r);
       }},
      {"RIP-relative address of 32 bits",
       {0x67, 0x48, 0x8d, 0x05, 0x10, 0, 0, 0, 0x0f, 0x05},
       nothing,
       syscall(),
       10,
       [](R& r) {
         r.rax = (kCode + 8 + 16) & UINT32_MAX;
         called<10>(r);
       }},
      {"RIP-relative jump",
       {0xff, 0x25, 0x02, 0, 0, 0, 0x90, 0x90, 0x00, 0x00, 0x06, 0, 0, 0x20, 0, 0},
       nothing,  // to what stands behind it: kHole
       fault(Access::fetch, kHole),
       kHole - kCode,
       nothing},
      {"a load from an absolute address",
       {0x48, 0xa1, 0, 0, 1, 0, 0, 0x20, 0, 0, 0x0f, 0x05},  // movabs rax, [kCode]; syscall
       nothing,
       syscall(),
       12,
       [](R& r) {
         r.rax = 0x2000'0001'0000'a148;
         called<12>(r);
       }},
      {"a store to an absolute address that is not there",
       {0x48, 0xa3, 0, 0, 6, 0, 0, 0x20, 0, 0},
       nothing,
       fault(Access::write, kHole),
       0,
       nothing},
      {"what FS and GS point to",
       {0x64, 0x48, 0x8b, 0x04, 0x25, 0,    0,    0,    0,   0x65, 0x48,
        0x8b, 0x1c, 0x25, 0xf8, 0xff, 0xff, 0xff, 0x0f, 0x05},  // mov rax, fs:[0]; mov rbx, gs:[-8]; syscall
       [](R& r) {
         r.fs_base = kCode;
         r.gs_base = kCode + 16;
       },
       syscall(),
       20,
       [](R& r) {
         r.rax = 0x25048b4864;
         r.rbx = 0xfff8251c8b486500;
         called<20>(r);
       }},
      {"a store through FS",
       {0x64, 0x48, 0x89, 0x1f, 0x48, 0x8b, 0x46, 0x08, 0x0f, 0x05},  // mov fs:[rdi], rbx; mov rax, [rsi+8]
       [](R& r) {
         r.fs_base = r.rsi = kData;
         r.rdi = 8;
       },
       syscall(),
       10,
       [](R& r) {
         r.rax = r.rbx;
         called<10>(r);
       }},
      {"a store through GS that faults",
       {0x65, 0x88, 0x07},
       [](R& r) {
         r.gs_base = kHole;
         r.rdi = 3;
       },
       fault(Access::write, kHole + 3),
       0,
       nothing},
      {"a string copied from FS",
       {0x64, 0xf3, 0xa4, 0x48, 0x8b, 0x05, 0xf6, 0xff, 0x00, 0x00, 0x0f, 0x05},
       [](R& r) {  // fs rep movsb; mov rax, [kData]; syscall
         r.fs_base = kCode;
         r.rsi = 0;
         r.rdi = kData;
         r.rcx = 8;
       },
       syscall(),
       12,
       [](R& r) {
         r.rax = 0xfff6058b48a4f364;
         r.rsi = 8;
         r.rdi += 8;
         r.rcx = 0;
         called<12>(r);
       }},
      {"FS does not count for LEA",
       {0x64, 0x48, 0x8d, 0x47, 0x01, 0x0f, 0x05},
       [](R& r) { r.fs_base = kHole; },
       syscall(),
       7,
       [](R& r) {
         r.rax = r.rdi + 1;
         called<7>(r);
       }},
      {"through FS beyond the canonical addresses",
       {0x64, 0x8b, 0x07},
       [](R& r) {
         r.fs_base = kCode;
         r.rdi = kNonCanonical;
       },
       exception(v::kGeneralProtection),
       0,
       nothing},

      {"ENTER and LEAVE",
       {0xc8, 0x10, 0, 0, 0x48, 0x89, 0xe0, 0xc9, 0x0f, 0x05},  // enter 16, 0; mov rax, rsp; leave; syscall
       nothing,
       syscall(),
       10,
       [](R& r) {
         r.rax = r.rsp - 24;
         called<10>(r);
       }},
      {"ENTER and LEAVE of 16 bits",
       {0x66, 0xc8, 0x10, 0,    0,    0x48, 0x89, 0xe0, 0x48, 0x89,
        0xeb, 0x48, 0x8d, 0x6c, 0x24, 0x10, 0x66, 0xc9, 0x0f, 0x05},
       [](R& r) { r.rbp = kStack + 0x1234; },  // enter; mov rax, rsp; mov rbx, rbp; lea rbp, [rsp+16]; leave
       syscall(),
       20,
       [](R& r) {
         r.rax = r.rsp - 18;
         r.rbx = (r.rbp & ~0xffffULL) | ((r.rsp - 2) & 0xffff);
         r.rbp = ((r.rsp - 2) & ~0xffffULL) | (r.rbp & 0xffff);
         called<20>(r);
       },
       kCode,
       true},
      {"LEAVE to a hole", {0xc9}, [](R& r) { r.rbp = kHole; }, fault(Access::read, kHole), 0, nothing},
      {"push and pop of 16 bits",
       {0x66, 0x57, 0x48, 0x89, 0xe0, 0x66, 0x5b, 0x0f, 0x05},  // push di; mov rax, rsp; pop bx; syscall
       nothing,
       syscall(),
       9,
       [](R& r) {
         r.rax = r.rsp - 2;
         r.rbx = (r.rbx & ~0xffffULL) | (r.rdi & 0xffff);
         called<9>(r);
       }},
      {"the x87 instruction pointer in FNSTENV",
       {0xd9, 0xe8, 0x90, 0xd9, 0x37, 0x8b, 0x47, 0x0c, 0x0f,
        0x05},  // fld1; fnstenv [rdi]; mov eax, [rdi+12]
       [](R& r) { r.rdi = kData; },
       syscall(),
       10,
       [](R& r) {
         r.rax = kCode & UINT32_MAX;
         called<10>(r);
       },
       kCode,
       true,
       true},
      {"the x87 instruction pointer in FNSAVE",
       {0x90, 0xd9, 0xeb, 0xdd, 0x37, 0x8b, 0x47, 0x0c, 0x0f, 0x05},
       [](R& r) { r.rdi = kData; },
       syscall(),
       10,
       [](R& r) {
         r.rax = (kCode + 1) & UINT32_MAX;
         called<10>(r);
       },
       kCode,
       true,
       true},
  };
}

}  // namespace aftercheck::exit_cases
