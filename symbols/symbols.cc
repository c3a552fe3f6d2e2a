#include "symbols/symbols.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace aftercheck::symbols {

void Symbols::map(uint64_t address, uint64_t size, std::shared_ptr<Object> object, uint64_t file_offset) {
  // At most up to the last address.
  if (size != 0)
    mappings_.put(address, {std::min(size - 1, UINT64_MAX - address) + 1, file_offset, std::move(object)});
}

void Symbols::unmap(uint64_t address, uint64_t size) { mappings_.erase(address, size); }

void Symbols::remap(uint64_t address, uint64_t size, uint64_t new_address, uint64_t new_size) {
  const auto moved = mappings_.cut_out(address, size);
  if (size != 0) mappings_.erase(new_address, new_size);
  for (const auto& [start, mapping] : moved) {
    const uint64_t inside = start - address;
    if (inside >= new_size) break;
    // A file mapping that grows shows more of its file.
    const bool whole = mapping.size == size;
    map(new_address + inside, whole ? new_size : std::min(mapping.size, new_size - inside), mapping.object,
        mapping.file_offset);
  }
}

Location Symbols::find(uint64_t address) const {
  const auto it = mappings_.find(address);
  if (it == mappings_.end()) return {};
  const uint64_t inside = address - it->first;
  const Mapping& mapping = it->second;
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
