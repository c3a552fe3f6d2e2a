#include "symbols/symbols.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace aftercheck::symbols {
namespace {

// The last address of a range, at most that of the address space.
uint64_t last_of(uint64_t address, uint64_t size) {
  const uint64_t last = address + (size - 1);
  return last < address ? ~uint64_t{0} : last;
}

}  // namespace

void Symbols::map(uint64_t address, uint64_t size, std::shared_ptr<Object> object, uint64_t file_offset) {
  if (size == 0) return;
  carve(address, size);
  mappings_[address] = {last_of(address, size) - address + 1, file_offset, std::move(object)};
}

void Symbols::unmap(uint64_t address, uint64_t size) {
  if (size != 0) carve(address, size);
}

void Symbols::remap(uint64_t address, uint64_t size, uint64_t new_address, uint64_t new_size) {
  if (size == 0) return;
  struct Piece {
    uint64_t start;
    Mapping mapping;
  };
  std::vector<Piece> pieces;
  const uint64_t last = last_of(address, size);
  auto it = mappings_.upper_bound(address);
  if (it != mappings_.begin()) --it;
  for (; it != mappings_.end() && it->first <= last; ++it) {
    const uint64_t end_byte = it->first + (it->second.size - 1);
    if (end_byte < address) continue;
    const uint64_t start = std::max(it->first, address);
    pieces.push_back({start - address,
                      {std::min(end_byte, last) - start + 1, it->second.file_offset + (start - it->first),
                       it->second.object}});
  }
  carve(address, size);
  // A file mapping that grows shows more of its file.
  if (pieces.size() == 1 && pieces[0].start == 0 && pieces[0].mapping.size == size)
    pieces[0].mapping.size = new_size;
  if (new_size != 0) carve(new_address, new_size);
  for (Piece& piece : pieces) {
    if (piece.start >= new_size) break;
    piece.mapping.size = std::min(piece.mapping.size, new_size - piece.start);
    map(new_address + piece.start, piece.mapping.size, std::move(piece.mapping.object),
        piece.mapping.file_offset);
  }
}

// Removes the range from whatever overlaps it.
void Symbols::carve(uint64_t address, uint64_t size) {
  const uint64_t last = last_of(address, size);
  auto it = mappings_.upper_bound(address);
  if (it != mappings_.begin()) --it;
  while (it != mappings_.end() && it->first <= last) {
    const uint64_t start = it->first;
    const uint64_t end_byte = start + (it->second.size - 1);
    if (end_byte < address) {
      ++it;
      continue;
    }
    const Mapping old = it->second;
    it = mappings_.erase(it);
    if (start < address) mappings_[start] = {address - start, old.file_offset, old.object};
    if (end_byte > last)
      mappings_[last + 1] = {end_byte - last, old.file_offset + (last + 1 - start), old.object};
  }
}

Location Symbols::find(uint64_t address) const {
  auto it = mappings_.upper_bound(address);
  if (it == mappings_.begin()) return {};
  --it;
  const uint64_t inside = address - it->first;
  const Mapping& mapping = it->second;
  if (inside >= mapping.size) return {};
  Location location{mapping.object.get(), nullptr, 0, inside};
  const auto in_file = mapping.object->address_of_offset(mapping.file_offset + inside);
  location.offset = in_file.value_or(mapping.file_offset + inside);
  if (!in_file) return location;
  location.object_address = *in_file;
  location.function = mapping.object->function_at(*in_file);
  if (location.function != nullptr) location.offset = *in_file - location.function->address;
  return location;
}

std::string Symbols::text(uint64_t address) const {
  const Location at = find(address);
  if (at.object == nullptr) return "";
  const std::string& object = at.object->short_name();
  if (at.function == nullptr) return fmt::format("{}+{:#x}", object, at.offset);
  if (at.offset == 0) return fmt::format("{} ({})", at.function->name, object);
  return fmt::format("{}+{:#x} ({})", at.function->name, at.offset, object);
}

SourceLine Symbols::line(uint64_t address) const {
  const Location at = find(address);
  return at.object == nullptr || at.object_address == 0 ? SourceLine{}
                                                        : at.object->line_at(at.object_address);
}

std::vector<Frame> Symbols::frames(uint64_t address) const {
  const Location at = find(address);
  if (at.object == nullptr || at.object_address == 0) return {};
  std::vector<Frame> frames = at.object->frames_at(at.object_address);
  if (frames.empty()) {
    const SourceLine line = at.object->line_at(at.object_address);
    if (at.function != nullptr || line.file != nullptr) frames.push_back({"", line});
  }
  // The symbol table has parameters and the names of functions that DWARF calls otherwise.
  if (at.function != nullptr) frames.back().function = at.function->name;
  return frames;
}

std::vector<uint64_t> Symbols::addresses_of(const std::string& function) const {
  std::set<uint64_t> found;
  for (const auto& [start, mapping] : mappings_)
    for (const Function* candidate : mapping.object->functions_named(function)) {
      const auto first = mapping.object->address_of_offset(mapping.file_offset);
      if (!first || candidate->address < *first) continue;
      const uint64_t inside = candidate->address - *first;
      if (inside < mapping.size && find(start + inside).function == candidate) found.insert(start + inside);
    }
  return {found.begin(), found.end()};
}

}  // namespace aftercheck::symbols
