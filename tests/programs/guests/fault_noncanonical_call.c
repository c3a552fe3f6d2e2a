// A jump to a non-canonical address.
// expect: signal SEGV
int main(void) {
  ((void (*volatile)(void))0x1234567890123456)();
  return 0;
}
