// What guests of the v3 model share. Their code with AVX2 is in functions of its own, as libraries have it.
#pragma once

#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>

#include "check.h"

#define V3 __attribute__((target("avx2,bmi,bmi2,fma,f16c,lzcnt,movbe")))

// All sixteen registers, as one instruction after the other leaves them.
typedef struct {
  uint8_t bytes[16][32];
} Vectors;

V3 __attribute__((unused, noinline)) static void load_vectors(const Vectors* from) {
  __asm__ volatile(
      "vmovdqu (%0), %%ymm0\n vmovdqu 32(%0), %%ymm1\n vmovdqu 64(%0), %%ymm2\n vmovdqu 96(%0), %%ymm3\n"
      "vmovdqu 128(%0), %%ymm4\n vmovdqu 160(%0), %%ymm5\n vmovdqu 192(%0), %%ymm6\n vmovdqu 224(%0), "
      "%%ymm7\n"
      "vmovdqu 256(%0), %%ymm8\n vmovdqu 288(%0), %%ymm9\n vmovdqu 320(%0), %%ymm10\n vmovdqu 352(%0), "
      "%%ymm11\n"
      "vmovdqu 384(%0), %%ymm12\n vmovdqu 416(%0), %%ymm13\n vmovdqu 448(%0), %%ymm14\n vmovdqu 480(%0), "
      "%%ymm15" ::"r"(from)
      : "memory");
}

V3 __attribute__((unused, noinline)) static void store_vectors(Vectors* to) {
  __asm__ volatile(
      "vmovdqu %%ymm0, (%0)\n vmovdqu %%ymm1, 32(%0)\n vmovdqu %%ymm2, 64(%0)\n vmovdqu %%ymm3, 96(%0)\n"
      "vmovdqu %%ymm4, 128(%0)\n vmovdqu %%ymm5, 160(%0)\n vmovdqu %%ymm6, 192(%0)\n vmovdqu %%ymm7, "
      "224(%0)\n"
      "vmovdqu %%ymm8, 256(%0)\n vmovdqu %%ymm9, 288(%0)\n vmovdqu %%ymm10, 320(%0)\n vmovdqu %%ymm11, "
      "352(%0)\n"
      "vmovdqu %%ymm12, 384(%0)\n vmovdqu %%ymm13, 416(%0)\n vmovdqu %%ymm14, 448(%0)\n vmovdqu %%ymm15, "
      "480(%0)" ::"r"(to)
      : "memory");
}

__attribute__((unused)) static void fill_vectors(Vectors* vectors, unsigned seed) {
  for (unsigned i = 0; i < 16; ++i)
    for (unsigned j = 0; j < 32; ++j) vectors->bytes[i][j] = (uint8_t)(seed * 31 + i * 37 + j * 11 + 1);
}
