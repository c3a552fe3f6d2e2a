/* SPDX-License-Identifier: BSD-2-Clause
 * A guard byte after every block of an APR pool, for the stock apache2: an LD_PRELOAD library. All live
 * guards of a pool are checked whenever the pool gives a block, is cleared or destroyed. GUARD_CHECKS chooses
 * how:
 * - 0: not at all, and no guards: calls are passed on (what interposing itself costs)
 * - 1: on the spot, as an ordinary assertion: a spoiled guard is reported and the server aborts
 * - 2: by VAsserts: the run pays for the guard byte; the lists of guards are ghost state, built by the checks
 * - 3: not at all, but with the guards: what is left of 2 without its VAsserts
 *
 * For servers that use a pool from one thread (prefork, `apache2 -X`). Not guarded: what APR takes from its
 * pools without apr_palloc (apr_psprintf and its kin, the pools' own bookkeeping).
 */
#define _GNU_SOURCE /* RTLD_NEXT, dladdr */
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vassert.h"

enum { GUARD = 0xb7 };

/* APR 1's types, as its ABI has them. */
typedef struct apr_pool_t apr_pool_t;
typedef struct apr_allocator_t apr_allocator_t;
typedef int (*apr_abortfunc_t)(int status);

/* Read where it is needed; __builtin_return_address would be read on entry. */
#ifdef __clang__
#define RETURN_ADDRESS __builtin_return_address(0)
#else
#define RETURN_ADDRESS (((const void* const*)__builtin_dwarf_cfa())[-1])
#endif

static void* (*next_palloc)(apr_pool_t*, size_t);
#if !GUARD_CHECKS
static void* (*next_pcalloc)(apr_pool_t*, size_t);
#endif
static void (*next_clear)(apr_pool_t*);
static void (*next_destroy)(apr_pool_t*);
static int (*next_create)(apr_pool_t**, apr_pool_t*, apr_abortfunc_t, apr_allocator_t*);
static int (*next_create_unmanaged)(apr_pool_t**, apr_abortfunc_t, apr_allocator_t*);

/* NULL in programs without libapr-1, which a server may start and which inherit LD_PRELOAD; they never call.
 */
static void find(void* function, const char* name) {
  void* found = dlsym(RTLD_NEXT, name);
  memcpy(function, &found, sizeof found);
}

/* The checks are functions that return 1; what they find, they say themselves. */
#if GUARD_CHECKS == 2
#define CHECK(...) VASSERT(VASSERT_CALL(__VA_ARGS__))
#define FAIL(...) VASSERT_FAIL(__VA_ARGS__)
#elif GUARD_CHECKS == 3
#define CHECK(...) ((void)0)
#else
#define CHECK(function, ...) ((void)function(__VA_ARGS__))
#define FAIL(...)                 \
  do {                            \
    fprintf(stderr, __VA_ARGS__); \
    fputc('\n', stderr);          \
    abort();                      \
  } while (0)
#endif

__attribute__((constructor)) static void start(void) {
  find(&next_palloc, "apr_palloc");
  find(&next_clear, "apr_pool_clear");
  find(&next_destroy, "apr_pool_destroy");
  find(&next_create, "apr_pool_create_ex");
  find(&next_create_unmanaged, "apr_pool_create_unmanaged_ex");
#if GUARD_CHECKS == 0
  find(&next_pcalloc, "apr_pcalloc");
#elif GUARD_CHECKS == 1
  vassert_enable_eager(); /* there are no sites; it makes ghost memory ordinary memory, which the lists live
                             in */
#endif
}

#if GUARD_CHECKS == 1 || GUARD_CHECKS == 2

struct guard {
  const unsigned char* at;
  size_t size; /* of the block before it */
  const void* caller;
};
struct guards {
  size_t count, capacity;
  struct guard* list;
};
/* struct guards* by pool. */
static VASSERT_GHOST struct vassert_ghost_map pools;

static struct guards* guards_of(apr_pool_t* pool) {
  uint64_t* slot = vassert_ghost_map_find(&pools, (uintptr_t)pool);
  return slot ? (struct guards*)(uintptr_t)*slot : NULL;
}

__attribute__((cold, noinline)) static void spoiled(const struct guard* guard, const char* when) {
  Dl_info caller = {NULL, NULL, NULL, NULL};
  dladdr(guard->caller, &caller);
  FAIL(
      "block of %zu bytes at %p written beyond its end (guard is 0x%02x, not 0x%02x), seen when its pool %s; "
      "allocated by "
      "%s%s%s+0x%tx",
      guard->size, (const void*)(guard->at - guard->size), *guard->at, GUARD, when,
      caller.dli_fname ? caller.dli_fname : "?", caller.dli_sname ? ":" : "",
      caller.dli_sname ? caller.dli_sname : "",
      (const char*)guard->caller - (const char*)(caller.dli_saddr ? caller.dli_saddr : caller.dli_fbase));
}

