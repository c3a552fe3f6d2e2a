// What processes share to lock each other out.
#pragma once

#include <pthread.h>
#include <sys/mman.h>

#include "check.h"

// A page that children of fork(2) share.
static void* map_shared_page(void) {
  void* const page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(page != MAP_FAILED);
  return page;
}

// In such a page. `robust`: PTHREAD_MUTEX_ROBUST or _STALLED; `protocol`: PTHREAD_PRIO_NONE or _INHERIT.
static void make_shared_mutex(pthread_mutex_t* mutex, int robust, int protocol) {
  pthread_mutexattr_t attributes;
  CHECK(pthread_mutexattr_init(&attributes) == 0);
  CHECK(pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) == 0);
  CHECK(pthread_mutexattr_setrobust(&attributes, robust) == 0);
  CHECK(pthread_mutexattr_setprotocol(&attributes, protocol) == 0);
  CHECK(pthread_mutex_init(mutex, &attributes) == 0);
}
