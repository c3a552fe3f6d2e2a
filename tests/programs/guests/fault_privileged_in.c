// Port input in ring 3.
// expect: signal SEGV
int main(void) {
  __asm__ volatile("in $0x60, %%al" : : : "rax");
  return 0;
}
