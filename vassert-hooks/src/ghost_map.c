/* SPDX-License-Identifier: BSD-2-Clause
 * A hash map with linear probing; erased keys are closed up, so there are no tombstones. */
#include "internal.h"

struct vassert_ghost_slot {
  uint64_t key; /* 0: free */
  uint64_t value;
};

/* The multiplier of Fibonacci hashing, 2^64 divided by the golden ratio. */
static size_t home(const struct vassert_ghost_map* map, uint64_t key) {
  return (size_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 20) & (map->capacity - 1);
}

static struct vassert_ghost_slot* probe(const struct vassert_ghost_map* map, uint64_t key) {
  size_t at = home(map, key);
  while (map->slots[at].key != key && map->slots[at].key != 0) at = (at + 1) & (map->capacity - 1);
  return &map->slots[at];
}

static int grow(struct vassert_ghost_map* map) {
  struct vassert_ghost_map larger = {NULL, map->capacity ? map->capacity * 2 : 64, map->used};
  larger.slots = vassert_ghost_calloc(larger.capacity, sizeof *larger.slots);
  if (!larger.slots) return 0;
  for (size_t i = 0; i < map->capacity; i++) {
    if (map->slots[i].key) *probe(&larger, map->slots[i].key) = map->slots[i];
  }
  vassert_ghost_free(map->slots);
  *map = larger;
  return 1;
}

uint64_t* vassert_ghost_map_insert(struct vassert_ghost_map* map, uint64_t key) {
  if (!key) return NULL;
  if ((map->used + 1) * 3 > map->capacity * 2 && !grow(map)) return NULL;
  struct vassert_ghost_slot* slot = probe(map, key);
  if (!slot->key) {
    slot->key = key;
    slot->value = 0;
    map->used++;
  }
  return &slot->value;
}

uint64_t* vassert_ghost_map_find(const struct vassert_ghost_map* map, uint64_t key) {
  if (!key || !map->capacity) return NULL;
  struct vassert_ghost_slot* slot = probe(map, key);
  return slot->key ? &slot->value : NULL;
}

int vassert_ghost_map_erase(struct vassert_ghost_map* map, uint64_t key) {
  if (!key || !map->capacity) return 0;
  struct vassert_ghost_slot* hole = probe(map, key);
  if (!hole->key) return 0;
  size_t mask = map->capacity - 1, at = (size_t)(hole - map->slots);
  for (size_t next = (at + 1) & mask; map->slots[next].key; next = (next + 1) & mask) {
    /* An entry may move into the hole unless its home lies between the hole and it. */
    if (((next - home(map, map->slots[next].key)) & mask) >= ((next - at) & mask)) {
      map->slots[at] = map->slots[next];
      at = next;
    }
  }
  map->slots[at].key = 0;
  map->used--;
  return 1;
}

int vassert_ghost_map_next(const struct vassert_ghost_map* map, size_t* cursor, uint64_t* key,
                           uint64_t* value) {
  while (*cursor < map->capacity) {
    const struct vassert_ghost_slot* slot = &map->slots[(*cursor)++];
    if (!slot->key) continue;
    *key = slot->key;
    *value = slot->value;
    return 1;
  }
  return 0;
}

void vassert_ghost_map_clear(struct vassert_ghost_map* map) {
  vassert_ghost_free(map->slots);
  map->slots = NULL;
  map->capacity = map->used = 0;
}
