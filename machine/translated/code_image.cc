#include "machine/translated/code_image.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "machine/address_space.h"

namespace aftercheck::translated {

template <typename Visit>
void CodeImage::for_each_part(Visit visit) {
  size_t number = 0;
  visit(number++, blocks);
  visit(number++, exits);
  visit(number++, sites);
  visit(number++, marks);
  for (size_t area = 0; area < hot.size(); ++area) {
    visit(number++, hot[area]);
    visit(number++, cold[area]);
    visit(number++, area_blocks[area]);
  }
  visit(number++, by_guest);
  visit(number++, pages);
  visit(number++, page_blocks);
  visit(number++, groups);
  visit(number++, slots);
  static_assert(kParts == 4 + 6 + 5);
}

size_t CodeImage::packed_size() const {
  CodeImage parts = *this;
  size_t size = page_up(sizeof(Header));
  parts.for_each_part([&](size_t, const auto& part) { size += page_up(part.size_bytes()); });
  return size + copies.size();
}

void CodeImage::pack(std::span<std::byte> bytes) const {
  CodeImage parts = *this;
  Header packed = header;
  size_t at = page_up(sizeof(Header));
  parts.for_each_part([&](size_t number, const auto& part) {
    packed.counts[number] = part.size();
    if (!part.empty()) std::memcpy(&bytes[at], part.data(), part.size_bytes());
    at += page_up(part.size_bytes());
  });
  std::memcpy(bytes.data(), &packed, sizeof packed);
  if (!copies.empty()) std::memcpy(&bytes[at], copies.data(), copies.size());
}

CodeImage CodeImage::unpack(std::span<const std::byte> bytes) {
  CodeImage image;
  std::memcpy(&image.header, bytes.data(), sizeof image.header);
  size_t at = page_up(sizeof(Header));
  image.for_each_part([&](size_t number, auto& part) {
    using Entry = typename std::remove_reference_t<decltype(part)>::element_type;
    part = {reinterpret_cast<Entry*>(bytes.data() + at), image.header.counts[number]};
    at += page_up(part.size_bytes());
  });
  image.copies = bytes.subspan(at);
  return image;
}

std::optional<uint32_t> CodeImage::find(uint64_t guest) const {
  const auto found = std::ranges::lower_bound(by_guest, guest, {}, &BlockOf::guest);
  if (found == by_guest.end() || found->guest != guest) return std::nullopt;
  return static_cast<uint32_t>(found->number);
}

size_t CodeImage::lower_page(uint64_t page) const {
  return static_cast<size_t>(std::ranges::lower_bound(pages, page, {}, &PageOf::page) - pages.begin());
}

std::optional<size_t> CodeImage::find_page(uint64_t page) const {
  const size_t found = lower_page(page);
  if (found == pages.size() || pages[found].page != page) return std::nullopt;
  return found;
}

// --- KeptImage ---

KeptImage& KeptImage::operator=(KeptImage&& other) noexcept {
  if (this == &other) return *this;
  reset();
  image_ = std::exchange(other.image_, {});
  bytes_ = std::exchange(other.bytes_, {});
  file_ = other.file_;
  offset_ = other.offset_;
  return *this;
}

void KeptImage::reset() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  image_ = {};
  bytes_ = {};
}

// --- CodeImages ---

CodeImages::CodeImages(uint64_t size) : size_(size) {
  UniqueFd file(memfd_create("translated code of others", MFD_CLOEXEC));
  if (!file || ftruncate(file.get(), static_cast<off_t>(size)) != 0) return;
  void* memory =
      mmap(nullptr, sizeof *used_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return;
  used_ = new (memory) std::atomic<uint64_t>(0);
  file_ = move_out_of_guest_reach(std::move(file));
}

CodeImages::~CodeImages() {
  if (used_ != nullptr) munmap(used_, sizeof *used_);
}

std::optional<KeptImage> CodeImages::find(std::span<const std::byte> program) const {
  const auto found = ranges_.find(program);
  if (!found || !file_) return std::nullopt;
  Range range;
  std::memcpy(&range, found->data(), sizeof range);
  void* memory =
      mmap(nullptr, range.size, PROT_READ, MAP_SHARED, file_.get(), static_cast<off_t>(range.offset));
  if (memory == MAP_FAILED) return std::nullopt;
  KeptImage kept;
  kept.bytes_ = {static_cast<const std::byte*>(memory), range.size};
  kept.image_ = CodeImage::unpack(kept.bytes_);
  kept.file_ = file_.get();
  kept.offset_ = range.offset;
  return kept;
}

void CodeImages::add(std::span<const std::byte> program, const CodeImage& image) {
  if (!file_) return;
  Range taken{used_->load(std::memory_order_relaxed), page_up(image.packed_size())};
  do {
    if (taken.size > size_ || taken.offset > size_ - taken.size) return;
  } while (!used_->compare_exchange_weak(taken.offset, taken.offset + taken.size, std::memory_order_relaxed));
  void* memory = mmap(nullptr, taken.size, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(),
                      static_cast<off_t>(taken.offset));
  if (memory == MAP_FAILED) return;
  image.pack({static_cast<std::byte*>(memory), taken.size});
  munmap(memory, taken.size);
  ranges_.add(program, SharedTable::bytes(taken));
}

}  // namespace aftercheck::translated
