// Makes of a translator's code what it leaves to others.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "machine/translated/block.h"
#include "machine/translated/code_image.h"

namespace aftercheck::translated {

// A translator links blocks as it likes; in an image they are linked within a group, and no block is left
// whose pages are not. All that it is made with must outlive it, and it the images that it gives.
class ImageMaker {
 public:
  struct Page {
    const std::byte* bytes = nullptr;
    uint64_t mapping = 0;  // where that begins which it is of
    uint8_t area = 0;      // where its code is translated to
  };
  struct Area {
    uint64_t hot_start = 0, cold_start = 0;  // where they are executed, the first before the other
    std::span<const std::byte> hot, cold;
    std::span<const uint32_t> blocks;        // as CodeImage::area_blocks
    std::array<uint64_t, kTables> missed{};  // where tables lead to that have no such block
  };

  // `pages`: by address, those of which there is code and that last.
  ImageMaker(const std::map<uint64_t, Page>& pages, std::span<const Block> blocks,
             std::span<const ExitPoint> exits, const std::array<Area, 2>& areas);

  // All but its header, sites and marks; empty where no block is left.
  CodeImage image() const;

 private:
  const std::array<Area, 2>& areas_;
  std::array<std::vector<std::byte>, 2> hot_, cold_;
  std::vector<Block> blocks_;
  std::vector<ExitPoint> exits_;
  static constexpr uint64_t kNoGroup = UINT64_MAX;
  std::vector<uint64_t> group_of_;  // by block
  std::vector<BlockOf> by_guest_;
  std::vector<PageOf> pages_;
  std::vector<GroupOf> groups_;
  std::vector<uint32_t> page_blocks_;
  std::vector<SlotOf> slots_;
  std::vector<std::byte> copies_;

  void group(const std::map<uint64_t, Page>& pages);
  size_t number_of(uint64_t page) const;
  void choose_blocks();
  void link_exits();
  void link_slots();
  void put_displacement(uint8_t area, uint64_t at, uint64_t target);
};

}  // namespace aftercheck::translated
