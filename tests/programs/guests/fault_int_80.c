// The 32-bit system call gate. Natively this is getpid; the guest has no 32-bit calls: SIGSEGV.
// expect: signal SEGV
int main(void) {
  __asm__ volatile("int $0x80" : : "a"(20) : "memory");
  return 0;
}
