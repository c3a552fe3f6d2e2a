// expect: signal FPE
int main(int argc, char** argv) {
  (void)argv;
  volatile int zero = argc - 1;
  return 1000 / zero;
}
