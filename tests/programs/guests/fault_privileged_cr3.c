// Control registers are not for ring 3.
// expect: signal SEGV
int main(void) {
  unsigned long value;
  __asm__ volatile("mov %%cr3, %0" : "=r"(value));
  return 0;
}
