/* SPDX-License-Identifier: BSD-2-Clause
 * Every executable and shared library that links libvassert.a has a copy of its own, with hidden symbols. The
 * copies meet through the notes only: each note leads to its module's control block, so any copy can reach
 * all. */
#ifndef VASSERT_INTERNAL_H
#define VASSERT_INTERNAL_H

#include <stdint.h>

#include "vassert.h"

#define HIDDEN __attribute__((visibility("hidden")))

struct vassert_control {
  uint32_t version;  /* 1; other versions are left alone */
  uint32_t eager;    /* not 0: the module's sites are jumps; read by thunks.S at this offset */
  uint32_t policy;   /* enum vassert_policy */
  uint32_t vectors;  /* what thunks.S has to keep: 0 xmm, 1 ymm, 2 zmm and masks; replayers know its offset */
  uint64_t failures; /* of eager checks; atomic */
};
extern HIDDEN struct vassert_control vassert_control_;

/* Calls each(module's note, context) for every loaded module that has one. */
struct vassert_module {
  struct vassert_control* control;
  const struct vassert_entry *sites, *sites_end;
};
HIDDEN int vassert_each_module_(int (*each)(const struct vassert_module*, void*), void* context);

/* The library's own state in ghost memory. */
struct vassert_ghost_state {
  void* free_lists[48];
  char *chunk, *chunk_end;
};
extern HIDDEN struct vassert_ghost_state vassert_ghost_state_;

/* Checks of this module around the current place. 0 in the run; what an excursion adds is undone with it. */
extern HIDDEN int vassert_depth_;

/* A check of this module begins, or ends, in an excursion. Afterwards vassert_more_ is not 0 where there is
 * more to do about stdout and stderr, by the functions below. (Not a result: clang 14 gives RAX its old value
 * back, too.) Ended quickly, the outermost check does not go on. They keep all registers but the flags. */
extern HIDDEN int vassert_more_;
#define VASSERT_KEEPS_ __attribute__((no_caller_saved_registers))
HIDDEN VASSERT_KEEPS_ void vassert_begin_quickly_(void);
HIDDEN VASSERT_KEEPS_ void vassert_end_quickly_(void);
HIDDEN void vassert_begin_slowly_(const struct vassert_entry* record);
HIDDEN void vassert_end_slowly_(const struct vassert_entry* record);

/* Which thunk called. */
HIDDEN void vassert_failed_(const struct vassert_entry* record);
HIDDEN void vassert_threw_(const struct vassert_entry* record);

static inline long vassert_syscall(long operation, uint64_t a, uint64_t b, uint64_t c) {
  long result = VASSERT_SYSCALL;
  register uint64_t r10 __asm__("r10") = c;
  __asm__ volatile("syscall"
                   : "+a"(result)
                   : "D"(operation), "S"(a), "d"(b), "r"(r10)
                   : "rcx", "r11", "memory");
  return result;
}
static inline const char* vassert_string(const int32_t* field) { return (const char*)field + *field; }

#endif
