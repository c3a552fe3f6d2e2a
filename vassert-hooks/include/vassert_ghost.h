/* SPDX-License-Identifier: BSD-2-Clause
 * Ghost state: memory that checks write and that lives from one check to the next, but that the recorded run
 * never sees. With it a check can keep lists, shadow maps and counters, at no cost where the program is
 * recorded.
 *
 * Everything here is for check code only (VASSERT_BLOCK, and what is called from it). Elsewhere the ghost
 * heap has no memory and vassert_ghost_malloc returns NULL. In a replay memory from ghost functions and
 * VASSERT_GHOST variables keep what checks wrote; everything else that a check wrote is undone. Threads have
 * them in common, a child of fork has a copy, and a program that is executed begins anew. With eager checks
 * they are ordinary memory. The functions may then be called by several threads; what the checks do
 * with the memory is up to them.
 */
#ifndef VASSERT_GHOST_H
#define VASSERT_GHOST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#define VASSERT_GHOST_API_ __attribute__((visibility("hidden")))

/* A ghost variable: `static VASSERT_GHOST int open_files;`. Of static storage, with a constant initializer or
 * none, and not const, inline or a template's. */
#define VASSERT_GHOST __attribute__((section("vassert_ghost")))

/* As malloc, calloc, realloc and free; 16-byte aligned; NULL where there is no memory. A block may be freed
 * by another library than the one that allocated it. */
VASSERT_GHOST_API_ void* vassert_ghost_malloc(size_t size);
VASSERT_GHOST_API_ void* vassert_ghost_calloc(size_t count, size_t size);
VASSERT_GHOST_API_ void* vassert_ghost_realloc(void* block, size_t size);
VASSERT_GHOST_API_ void vassert_ghost_free(void* block);

/* A hash map in the ghost heap from addresses (or other numbers but 0) to 64-bit values: all zero is an empty
 * map. */
struct vassert_ghost_map {
  struct vassert_ghost_slot* slots;
  size_t capacity; /* of slots; 0 or a power of 2 */
  size_t used;     /* keys in the map */
};
/* The address of the key's value, added as 0 if it is new; valid until the next insertion. NULL where there
 * is no memory or the key is 0. */
VASSERT_GHOST_API_ uint64_t* vassert_ghost_map_insert(struct vassert_ghost_map* map, uint64_t key);
/* The same, NULL if the map lacks the key. */
VASSERT_GHOST_API_ uint64_t* vassert_ghost_map_find(const struct vassert_ghost_map* map, uint64_t key);
/* 1 if the key was there. */
VASSERT_GHOST_API_ int vassert_ghost_map_erase(struct vassert_ghost_map* map, uint64_t key);
/* The next entry at or after slot *cursor (start with 0), which then is beyond it; 0 if there is none. In no
 * order. */
VASSERT_GHOST_API_ int vassert_ghost_map_next(const struct vassert_ghost_map* map, size_t* cursor,
                                              uint64_t* key, uint64_t* value);
/* Empties the map and frees its memory. */
VASSERT_GHOST_API_ void vassert_ghost_map_clear(struct vassert_ghost_map* map);

#ifdef __cplusplus
} /* extern "C" */

#include <new>

namespace vassert {
/* For containers in the ghost heap: std::vector<int, vassert::ghost_allocator<int>>. The container itself has
 * to live there too, behind a pointer in a VASSERT_GHOST variable: its constructor must not run outside
 * checks. */
template <class T>
struct ghost_allocator {
  using value_type = T;
  ghost_allocator() noexcept = default;
  template <class U>
  ghost_allocator(const ghost_allocator<U>&) noexcept {}
  T* allocate(size_t count) {
    void* block = count > SIZE_MAX / sizeof(T) ? nullptr : vassert_ghost_malloc(count * sizeof(T));
    if (!block) {
#if defined(__cpp_exceptions)
      throw std::bad_alloc();
#else
      __builtin_trap();
#endif
    }
    return static_cast<T*>(block);
  }
  void deallocate(T* block, size_t) noexcept { vassert_ghost_free(block); }
  template <class U>
  bool operator==(const ghost_allocator<U>&) const noexcept {
    return true;
  }
  template <class U>
  bool operator!=(const ghost_allocator<U>&) const noexcept {
    return false;
  }
};
} /* namespace vassert */
#endif

#endif
