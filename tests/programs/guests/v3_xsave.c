// record: --cpu v3
// lacked-by: soft --cpu v3
// The guest's own XSAVE and XRSTOR: what they store and load, by component, and when they fault.
#include <setjmp.h>
#include <signal.h>

#include "v3.h"

static _Alignas(64) unsigned char area[832 + 64];
static sigjmp_buf back;
static void on_fault(int signal) { siglongjmp(back, signal); }

V3 __attribute__((noinline)) static void save(void* at, uint32_t components) {
  __asm__ volatile("xsave (%0)" ::"r"(at), "a"(components), "d"(0) : "memory");
}
V3 __attribute__((noinline)) static void restore(const void* at, uint32_t components) {
  __asm__ volatile("xrstor64 (%0)" ::"r"(at), "a"(components), "d"(~0u) : "memory");
}
static uint64_t header(void) {
  uint64_t components = 0;
  memcpy(&components, area + 512, 8);
  return components;
}
static int faults(void* at, uint32_t components) {
  const int signal = sigsetjmp(back, 1);
  if (signal == 0) restore(at, components);
  return signal;
}

V3 static void check_saved(void) {
  Vectors before, after;
  fill_vectors(&before, 3);
  memset(area, 0xaa, 512);
  memset(area + 512, 0, sizeof area - 512);
  load_vectors(&before);
  save(area, 7);
  store_vectors(&after);
  CHECK(memcmp(&before, &after, sizeof before) == 0);
  CHECK((header() & 6) == 6 && (header() & ~7ul) == 0);
  for (unsigned i = 0; i < 16; ++i)
    CHECK(memcmp(area + 160 + 16 * i, before.bytes[i], 16) == 0 &&
          memcmp(area + 576 + 16 * i, before.bytes[i] + 16, 16) == 0);
  for (unsigned i = 464; i < 512; ++i) CHECK(area[i] == 0xaa);  // software's
  uint32_t mxcsr = 0;
  memcpy(&mxcsr, area + 24, 4);
  CHECK((mxcsr & 0xffc0) == 0x1f80);
  // Only what is asked for.
  memset(area + 576, 0x55, 256);
  memset(area + 160, 0x55, 256);
  load_vectors(&before);
  save(area, 2);
  CHECK(area[576] == 0x55 && area[575 + 256] == 0x55 && memcmp(area + 160, before.bytes[0], 16) == 0 &&
        (header() & 6) == 6);
}

V3 static void check_restored(void) {
  Vectors saved, other, now;
  fill_vectors(&saved, 4);
  fill_vectors(&other, 5);
  memset(area + 512, 0, sizeof area - 512);
  load_vectors(&saved);
  save(area, 7);
  load_vectors(&other);
  restore(area, 7);
  store_vectors(&now);
  CHECK(memcmp(&saved, &now, sizeof now) == 0);
  // The lower halves alone, the upper halves alone.
  load_vectors(&other);
  restore(area, 2);
  store_vectors(&now);
  for (unsigned i = 0; i < 16; ++i)
    CHECK(memcmp(now.bytes[i], saved.bytes[i], 16) == 0 &&
          memcmp(now.bytes[i] + 16, other.bytes[i] + 16, 16) == 0);
  load_vectors(&other);
  restore(area, 4);
  store_vectors(&now);
  for (unsigned i = 0; i < 16; ++i)
    CHECK(memcmp(now.bytes[i], other.bytes[i], 16) == 0 &&
          memcmp(now.bytes[i] + 16, saved.bytes[i] + 16, 16) == 0);
  // What the header does not have is as at the start.
  area[512] = 3;
  load_vectors(&other);
  restore(area, 7);
  store_vectors(&now);
  static const unsigned char zeros[16];
  for (unsigned i = 0; i < 16; ++i)
    CHECK(memcmp(now.bytes[i], saved.bytes[i], 16) == 0 && memcmp(now.bytes[i] + 16, zeros, 16) == 0);
  area[512] = 4;
  load_vectors(&other);
  restore(area, 7);
  store_vectors(&now);
  for (unsigned i = 0; i < 16; ++i)
    CHECK(memcmp(now.bytes[i], zeros, 16) == 0 && memcmp(now.bytes[i] + 16, saved.bytes[i] + 16, 16) == 0);
}

static void check_x87(void) {
  long double value = 2.5L, got = 0;
  memset(area + 512, 0, sizeof area - 512);
  __asm__ volatile("fninit; fldt %0" ::"m"(value));
  save(area, 1);
  __asm__ volatile("fninit; fldz");
  restore(area, 1);
  __asm__ volatile("fstpt %0; fninit" : "=m"(got));
  CHECK(got == value && (header() & 1));
}

int main(void) {
  check_saved();
  check_restored();
  check_x87();
  struct sigaction action = {.sa_handler = on_fault};
  CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
  memset(area, 0, sizeof area);
  save(area, 7);
  CHECK(faults(area, 7) == 0);
  CHECK(faults(area + 16, 7) == SIGSEGV);
  area[512] = 8;  // a component that is not the model's
  CHECK(faults(area, 7) == SIGSEGV);
  area[512] = 7;
  area[520] = 1;  // XCOMP_BV
  CHECK(faults(area, 7) == SIGSEGV);
  area[520] = 0;
  area[27] = 1;  // reserved in MXCSR
  CHECK(faults(area, 7) == SIGSEGV && faults(area, 1) == 0);
  area[27] = 0;
  CHECK(faults((void*)4096, 7) == SIGSEGV);
  puts("saved and restored");
  return 0;
}
