// Threads without a C library: clone and clone3 as they are, with tids told to parent and child, a word
// cleared and woken at the end, thread-local storage set, and no stack of anybody's but a piece of memory.
// flags: -nostdlib -static -ffreestanding -fno-stack-protector -fcf-protection=none
// native: output
// expect: exit 7
#include <asm/prctl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <sys/syscall.h>

static long call(long number, long a, long b, long c, long d, long e) {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = 0;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}

static char stacks[3][16384] __attribute__((aligned(16)));
static volatile unsigned parent_word, child_word, cleared[3], seen[3];
static volatile unsigned long own[3][2];  // what FS points at

static void fail(int line) { call(SYS_exit_group, line, 0, 0, 0, 0); }
#define CHECK(condition) \
  if (!(condition)) fail(__LINE__)

static unsigned long fs_word(void) {
  unsigned long word;
  asm volatile("mov %%fs:8, %0" : "=r"(word));
  return word;
}

// Runs on a new stack and never returns.
static void child(long i) {
  seen[i] = (unsigned)call(SYS_gettid, 0, 0, 0, 0, 0);
  CHECK(fs_word() == (unsigned long)(100 + i));
  if (i == 0) CHECK(child_word == seen[i]);
  call(SYS_exit, 0, 0, 0, 0, 0);
}

enum {
  kFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |
           CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID,
};

// What a child finds on its stack: `child` to return to, once RDI has its number.
static long start(long number, long a, long b, long c, long d, long e, long i) {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r12 asm("r12") = i;
  asm volatile(
      "syscall\n"
      "test %%rax, %%rax\n"
      "jnz 1f\n"
      "xor %%ebp, %%ebp\n"
      "mov %%r12, %%rdi\n"
      "and $-16, %%rsp\n"
      "call *%[child]\n"
      "hlt\n"
      "1:"
      : "=a"(result)
      : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r12), [child] "b"(child)
      : "rcx", "r11", "memory");
  return result;
}

static void wait_for(volatile unsigned* word, unsigned tid) {
  unsigned value;
  while ((value = *word) != 0) {
    CHECK(value == tid);
    call(SYS_futex, (long)word, FUTEX_WAIT, value, 0, 0);
  }
}

__attribute__((force_align_arg_pointer)) void _start(void) {
  for (int i = 0; i < 3; ++i) own[i][1] = (unsigned long)(100 + i);
  // clone, with the child's tid in its memory, too; the word to be cleared is the same.
  long tid = start(SYS_clone, kFlags | CLONE_CHILD_SETTID, (long)(stacks[0] + sizeof stacks[0]),
                   (long)&parent_word, (long)&child_word, (long)own[0], 0);
  CHECK(tid > 0 && parent_word == (unsigned)tid);
  while (!seen[0]) call(SYS_sched_yield, 0, 0, 0, 0, 0);  // its word is written when it first runs
  wait_for(&child_word, (unsigned)tid);
  CHECK(seen[0] == (unsigned)tid && child_word == 0);
  // Without CHILD_SETTID the word is whatever it was.
  cleared[1] = 1;
  tid = start(SYS_clone, kFlags, (long)(stacks[1] + sizeof stacks[1]), (long)&parent_word, (long)&cleared[1],
              (long)own[1], 1);
  CHECK(tid > 0 && parent_word == (unsigned)tid);
  wait_for(&cleared[1], 1);
  CHECK(seen[1] == (unsigned)tid);
  // clone3.
  static struct clone_args arguments;
  cleared[2] = 1;
  arguments.flags = kFlags;
  arguments.parent_tid = (unsigned long)&parent_word;
  arguments.child_tid = (unsigned long)&cleared[2];
  arguments.stack = (unsigned long)stacks[2];
  arguments.stack_size = sizeof stacks[2];
  arguments.tls = (unsigned long)own[2];
  tid = start(SYS_clone3, (long)&arguments, sizeof arguments, 0, 0, 0, 2);
  CHECK(tid > 0 && parent_word == (unsigned)tid);
  wait_for(&cleared[2], 1);
  CHECK(seen[2] == (unsigned)tid);
  call(SYS_write, 1, (long)"three\n", 6, 0, 0);
  call(SYS_exit_group, 7, 0, 0, 0, 0);
}
