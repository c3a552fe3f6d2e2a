// A jump to null.
// expect: signal SEGV
int main(void) {
  void (*volatile function)(void) = 0;
  function();
  return 0;
}
