// A far return to a segment that is none.
// expect: signal SEGV
// not-on: soft can't execute `ret far`
// not-on: translated can't execute `ret far`
int main(void) {
  __asm__ volatile("pushq $0x1f3; pushq $0; lretq");
  return 0;
}
