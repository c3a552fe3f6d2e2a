// Code on the stack.
// expect: signal SEGV
int main(void) {
  volatile char code[] = {(char)0xc3};
  ((void (*)(void))code)();
  return 0;
}
