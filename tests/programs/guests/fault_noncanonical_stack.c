// A push to a non-canonical address. Natively the stack-segment fault, a SIGBUS; the machine interface makes
// every non-canonical access the general protection fault, because not every host tells the two apart:
// SIGSEGV.
//
// expect: signal SEGV
int main(void) {
  __asm__ volatile("mov %0, %%rsp; push %%rax" : : "r"(0x1234567890123456));
  return 0;
}
