#include "checkpoint/page_collector.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "recording/digest.h"
#include "recording/file_io.h"

namespace aftercheck {
namespace {

constexpr uint64_t kPiece = 1 << 20;
// Some 50 bytes each. Beyond, all are forgotten and stored anew where they are met again.
constexpr size_t kMostKnown = 4 << 20;

constexpr PageCollector::Page kZeros{};

bool is_zero(std::span<const std::byte> page) {
  return std::memcmp(page.data(), kZeros.data(), kPageSize) == 0;
}

}  // namespace

size_t PageCollector::Hash::operator()(const recording::Digest128& digest) const {
  size_t value = 0;
  std::memcpy(&value, digest.data(), sizeof value);
  return value;
}

PageCollector::Found PageCollector::collect(const GuestMemory& memory, const NewFrame& new_frame) {
  found_ = {};
  if (known_.size() > kMostKnown) known_.clear();
  for (const auto& [start, mapping] : memory.space.mappings())
    if (!mapping.shared || mapping.backing == Backing::anonymous) collect_mapping(memory, mapping, new_frame);
  for (const CheckpointFile& file : memory.files)
    memory.read_file(file.number, [&](uint64_t offset, std::span<const std::byte> bytes) {
      for (size_t at = 0; at + kPageSize <= bytes.size(); at += kPageSize) {
        const auto page = bytes.subspan(at).first<kPageSize>();
        if (!is_zero(page)) add(file.number, offset + at, page, new_frame);
      }
    });
  close_frame(new_frame);
  return std::move(found_);
}

void PageCollector::collect_mapping(const GuestMemory& memory, const Mapping& mapping,
                                    const NewFrame& new_frame) {
  pages_.own_pages(mapping, kPiece, [&](Range run) {
    buffer_.resize(run.size());
    // Page by page where some can't be read: pages behind a file's end.
    const bool whole = memory.space.read(run.start, buffer_.data(), buffer_.size());
    for (uint64_t at = run.start; at < run.end; at += kPageSize) {
      const auto page = std::span(buffer_).subspan(at - run.start).first<kPageSize>();
      if (!whole && !memory.space.read(at, page.data(), page.size())) continue;
      if (memory.restore) memory.restore(at, page);
      restore_unpatched(memory.space, at, page);
      if (mapping.backing == Backing::anonymous ? is_zero(page) : as_in_file(mapping, at, page)) continue;
      add(0, at, page, new_frame);
    }
  });
}

// A page that was written once may have its old contents again, or only trapped instructions in it.
bool PageCollector::as_in_file(const Mapping& mapping, uint64_t address, std::span<const std::byte> page) {
  if (mapping.contents == ContentsName{}) return false;
  auto blob = blobs_.find(mapping.contents);
  if (blob == blobs_.end()) {
    constexpr size_t kMostBlobs = 8;  // each holds one of the few descriptors that a recorder has
    if (blobs_.size() == kMostBlobs) blobs_.clear();
    blob = blobs_.emplace(mapping.contents, store_.open_unread(mapping.contents)).first;
  }
  Page file{};
  recording::read_at(blob->second.fd.get(), "a file of the store", mapping.offset + (address - mapping.start),
                     file);
  return std::memcmp(file.data(), page.data(), kPageSize) == 0;
}

void PageCollector::add(uint64_t file, uint64_t address, std::span<const std::byte, kPageSize> page,
                        const NewFrame& new_frame) {
  ++found_.pages;
  const auto [known, added] =
      known_.try_emplace(recording::digest128(page), Place{frames_, static_cast<uint32_t>(open_.size())});
  if (added) {
    ++found_.new_pages;
    std::copy(page.begin(), page.end(), open_.emplace_back().begin());
  }
  const Place& place = known->second;
  PageRun* last = found_.runs.empty() ? nullptr : &found_.runs.back();
  if (last != nullptr && last->file == file && last->address + uint64_t{last->pages} * kPageSize == address &&
      last->frame == place.frame && last->first_page + last->pages == place.page)
    ++last->pages;
  else
    found_.runs.push_back({file, address, place.frame, place.page, 1});
  if (open_.size() == kFramePages) close_frame(new_frame);
}

void PageCollector::close_frame(const NewFrame& new_frame) {
  if (open_.empty()) return;
  ++frames_;
  new_frame(std::exchange(open_, {}));
}

}  // namespace aftercheck
