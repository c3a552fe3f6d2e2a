// A read of a non-canonical address.
// expect: signal SEGV
int main(void) {
  return *(volatile char*)0x8000000000000000;
  return 0;
}
