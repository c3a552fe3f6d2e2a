// FXSAVE in code made at run time, in pages that stay writable, by the first thread and by others: as Java's
// compiled code does at its safepoints. Its image differs between processors.
// flags: -pthread
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static void (*code)(void*);

static void* run(void* name) {
  static _Alignas(16) unsigned char image[2][512];
  int n = name != NULL;
  memset(image[n], 0xa5, 512);
  code(image[n]);
  uint32_t mask;
  memcpy(&mask, image[n] + 28, 4);
  printf("%d: mask %x, reserved %x\n", n, mask, image[n][32 + 15]);
  return NULL;
}

int main(void) {
  unsigned char* p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  unsigned char bytes[] = {0x0f, 0xae, 0x07, 0xc3}, bytes64[] = {0x48, 0x0f, 0xae, 0x07, 0xc3};
  memcpy(p, bytes, sizeof bytes);
  memcpy(p + 64, bytes64, sizeof bytes64);
  code = (void (*)(void*))p;
  run(NULL);
  for (int i = 0; i < 2; i++) {
    pthread_t t;
    pthread_create(&t, NULL, run, "");
    pthread_join(t, NULL);
    code = (void (*)(void*))(p + 64);
  }
  return 0;
}
