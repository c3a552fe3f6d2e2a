// A push to a non-canonical address: the stack-segment fault, which is a SIGBUS.
//
// expect: signal BUS
int main(void) {
  __asm__ volatile("mov %0, %%rsp; push %%rax" : : "r"(0x1234567890123456));
  return 0;
}
