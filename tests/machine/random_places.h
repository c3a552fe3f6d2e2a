// Where random programs and what they work on lie: at three sites, since a machine may treat what is far from
// its own memory, or below 2 GiB, in another way.
#pragma once

#include <array>
#include <cstdint>

#include "machine/address_space.h"

namespace aftercheck {

struct Site {
  uint64_t code;  // kSlotsOfSite programs of up to kProgramSize bytes
  uint64_t data;  // kDataPages pages: see below

  // Nothing is mapped in the first and last of the pages, nor between data and stack.
  constexpr Range writable() const { return {data + kPageSize, data + 4 * kPageSize}; }
  constexpr Range read_only() const { return {writable().end, writable().end + kPageSize}; }
  constexpr Range stack() const { return {data + 6 * kPageSize, data + 9 * kPageSize}; }
  constexpr Range hole() const { return {read_only().end, stack().start}; }
};
constexpr uint64_t kProgramSize = 0x1800, kSlotsOfSite = 32, kDataPages = 10;
constexpr Range code_of(const Site& site) { return {site.code, site.code + kProgramSize * kSlotsOfSite}; }

inline constexpr std::array<Site, 3> kSites = {{
    {kMainWindow.start + 0x10'0000, kMainWindow.start + 0x40'0000},
    // In the middle, out of reach for operands of translated code.
    {kMainWindow.start + 0x3e'0010'0000, kMainWindow.start + 0x3e'0040'0000},
    {kLowWindow.start + 0x100'0000, kLowWindow.start + 0x110'0000},
}};
constexpr size_t kSlots = kSites.size() * kSlotsOfSite;

// Each program of a batch has a slot.
constexpr const Site& site_of_slot(size_t slot) { return kSites[slot % kSites.size()]; }
constexpr uint64_t start_of_slot(size_t slot) {
  return site_of_slot(slot).code + slot / kSites.size() * kProgramSize;
}

}  // namespace aftercheck
