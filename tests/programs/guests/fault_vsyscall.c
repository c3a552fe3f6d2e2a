// The legacy vsyscall page. Natively the kernel emulates gettimeofday there; the guest has no such page:
// SIGSEGV.
//
// expect: signal SEGV
int main(void) {
  ((int (*volatile)(void*, void*))0xffffffffff600000)(0, 0);
  return 0;
}
