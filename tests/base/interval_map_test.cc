#include "base/interval_map.h"

#include <catch2/catch.hpp>
#include <optional>
#include <random>
#include <vector>

namespace aftercheck {
namespace {

// Which bytes of which file: a part starts later in it.
struct Bytes {
  uint64_t size = 0;
  int file = 0;
  uint64_t offset = 0;

  uint64_t extent() const { return size; }
  Bytes part(uint64_t skip, uint64_t part_size) const { return {part_size, file, offset + skip}; }
  bool operator==(const Bytes&) const = default;
};
using Map = IntervalMap<Bytes>;
using Entries = Map::Entries;

Map sample() {
  Map map;
  map.put(100, {50, 1, 0});
  map.put(150, {50, 2, 1000});
  map.put(300, {10, 3, 0});
  return map;
}

}  // namespace

TEST_CASE("an entry is found by each of its addresses") {
  const Map map = sample();
  CHECK(map.find(99) == map.end());
  CHECK(map.find(100)->second.file == 1);
  CHECK(map.find(149)->second.file == 1);
  CHECK(map.find(150)->first == 150);
  CHECK(map.find(200) == map.end());
  CHECK(map.find(309)->second.file == 3);
  CHECK(map.find(310) == map.end());
  const Map empty;
  CHECK(empty.find(0) == empty.end());
}

TEST_CASE("a range is covered when nothing in it is missing") {
  const Map map = sample();
  CHECK(map.covers(100, 100));
  CHECK(map.covers(120, 60));
  CHECK(map.covers(7, 0));
  CHECK_FALSE(map.covers(99, 2));
  CHECK_FALSE(map.covers(100, 101));
  CHECK_FALSE(map.covers(199, 105));
  CHECK_FALSE(map.covers(310, 1));
}

TEST_CASE("what is put replaces what it overlaps, and the rest keeps its part") {
  Map map = sample();
  map.put(140, {20, 9, 7});
  CHECK(map.entries() ==
        Entries{{100, {40, 1, 0}}, {140, {20, 9, 7}}, {160, {40, 2, 1010}}, {300, {10, 3, 0}}});
  map.put(145, {5, 8, 0});  // inside
  CHECK(map.entries() == Entries{{100, {40, 1, 0}},
                                 {140, {5, 9, 7}},
                                 {145, {5, 8, 0}},
                                 {150, {10, 9, 17}},
                                 {160, {40, 2, 1010}},
                                 {300, {10, 3, 0}}});
  map.put(0, {1000, 5, 0});
  CHECK(map.entries() == Entries{{0, {1000, 5, 0}}});
  map.put(10, {0, 6, 0});
  CHECK(map.entries().size() == 1);
}

TEST_CASE("a range that is cut out is given back in parts") {
  Map map = sample();
  CHECK(map.cut_out(120, 0).empty());
  CHECK(map.cut_out(200, 100).empty());
  CHECK(map.cut_out(120, 185) == Entries{{120, {30, 1, 20}}, {150, {50, 2, 1000}}, {300, {5, 3, 0}}});
  CHECK(map.entries() == Entries{{100, {20, 1, 0}}, {305, {5, 3, 5}}});
  map.erase(0, UINT64_MAX);
  CHECK(map.entries().empty());
}

TEST_CASE("splitting changes nothing but the borders") {
  Map map = sample();
  for (const uint64_t at : {0, 100, 150, 200, 250, 310, 1000}) map.split_at(at);
  CHECK(map.entries() == sample().entries());
  map.split_at(149);
  CHECK(map.entries() ==
        Entries{{100, {49, 1, 0}}, {149, {1, 1, 49}}, {150, {50, 2, 1000}}, {300, {10, 3, 0}}});
}

TEST_CASE("visits name the part of each entry that is in the range") {
  const Map map = sample();
  std::vector<std::vector<uint64_t>> seen;
  map.visit(140, 165, [&](uint64_t start, const Bytes& value, uint64_t first, uint64_t size) {
    seen.push_back({start, static_cast<uint64_t>(value.file), first, size});
  });
  CHECK(seen == std::vector<std::vector<uint64_t>>{{100, 1, 140, 10}, {150, 2, 150, 50}, {300, 3, 300, 5}});
  seen.clear();
  map.visit(200, 100, [&](uint64_t, const Bytes&, uint64_t, uint64_t) { seen.push_back({}); });
  map.visit(120, 0, [&](uint64_t, const Bytes&, uint64_t, uint64_t) { seen.push_back({}); });
  CHECK(seen.empty());
}

TEST_CASE("ranges may reach the last address and are cut there") {
  Map map;
  map.put(UINT64_MAX - 9, {10, 1, 0});
  CHECK(map.find(UINT64_MAX)->first == UINT64_MAX - 9);
  CHECK(map.covers(UINT64_MAX - 9, 10));
  CHECK(map.covers(UINT64_MAX - 4, 1000));
  CHECK(map.cut_out(UINT64_MAX - 4, 1000) == Entries{{UINT64_MAX - 4, {5, 1, 5}}});
  CHECK(map.entries() == Entries{{UINT64_MAX - 9, {5, 1, 0}}});
}

TEST_CASE("random changes leave what an array would hold") {
  constexpr uint64_t kSize = 64;
  std::mt19937 random(1);
  for (int run = 0; run < 50; ++run) {
    Map map;
    std::vector<std::optional<std::pair<int, uint64_t>>> expected(kSize);
    for (int step = 0; step < 100; ++step) {
      const uint64_t at = random() % kSize, size = random() % (kSize - at) + 1;
      const int what = static_cast<int>(random() % 3);
      if (what == 0) map.put(at, {size, step, 0});
      if (what == 1) map.erase(at, size);
      if (what == 2) map.split_at(at);
      for (uint64_t i = 0; i < size && what != 2; ++i) {
        expected[at + i].reset();
        if (what == 0) expected[at + i] = {step, i};
      }
      for (uint64_t i = 0; i < kSize; ++i) {
        const auto found = map.find(i);
        REQUIRE((found != map.end()) == expected[i].has_value());
        if (!expected[i]) continue;
        REQUIRE(found->second.file == expected[i]->first);
        REQUIRE(found->second.offset + (i - found->first) == expected[i]->second);
      }
    }
  }
}

}  // namespace aftercheck
