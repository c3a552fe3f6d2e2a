#include "pt-replay/written_code.h"

#include <sys/mman.h>

#include <algorithm>

namespace aftercheck {

using recording::SpaceOp;
using recording::SpaceOpKind;

WrittenCode::WrittenCode(pt::CodeImage& image, Guest& guest) : image_(image), guest_(guest) {
  image_.set_source([this](uint64_t address) { give(address); });
  look_at_mappings();
}

WrittenCode::~WrittenCode() { image_.set_source({}); }

// Null where the page can't be read.
WrittenCode::Page WrittenCode::read(uint64_t page) const {
  auto bytes = std::make_shared<std::vector<uint8_t>>(kPageSize);
  if (!guest_.space().read(page, bytes->data(), kPageSize)) return nullptr;
  guest_.breakpoints().restore_original(page, std::as_writable_bytes(std::span(*bytes)));
  return bytes;
}

void WrittenCode::give(uint64_t address) {
  const Mapping* const mapping = guest_.space().find(address);
  if (mapping == nullptr || (mapping->prot & PROT_EXEC) == 0) return;
  const uint64_t page = page_down(address);
  Page bytes = read(page);
  if (bytes == nullptr) return;
  given_[page] = bytes;
  image_.fill(page, std::move(bytes));
}

void WrittenCode::compare(uint64_t page) {
  const Page now = read(page);
  if (now == nullptr) return;
  const std::span<const uint8_t> shown = image_.mapped_at(page);
  if (shown.size() >= kPageSize && std::equal(now->begin(), now->end(), shown.begin())) return;
  given_[page] = now;
  image_.map(page, now);
}

void WrittenCode::update() {
  for (const Range& range : writable_)
    for (auto it = given_.lower_bound(range.start); it != given_.end() && it->first < range.end; ++it)
      compare(it->first);
  for (const Range& range : writable_files_) compare_all(range);
}

void WrittenCode::compare_all(Range range) {
  for (uint64_t page = range.start; page < range.end; page += kPageSize) compare(page);
}

void WrittenCode::answered(const recording::Event& event) {
  for (const SpaceOp& op : event.space_ops) {
    if (!changes_mappings(op.kind)) continue;
    if (op.kind == SpaceOpKind::clear) {
      given_.clear();
      continue;
    }
    const Range range{op.address, op.address + op.length};
    forget(range);
    if (op.kind == SpaceOpKind::remap) {
      forget({op.new_address, op.new_address + op.new_length});
      image_.source_changed(op.new_address, op.new_length);
    } else if ((op.prot & PROT_EXEC) != 0 && op.kind != SpaceOpKind::map_blob) {
      image_.source_changed(op.address, op.length);
    }
    if (op.kind == SpaceOpKind::protect && (op.prot & PROT_EXEC) != 0) compare_files(range);
  }
  if (!event.space_ops.empty()) look_at_mappings();
}

// Of a file that becomes executable the image has the file's bytes, which the guest may have changed before.
void WrittenCode::compare_files(Range range) {
  const auto& mappings = guest_.space().mappings();
  auto it = mappings.upper_bound(range.start);
  if (it != mappings.begin()) --it;
  for (; it != mappings.end() && it->first < range.end; ++it)
    if (it->second.backing == Backing::file)
      compare_all({std::max(it->first, range.start), std::min(it->second.end, range.end)});
}

// What is there is not what was there. The image's own files have come already.
void WrittenCode::forget(Range range) {
  for (auto it = given_.lower_bound(page_down(range.start)); it != given_.end() && it->first < range.end;) {
    const auto& [page, bytes] = *it;
    if (image_.mapped_at(page).data() == bytes->data()) image_.unmap(page, kPageSize);
    it = given_.erase(it);
  }
}

void WrittenCode::look_at_mappings() {
  writable_.clear();
  writable_files_.clear();
  for (const auto& [start, mapping] : guest_.space().mappings()) {
    if ((mapping.prot & PROT_EXEC) == 0) continue;
    if ((mapping.prot & PROT_WRITE) == 0 && !mapping.shared) continue;
    (mapping.backing == Backing::file ? writable_files_ : writable_).push_back({start, mapping.end});
  }
}

}  // namespace aftercheck
