// A jump to where nothing is mapped.
// expect: signal SEGV
int main(void) {
  ((void (*volatile)(void))0x123456789000)();
  return 0;
}
