// The FXSAVE image differs between processors (mask of MXCSR, last x87 instruction), so the host answers it.
#include <stdint.h>
#include <stdio.h>
#include <string.h>

int main(void) {
  static _Alignas(16) unsigned char image[512], image64[512];
  volatile long double x = 0.5L;
  x = x + 1.25L;
  __asm__ volatile("fxsave %0\n fxsave64 %1" : "=m"(image), "=m"(image64));
  uint64_t sum = 0;
  for (int i = 0; i < 512; ++i) sum = sum * 31 + image[i] + image64[i];
  uint32_t mask;
  memcpy(&mask, image + 28, 4);
  printf("mask %x image %lx, last instruction %02x%02x\n", mask, (unsigned long)sum, image[6], image[8]);
  return 0;
}
