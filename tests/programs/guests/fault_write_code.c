// A store to code.
// expect: signal SEGV
int main(void) {
  *(volatile char*)main = 1;
  return 0;
}
