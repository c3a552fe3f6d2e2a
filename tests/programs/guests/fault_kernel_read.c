// A read of the half that is the kernel's own.
// expect: signal SEGV
int main(void) {
  return *(volatile char*)0xffffffff81000000;
  return 0;
}