static void check(struct guards* guards, const char* when) {
  size_t kept = 0;
  for (size_t i = 0; i < guards->count; i++) {
    if (__builtin_expect(*guards->list[i].at != GUARD, 0)) {
      spoiled(&guards->list[i], when);
      continue; /* reported once */
    }
    if (kept != i) guards->list[kept] = guards->list[i];
    kept++;
  }
  guards->count = kept;
}

/* What apr_palloc is about to do, for the check after it: so the run itself need not keep pool and caller
 * over the call. */
static VASSERT_GHOST struct {
  struct guards* guards;
  struct guard guard;
} pending;

__attribute__((noinline)) static int pool_will_give(apr_pool_t* pool, size_t size, const void* caller) {
  struct guards* guards = guards_of(pool);
  pending.guard = (struct guard){NULL, size, caller};
  pending.guards = guards;
  if (guards) {
    check(guards, "gave another block");
    return 1;
  }
  uint64_t* slot = vassert_ghost_map_insert(&pools, (uintptr_t)pool);
  if (!slot) return 1;
  guards = vassert_ghost_calloc(1, sizeof *guards);
  *slot = (uintptr_t)guards;
  pending.guards = guards;
  return 1;
}

__attribute__((noinline)) static int pool_gave(const unsigned char* block) {
  struct guards* guards = pending.guards;
  if (!guards) return 1;
  if (guards->count == guards->capacity) {
    size_t capacity = guards->capacity ? guards->capacity * 2 : 64;
    struct guard* larger = vassert_ghost_realloc(guards->list, capacity * sizeof *larger);
    if (!larger) return 1;
    guards->list = larger;
    guards->capacity = capacity;
  }
  pending.guard.at = block + pending.guard.size;
  guards->list[guards->count++] = pending.guard;
  return 1;
}

__attribute__((noinline)) static int pool_ends(apr_pool_t* pool, const char* when) {
  struct guards* guards = guards_of(pool);
  if (guards) check(guards, when);
  return 1;
}

/* Its blocks are gone: those that cleanups allocated on the way, too. */
__attribute__((noinline)) static int pool_empty(apr_pool_t* pool) {
  struct guards* guards = guards_of(pool);
  if (!guards) return 1;
  vassert_ghost_map_erase(&pools, (uintptr_t)pool);
  vassert_ghost_free(guards->list);
  vassert_ghost_free(guards);
  return 1;
}

#endif

#if GUARD_CHECKS

__attribute__((always_inline)) static inline void* guarded(apr_pool_t* pool, size_t size,
                                                           const void* caller) {
  size_t with_guard;
  (void)caller; /* for the checks */
  CHECK(pool_will_give, pool, size, caller);
  /* What is too large already stays so, and fails as it always did. */
  bool too_large = __builtin_add_overflow(size, 1, &with_guard);
  with_guard -= too_large;
  unsigned char* block = next_palloc(pool, with_guard);
  if (!block) return NULL;
  block[size] = GUARD;
  CHECK(pool_gave, block);
  return block;
}

void* apr_palloc(apr_pool_t* pool, size_t size) { return guarded(pool, size, RETURN_ADDRESS); }

void* apr_pcalloc(apr_pool_t* pool, size_t size) {
  void* block = guarded(pool, size, RETURN_ADDRESS);
  return block ? memset(block, 0, size) : NULL;
}

void apr_pool_clear(apr_pool_t* pool) {
  CHECK(pool_ends, pool, "was cleared");
  next_clear(pool);
  CHECK(pool_empty, pool);
}

void apr_pool_destroy(apr_pool_t* pool) {
  CHECK(pool_ends, pool, "was destroyed");
  next_destroy(pool);
  CHECK(pool_empty, pool);
}

/* A new pool may have the address of one that ended in a way not seen here. */
int apr_pool_create_ex(apr_pool_t** pool, apr_pool_t* parent, apr_abortfunc_t abort_function,
                       apr_allocator_t* allocator) {
  int status = next_create(pool, parent, abort_function, allocator);
  if (status == 0) CHECK(pool_empty, *pool);
  return status;
}

int apr_pool_create_unmanaged_ex(apr_pool_t** pool, apr_abortfunc_t abort_function,
                                 apr_allocator_t* allocator) {
  int status = next_create_unmanaged(pool, abort_function, allocator);
  if (status == 0) CHECK(pool_empty, *pool);
  return status;
}

#else

void* apr_palloc(apr_pool_t* pool, size_t size) { return next_palloc(pool, size); }
void* apr_pcalloc(apr_pool_t* pool, size_t size) { return next_pcalloc(pool, size); }
void apr_pool_clear(apr_pool_t* pool) { next_clear(pool); }
void apr_pool_destroy(apr_pool_t* pool) { next_destroy(pool); }
int apr_pool_create_ex(apr_pool_t** pool, apr_pool_t* parent, apr_abortfunc_t abort_function,
                       apr_allocator_t* allocator) {
  return next_create(pool, parent, abort_function, allocator);
}
int apr_pool_create_unmanaged_ex(apr_pool_t** pool, apr_abortfunc_t abort_function,
                                 apr_allocator_t* allocator) {
  return next_create_unmanaged(pool, abort_function, allocator);
}

#endif
