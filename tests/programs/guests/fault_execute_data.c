// Data is not code: no-execute holds on every backend.
// expect: signal SEGV
int main(void) {
  static char code[] = {(char)0xc3};
  ((void (*)(void))code)();
  return 0;
}
