/* SPDX-License-Identifier: BSD-2-Clause
 * The ghost heap: blocks of powers of two on free lists, cut from chunks that are never given back. A block's
 * header says all that freeing needs, so that blocks may wander between the heaps of several modules. */
#define _GNU_SOURCE /* MAP_ANONYMOUS */
#include <string.h>
#include <sys/mman.h>

#include "internal.h"

enum { SMALLEST = 5, LARGEST = 46, CHUNK = 1 << 20, PAGE = 4096 };

struct block {
  uint64_t order; /* the block has 1 << order bytes, header included */
  struct block* next;
};
_Static_assert(sizeof(struct block) == 16, "blocks are 16-byte aligned");
_Static_assert(sizeof(struct vassert_ghost_state) == 400, "the size in thunks.S");

/* Eager checks may run in several threads. In an excursion there is one, and no other could ever release the
 * lock. It is the module's own memory on purpose: a check that is ended in here must not leave it locked. */
static int locked;
static void lock(void) {
  if (!vassert_control_.eager) return;
  while (__atomic_exchange_n(&locked, 1, __ATOMIC_ACQUIRE)) __builtin_ia32_pause();
}
static void unlock(void) {
  if (vassert_control_.eager) __atomic_store_n(&locked, 0, __ATOMIC_RELEASE);
}

static void* map_pages(uint64_t length) {
  if (vassert_control_.eager) {
    void* memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
  }
  long address = vassert_syscall(VASSERT_OP_GHOST_MAP, length, 0, 0);
  return address < 0 && address > -PAGE ? NULL : (void*)address;
}

static int order_of(size_t size) {
  size_t total = size + sizeof(struct block);
  if (total < size || total > UINT64_C(1) << LARGEST) return -1;
  int order = SMALLEST;
  while (UINT64_C(1) << order < total) order++;
  return order;
}

static struct block* carve(int order) {
  struct vassert_ghost_state* state = &vassert_ghost_state_;
  uint64_t size = UINT64_C(1) << order;
  if (size >= CHUNK / 4) return map_pages(size);
  if ((uint64_t)(state->chunk_end - state->chunk) < size) {
    char* chunk = map_pages(CHUNK);
    if (!chunk) return NULL;
    state->chunk_end = state->chunk =
        chunk; /* in this order, a check that ends in between leaves nothing inconsistent */
    state->chunk_end = chunk + CHUNK;
  }
  struct block* block = (struct block*)state->chunk;
  state->chunk += size;
  return block;
}

void* vassert_ghost_malloc(size_t size) {
  int order = order_of(size);
  if (order < 0) return NULL;
  lock();
  void** list = &vassert_ghost_state_.free_lists[order];
  struct block* block = *list;
  if (block) {
    *list = block->next;
  } else {
    block = carve(order);
  }
  unlock();
  if (!block) return NULL;
  block->order = (uint64_t)order;
  return block + 1;
}

void* vassert_ghost_calloc(size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
  void* memory = vassert_ghost_malloc(bytes);
  return memory ? memset(memory, 0, bytes) : NULL;
}

void vassert_ghost_free(void* memory) {
  if (!memory) return;
  struct block* block = (struct block*)memory - 1;
  lock();
  void** list = &vassert_ghost_state_.free_lists[block->order];
  block->next = *list;
  *list = block;
  unlock();
}

void* vassert_ghost_realloc(void* memory, size_t size) {
  if (!memory) return vassert_ghost_malloc(size);
  size_t room = (size_t)(UINT64_C(1) << ((struct block*)memory - 1)->order) - sizeof(struct block);
  if (size <= room) return memory;
  void* larger = vassert_ghost_malloc(size);
  if (!larger) return NULL;
  memcpy(larger, memory, room);
  vassert_ghost_free(memory);
  return larger;
}
