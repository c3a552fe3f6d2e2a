// What the guests share: a check that ends the guest with status 1 and says where.
#pragma once

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// What a failed check does before it ends the guest: takes away what would outlive it.
__attribute__((unused)) static void (*before_failure)(void);

#define CHECK(condition)                                                               \
  do {                                                                                 \
    if (!(condition)) {                                                                \
      printf("FAILED: %s:%d: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno); \
      fflush(stdout);                                                                  \
      if (before_failure) before_failure();                                            \
      _exit(1);                                                                        \
    }                                                                                  \
  } while (0)
// `call` fails with `error`.
#define CHECK_ERRNO(call, error) CHECK((errno = 0, (call) == -1) && errno == (error))
