// Every instruction whose answer differs from run to run.
#include <stdint.h>
#include <stdio.h>

int main(void) {
  for (int i = 0; i < 3; ++i) {
    uint32_t low, high, aux, a = 0, b, c = 0, d;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    printf("tsc %u %u\n", high, low);
    __asm__ volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(aux));
    printf("tscp %u %u %u\n", high, low, aux);
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    printf("cpuid %x %x %x %x\n", a, b, c, d);
    uint64_t r64;
    uint32_t r32;
    uint16_t r16 = 0;
    uint8_t ok;
    __asm__ volatile("rdrand %0; setc %1" : "=r"(r64), "=q"(ok));
    printf("rdrand %lx %d\n", r64, ok);
    __asm__ volatile("rdrand %0; setc %1" : "=r"(r32), "=q"(ok));
    printf("rdrand %x %d\n", r32, ok);
    __asm__ volatile("rdrand %0; setc %1" : "+r"(r16), "=q"(ok));
    printf("rdrand %x %d\n", r16, ok);
    __asm__ volatile("rdseed %0; setc %1" : "=r"(r64), "=q"(ok));
    printf("rdseed %lx %d\n", r64, ok);
  }
  return 0;
}
