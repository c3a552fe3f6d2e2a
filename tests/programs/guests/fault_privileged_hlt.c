// An instruction that only the kernel may use.
// expect: signal SEGV
int main(void) {
  __asm__ volatile("hlt");
  return 0;
}
