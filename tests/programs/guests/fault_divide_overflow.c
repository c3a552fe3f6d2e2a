// A quotient too large for its register.
// expect: signal FPE
int main(void) {
  unsigned low = 0, high = 5;
  __asm__ volatile("div %2" : "+a"(low), "+d"(high) : "r"(3u));
  return 0;
}
