// The ghost heap and the ghost map. In eager mode, where they are ordinary memory; excursions have tests of
// their own.
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "library.h"
#include "vassert.h"

namespace {

struct eager {
  eager() { REQUIRE(vassert_enable_eager() > 0); }
};

TEST_CASE("Outside checks the ghost heap has no memory") {
  // Catch runs each test case in a process of its own only under ctest: the others switch eager mode on for
  // good.
  if (vassert_ghost_malloc(100) != nullptr) WARN("run by ctest, each test has its own process");
}

TEST_CASE("Ghost blocks are aligned, apart from each other and used again") {
  eager mode;
  std::mt19937 random(1);
  std::map<char*, size_t> blocks;
  for (int i = 0; i < 20000; i++) {
    if (blocks.size() > 500 || (random() % 3 == 0 && !blocks.empty())) {
      auto [block, size] = *std::next(blocks.begin(), static_cast<long>(random() % blocks.size()));
      for (size_t at = 0; at < size; at++) REQUIRE(block[at] == static_cast<char>(size));
      blocks.erase(block);
      if (i % 2) {
        vassert_ghost_free(block);
      } else {
        library_free_ghost(block);  // another module's heap
      }
      continue;
    }
    size_t size = random() % (i % 100 ? 300 : 300000);
    auto* block = static_cast<char*>(vassert_ghost_malloc(size));
    REQUIRE(block);
    REQUIRE(reinterpret_cast<uintptr_t>(block) % 16 == 0);
    std::memset(block, static_cast<int>(size), size);
    blocks[block] = size;
  }
  for (auto [block, size] : blocks) {
    for (size_t at = 0; at < size; at++) REQUIRE(block[at] == static_cast<char>(size));
    vassert_ghost_free(block);
  }
}

TEST_CASE("realloc keeps the contents, calloc clears, sizes that can't be are refused") {
  eager mode;
  auto* text = static_cast<char*>(vassert_ghost_realloc(nullptr, 10));
  std::strcpy(text, "ghost");
  for (size_t size = 20; size < 3000000; size *= 3) {
    text = static_cast<char*>(vassert_ghost_realloc(text, size));
    REQUIRE(text);
    REQUIRE(std::strcmp(text, "ghost") == 0);
  }
  vassert_ghost_free(text);
  vassert_ghost_free(nullptr);
  void* used = vassert_ghost_malloc(1000 * sizeof(int));
  std::memset(used, 0xff, 1000 * sizeof(int));
  vassert_ghost_free(used);
  auto* numbers = static_cast<int*>(vassert_ghost_calloc(1000, sizeof(int)));
  CHECK(numbers == used);
  for (int i = 0; i < 1000; i++) REQUIRE(numbers[i] == 0);
  CHECK(vassert_ghost_malloc(SIZE_MAX) == nullptr);
  CHECK(vassert_ghost_malloc(SIZE_MAX - 8) == nullptr);
  CHECK(vassert_ghost_calloc(SIZE_MAX / 2, 3) == nullptr);
}

TEST_CASE("Threads share the ghost heap") {
  eager mode;
  std::vector<std::thread> threads;
  std::vector<int> bad(4);
  for (size_t t = 0; t < bad.size(); t++) {
    threads.emplace_back([&bad, t] {
      for (int i = 0; i < 20000; i++) {
        auto* block = static_cast<size_t*>(vassert_ghost_malloc(sizeof(size_t) * 2));
        block[0] = t;
        block[1] = static_cast<size_t>(i);
        if (block[0] != t || block[1] != static_cast<size_t>(i)) bad[t]++;
        vassert_ghost_free(block);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(bad == std::vector<int>(4));
}

TEST_CASE("The ghost map does what std::map does") {
  eager mode;
  vassert_ghost_map map{};
  std::map<uint64_t, uint64_t> model;
  std::mt19937_64 random(2);
  for (int i = 0; i < 50000; i++) {
    uint64_t key = (random() % 3000 + 1) << (i % 2 ? 0 : 12);
    if (random() % 3) {
      uint64_t* value = vassert_ghost_map_insert(&map, key);
      REQUIRE(value);
      REQUIRE(*value == model[key]);
      *value = model[key] = random();
    } else {
      REQUIRE(vassert_ghost_map_erase(&map, key) == static_cast<int>(model.erase(key)));
    }
    REQUIRE(map.used == model.size());
  }
  for (auto [key, value] : model) {
    uint64_t* found = vassert_ghost_map_find(&map, key);
    REQUIRE(found);
    REQUIRE(*found == value);
  }
  std::map<uint64_t, uint64_t> listed;
  uint64_t key, value;
  for (size_t cursor = 0; vassert_ghost_map_next(&map, &cursor, &key, &value);) listed[key] = value;
  CHECK(listed == model);
  CHECK(vassert_ghost_map_insert(&map, 0) == nullptr);
  vassert_ghost_map_clear(&map);
  CHECK(vassert_ghost_map_find(&map, 1) == nullptr);
  CHECK(map.used == 0);
}

TEST_CASE("A container in the ghost heap") {
  eager mode;
  std::vector<int, vassert::ghost_allocator<int>> numbers;
  for (int i = 0; i < 10000; i++) numbers.push_back(i);
  CHECK(numbers[9999] == 9999);
}

}  // namespace
