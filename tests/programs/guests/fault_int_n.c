// A gate that nobody offers.
// expect: signal SEGV
int main(void) {
  __asm__ volatile("int $0x21");
  return 0;
}
