// Marks in guests what the scanner must find and what it must leave alone, as address lists in sections that are not
// loaded and that strip(1) keeps. The same text works in C, C++ and assembler.
#pragma once

#ifdef __ASSEMBLER__
#define SCAN_TEXT(...) __VA_ARGS__
#else
#define SCAN_TEXT_(...) #__VA_ARGS__
#define SCAN_TEXT(...) SCAN_TEXT_(__VA_ARGS__)
#endif

// A trapped instruction that is one.
#define EXPECT(...) \
  SCAN_TEXT(.pushsection .scan_expect; .quad 771f; .popsection; 771: __VA_ARGS__;)

// An instruction or data with the bytes of a trapped instruction at this distance from its start.
#define DECOY(distance, ...) \
  SCAN_TEXT(.pushsection .scan_decoys; .quad 772f + distance; .popsection; 772: __VA_ARGS__;)

#ifndef __ASSEMBLER__
typedef unsigned long word;

static inline word read_tsc(void) {
  word low, high;
  __asm__ volatile(EXPECT(rdtsc) : "=a"(low), "=d"(high));
  return low | high << 32;
}

static inline word read_cpuid(word leaf) {
  word b, c = 0, d;
  __asm__ volatile(EXPECT(cpuid) : "+a"(leaf), "=b"(b), "+c"(c), "=d"(d));
  return leaf ^ b ^ c ^ d;
}

static inline word read_random(void) {
  word value;
  __asm__ volatile(EXPECT(rdrand %0) : "=r"(value) : : "cc");
  return value;
}

static inline word decoy_immediate(void) {
  word value = 0;
  __asm__ volatile(DECOY(1, movl $0x310f, %k0) : "=a"(value));
  return value;
}
#endif
