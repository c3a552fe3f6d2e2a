// The bytes of trapped instructions as data and in immediates: they must stay what they are.
// expect-output: 0x310fa20f 0f31 0f a2 0f 01 f9 same
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static const unsigned char rodata[] = {0x0f, 0x31, 0x0f, 0xa2, 0x0f, 0x01, 0xf9, 0x0f, 0xc7, 0xf0};
__asm__(
    ".text\n.globl text_data\n.type text_data,@object\ntext_data: .byte "
    "0x0f,0x31,0x0f,0xa2,0x0f,0x01,0xf9\n");
extern const unsigned char text_data[];

__attribute__((noinline)) static uint32_t immediate(void) {
  uint32_t value;
  __asm__ volatile("mov $0x310fa20f, %0" : "=r"(value));
  return value;
}

__attribute__((noinline, naked)) static const unsigned char* inside_function(void) {
  __asm__("lea 1f(%rip), %rax\n ret\n 1: .byte 0x0f, 0x31\n");
}

int main(void) {
  const unsigned char* data = inside_function();
  printf("%#x %02x%02x ", immediate(), data[0], data[1]);
  for (int i = 2; i < 7; ++i) printf("%02x ", text_data[i]);
  puts(memcmp(rodata, text_data, 7) == 0 ? "same" : "different");
  return 0;
}
