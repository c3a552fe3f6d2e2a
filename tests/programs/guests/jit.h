// Code written at run time.
#pragma once
#include <stdint.h>
#include <sys/mman.h>

#include "check.h"

typedef uint64_t (*Function)(uint64_t);

static inline unsigned char* code_pages(size_t count, int protection) {
  unsigned char* pages = mmap(NULL, count * 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(pages != MAP_FAILED);
  return pages;
}

// lea rax, [rdi + constant]; ret
static inline void emit_add(unsigned char* at, uint32_t constant) {
  const unsigned char code[] = {0x48,
                                0x8d,
                                0x87,
                                (unsigned char)constant,
                                (unsigned char)(constant >> 8),
                                (unsigned char)(constant >> 16),
                                (unsigned char)(constant >> 24),
                                0xc3};
  memcpy(at, code, sizeof code);
}
