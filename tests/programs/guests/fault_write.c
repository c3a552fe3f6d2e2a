// A store to read-only data.
// expect: signal SEGV
int main(void) {
  static const int constant = 5;
  *(volatile int*)&constant = 6;
  return 0;
}
