// Model-specific registers are not for ring 3.
// expect: signal SEGV
int main(void) {
  __asm__ volatile("wrmsr" : : "a"(0), "d"(0), "c"(0x10));
  return 0;
}
