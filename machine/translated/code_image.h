// What a translator leaves to others of its kind: translated code with all that is known of it, in a file
// in memory. Most of what short programs take is their translation, and a build executes the same compiler a
// hundred times.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/shared_table.h"
#include "machine/translated/block.h"

namespace aftercheck::translated {

// Translated code can be used where all of this is the same: it has addresses of the context, of the tables
// and of itself in it, and is written in one of several styles.
struct CodePlaces {
  uint64_t style = 0;
  uint64_t context = 0, tables = 0;
  std::array<uint64_t, 2> executed{};  // where the two areas begin
  friend bool operator==(const CodePlaces&, const CodePlaces&) = default;
};

struct BlockOf {
  uint64_t guest = 0;
  uint64_t number = 0;
};

// A page of guest code, and which blocks have code in it.
struct PageOf {
  uint64_t page = 0;
  uint64_t mapping = 0;                  // where the mapping began that it was of
  uint64_t group = 0;                    // of CodeImage::groups
  uint64_t first_block = 0, blocks = 0;  // of CodeImage::page_blocks
};

// Pages that are looked at together, since blocks of all of them are linked with each other: those of one
// mapping. And the slots of tables that lead to them.
struct GroupOf {
  uint64_t first_page = 0, pages = 0;
  uint64_t first_slot = 0, slots = 0;
};

// The blocks of one group in one slot, linked with each other.
struct SlotOf {
  uint32_t table = 0, slot = 0;
  uint64_t block = 0;  // the first
};

// Parts of an image, in the order in which they lie there. Each begins with a page.
struct CodeImage {
  static constexpr size_t kParts = 15;
  struct Header {
    CodePlaces places;
    std::array<uint64_t, kParts> counts{};  // entries of the parts below
  };
  Header header;
  std::span<const Block> blocks;
  std::span<const ExitPoint> exits;
  std::span<const Site> sites;
  std::span<const Mark> marks;
  // Of each area: code of its beginning, code from its colder part's beginning on, blocks by ascending entry.
  std::array<std::span<const std::byte>, 2> hot, cold;
  std::array<std::span<const uint32_t>, 2> area_blocks;
  std::span<const BlockOf> by_guest;  // ascending
  std::span<const PageOf> pages;      // ascending
  std::span<const uint32_t> page_blocks;
  std::span<const GroupOf> groups;
  std::span<const SlotOf> slots;
  // Copies of the pages, one after the other.
  std::span<const std::byte> copies;

  bool empty() const { return blocks.empty(); }
  std::optional<uint32_t> find(uint64_t guest) const;
  // The first page at `page` or above.
  size_t lower_page(uint64_t page) const;
  // Nothing where it has no code of that page.
  std::optional<size_t> find_page(uint64_t page) const;
  std::span<const uint32_t> blocks_of(const PageOf& page) const {
    return page_blocks.subspan(page.first_block, page.blocks);
  }
  std::span<const std::byte> copy_of(const PageOf& page) const {
    return copies.subspan(static_cast<size_t>(&page - pages.data()) * kPageSize, kPageSize);
  }

  size_t packed_size() const;
  // Into so much memory, which is zero and begins with a page.
  void pack(std::span<std::byte> bytes) const;
  // The parts are those of `bytes`.
  static CodeImage unpack(std::span<const std::byte> bytes);

 private:
  template <typename Visit>
  void for_each_part(Visit visit);
};

// An image where it is kept, read-only.
class KeptImage {
 public:
  KeptImage() = default;
  KeptImage(KeptImage&& other) noexcept
      : image_(std::exchange(other.image_, {})),
        bytes_(std::exchange(other.bytes_, {})),
        file_(other.file_),
        offset_(other.offset_) {}
  KeptImage& operator=(KeptImage&& other) noexcept;
  KeptImage(const KeptImage&) = delete;
  KeptImage& operator=(const KeptImage&) = delete;
  ~KeptImage() { reset(); }

  const CodeImage& operator*() const { return image_; }
  const CodeImage* operator->() const { return &image_; }
  void reset();
  // Where the part is in file().
  int file() const { return file_; }
  template <typename T>
  uint64_t offset_of(std::span<const T> part) const {
    return offset_ + static_cast<uint64_t>(reinterpret_cast<const std::byte*>(part.data()) - bytes_.data());
  }

 private:
  friend class CodeImages;
  CodeImage image_;
  std::span<const std::byte> bytes_;
  int file_ = -1;
  uint64_t offset_ = 0;
};

// Images by program, for all processes that are forked after it was made. As SharedTable: any thread, any
// process, and where there is no memory it forgets.
class CodeImages {
 public:
  // Bytes of all images; taken from the system as they are used.
  explicit CodeImages(uint64_t size);
  ~CodeImages();
  CodeImages(const CodeImages&) = delete;
  CodeImages& operator=(const CodeImages&) = delete;

  // The latest of that program. It must not outlast this.
  std::optional<KeptImage> find(std::span<const std::byte> program) const;
  void add(std::span<const std::byte> program, const CodeImage& image);

 private:
  struct Range {
    uint64_t offset = 0, size = 0;
  };
  const uint64_t size_;
  UniqueFd file_;
  std::atomic<uint64_t>* used_ = nullptr;  // bytes of the file; in memory that all processes have
  SharedTable ranges_{size_t{1} << 20};
};

}  // namespace aftercheck::translated
