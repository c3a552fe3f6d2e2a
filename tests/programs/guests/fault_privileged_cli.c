// CLI in ring 3.
// expect: signal SEGV
int main(void) {
  __asm__ volatile("cli");
  return 0;
}
