#include "machine/translated/image_maker.h"

#include <algorithm>
#include <cstring>

namespace aftercheck::translated {

ImageMaker::ImageMaker(const std::map<uint64_t, Page>& pages, std::span<const Block> blocks,
                       std::span<const ExitPoint> exits, const std::array<Area, 2>& areas)
    : areas_(areas),
      blocks_(blocks.begin(), blocks.end()),
      exits_(exits.begin(), exits.end()),
      group_of_(blocks.size(), kNoGroup) {
  group(pages);
  choose_blocks();
  if (by_guest_.empty()) return;
  for (size_t i = 0; i < areas.size(); ++i) {
    hot_[i].assign(areas[i].hot.begin(), areas[i].hot.end());
    cold_[i].assign(areas[i].cold.begin(), areas[i].cold.end());
  }
  link_exits();
  link_slots();
  for (const auto& [page, what] : pages) copies_.insert(copies_.end(), what.bytes, what.bytes + kPageSize);
}

CodeImage ImageMaker::image() const {
  CodeImage image;
  if (by_guest_.empty()) return image;
  image.blocks = blocks_;
  image.exits = exits_;
  for (size_t i = 0; i < areas_.size(); ++i) {
    image.hot[i] = hot_[i];
    image.cold[i] = cold_[i];
    image.area_blocks[i] = areas_[i].blocks;
  }
  image.by_guest = by_guest_;
  image.pages = pages_;
  image.page_blocks = page_blocks_;
  image.groups = groups_;
  image.slots = slots_;
  image.copies = copies_;
  return image;
}

// One for each mapping, as far as its blocks reach each other.
void ImageMaker::group(const std::map<uint64_t, Page>& pages) {
  const Page* before = nullptr;
  for (const auto& [page, what] : pages) {
    if (before == nullptr || before->mapping != what.mapping || before->area != what.area)
      groups_.push_back({.first_page = pages_.size()});
    before = &what;
    ++groups_.back().pages;
    pages_.push_back({.page = page, .mapping = what.mapping, .group = groups_.size() - 1});
  }
}

// pages_.size(): it is none of them.
size_t ImageMaker::number_of(uint64_t page) const {
  const auto found = std::ranges::lower_bound(pages_, page, {}, &PageOf::page);
  return found == pages_.end() || found->page != page ? pages_.size()
                                                      : static_cast<size_t>(found - pages_.begin());
}

void ImageMaker::choose_blocks() {
  std::vector<std::vector<uint32_t>> by_page(pages_.size());
  for (size_t i = 0; i < blocks_.size(); ++i) {
    Block& block = blocks_[i];
    const size_t first = number_of(page_down(block.guest)), last = number_of(page_down(block.last));
    block.valid = block.valid && block.whole && first != pages_.size() && last != pages_.size() &&
                  pages_[first].group == pages_[last].group;
    if (!block.valid) {
      block.by_table = {};
      continue;
    }
    group_of_[i] = pages_[first].group;
    by_guest_.push_back({block.guest, i});
    by_page[first].push_back(static_cast<uint32_t>(i));
    if (last != first) by_page[last].push_back(static_cast<uint32_t>(i));
  }
  std::ranges::sort(by_guest_, {}, &BlockOf::guest);
  for (size_t i = 0; i < pages_.size(); ++i) {
    pages_[i].first_block = page_blocks_.size();
    pages_[i].blocks = by_page[i].size();
    page_blocks_.insert(page_blocks_.end(), by_page[i].begin(), by_page[i].end());
  }
}

// What is linked stays so within a group.
void ImageMaker::link_exits() {
  for (Block& block : blocks_) block.first_linked = kNoExit;
  for (size_t i = 0; i < exits_.size(); ++i) {
    ExitPoint& exit = exits_[i];
    const uint32_t linked_to = std::exchange(exit.linked_to, kNoBlock);
    exit.next_linked = kNoExit;
    if (linked_to == kNoBlock) continue;
    const uint64_t group = group_of_[exit.block];
    if (group != kNoGroup && group == group_of_[linked_to]) {
      exit.linked_to = linked_to;
      exit.next_linked = std::exchange(blocks_[linked_to].first_linked, static_cast<uint32_t>(i));
      continue;
    }
    put_displacement(blocks_[exit.block].area, exit.patch, exit.stub);
  }
}

void ImageMaker::link_slots() {
  std::vector<std::map<std::pair<size_t, uint16_t>, uint32_t>> firsts(groups_.size());
  for (Block& block : blocks_) block.next_in_slot = {kNoBlock, kNoBlock};
  for (uint32_t i = 0; i < blocks_.size(); ++i) {
    Block& block = blocks_[i];
    for (size_t table = 0; table < kTables; ++table) {
      if (block.by_table[table] == 0) continue;
      const auto [first, is_only] = firsts[group_of_[i]].try_emplace({table, slot_of(block.guest)}, i);
      if (!is_only) block.next_in_slot[table] = std::exchange(first->second, i);
      put_displacement(
          block.area, block.jump_to_next[table],
          is_only ? areas_[block.area].missed[table] : blocks_[block.next_in_slot[table]].by_table[table]);
    }
  }
  for (size_t i = 0; i < groups_.size(); ++i) {
    groups_[i].first_slot = slots_.size();
    groups_[i].slots = firsts[i].size();
    for (const auto& [where, first] : firsts[i])
      slots_.push_back({static_cast<uint32_t>(where.first), where.second, first});
  }
}

// `at`: where it is executed.
void ImageMaker::put_displacement(uint8_t area, uint64_t at, uint64_t target) {
  const auto displacement = static_cast<uint32_t>(target - (at + sizeof(uint32_t)));
  const bool is_cold = at >= areas_[area].cold_start;
  std::vector<std::byte>& code = is_cold ? cold_[area] : hot_[area];
  const uint64_t start = is_cold ? areas_[area].cold_start : areas_[area].hot_start;
  std::memcpy(&code.at(at - start), &displacement, sizeof displacement);
}

}  // namespace aftercheck::translated
