// A jump to a non-canonical address.
// expect: signal SEGV
// differs-on: soft Unicorn has jumped when it faults, the processor has not
int main(void) {
  ((void (*volatile)(void))0x1234567890123456)();
  return 0;
}
