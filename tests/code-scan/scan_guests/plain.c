// Every trapped instruction, in functions big and small, beside the same bytes as immediates and in data.
#include "scan_guest.h"

const char in_rodata[] = "\x0f\x31 \x0f\xa2 \x0f\x01\xf9 \x0f\xc7\xf0";

static word rare(word x) {
  word value;
  __asm__ volatile(EXPECT(rdseed %0) : "=r"(value) : : "cc");
  return value + x;
}

__attribute__((noinline)) static word tscp_and_pid(word x) {
  word low, high, aux, pid;
  __asm__ volatile(EXPECT(rdtscp) : "=a"(low), "=d"(high), "=c"(aux));
  __asm__ volatile(EXPECT(rdpid %0) : "=r"(pid));
  return low + high + aux + pid + x;
}

int main(int argc, char** argv) {
  word sum = decoy_immediate();
  for (int i = 0; i < argc; ++i) {
    sum += read_tsc() + (word)argv[i][0];
    if (sum % 7 == 3) sum ^= read_cpuid(sum);
    while (sum % 5 == 1) sum += read_random();
  }
  if (sum == 12345) sum = rare(sum);
  return (int)(tscp_and_pid(sum) + (word)in_rodata[sum % sizeof in_rodata]) & 1;
}
