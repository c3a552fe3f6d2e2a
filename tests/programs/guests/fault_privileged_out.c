// Port output in ring 3: also not to the ports that a monitor might use.
// expect: signal SEGV
int main(void) {
  __asm__ volatile("out %%eax, %%dx" : : "a"(0), "d"(0xf0));
  return 0;
}
