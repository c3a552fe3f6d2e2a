#include "checks/check_sites.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include "base/elf_headers.h"
#include "vassert-hooks/include/vassert_format.h"

namespace aftercheck {
namespace {

// More than any real program has; a hostile one gets no further.
constexpr uint64_t kMostHeaders = 256, kMostNotes = 64 << 10, kMostEntries = 1 << 20, kLongestString = 4096;
constexpr size_t kMostSites = 1 << 20;
constexpr std::array<uint8_t, VASSERT_NOP_SIZE> kNop = {VASSERT_NOP_BYTES};

uint64_t align(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

bool overlap(Range a, Range b) { return a.start < b.end && b.start < a.end; }

}  // namespace

// The parts of an ELF header that matter here, addresses as they are in the guest.
struct SiteTables::Header {
  Range range;                    // of all segments
  std::vector<Elf64_Phdr> notes;  // p_vaddr: in the guest
};

bool SiteTables::read(uint64_t address, void* destination, size_t size) const {
  if (!space_.accessible(address, size, PROT_READ) || !space_.read(address, destination, size)) return false;
  breakpoints_.restore_original(address, {static_cast<std::byte*>(destination), size});
  return true;
}

std::optional<std::string> SiteTables::read_string(uint64_t address) const {
  constexpr uint64_t kPart = 256;
  std::string text;
  while (text.size() < kLongestString) {
    const uint64_t at = address + text.size();
    std::array<char, kPart> part{};
    const uint64_t size = std::min(kPart, page_down(at) + kPageSize - at);
    if (!read(at, part.data(), size)) return std::nullopt;
    const auto* end = static_cast<const char*>(std::memchr(part.data(), 0, size));
    text.append(part.data(), end != nullptr ? static_cast<size_t>(end - part.data()) : size);
    if (end != nullptr) return text;
  }
  return std::nullopt;
}

std::optional<SiteTables::Header> SiteTables::read_header(const Mapping& first) const {
  const auto read_all = [&](uint64_t offset, std::span<std::byte> bytes) -> size_t {
    const bool inside = offset <= first.end - first.start;
    return inside && read(first.start + offset, bytes.data(), bytes.size()) ? bytes.size() : 0;
  };
  ElfHeaders elf = read_elf_headers(read_all, kMostHeaders);
  if (!elf.complete()) return std::nullopt;
  std::vector<Elf64_Phdr>& segments = elf.segments;
  const auto starts_file = [](const Elf64_Phdr& segment) {
    return segment.p_type == PT_LOAD && page_down(segment.p_offset) == 0;
  };
  const auto base = std::find_if(segments.begin(), segments.end(), starts_file);
  if (base == segments.end()) return std::nullopt;
  const uint64_t bias = first.start - page_down(base->p_vaddr);
  Header header;
  header.range = {first.start, first.end};
  for (Elf64_Phdr& segment : segments) {
    segment.p_vaddr += bias;
    const uint64_t end = segment.p_vaddr + segment.p_memsz;
    if (segment.p_type == PT_LOAD && segment.p_vaddr >= first.start && end >= segment.p_vaddr &&
        in_windows(segment.p_vaddr, segment.p_memsz))
      header.range.end = std::max(header.range.end, page_up(end));
    if (segment.p_type == PT_NOTE) header.notes.push_back(segment);
  }
  return header;
}

SiteTables::Layout SiteTables::layout_of(const Mapping& first) const {
  Layout layout;
  const auto header = read_header(first);
  if (!header) return layout;
  const auto& mappings = space_.mappings();
  for (auto it = mappings.find(first.start); it != mappings.end() && it->first < header->range.end; ++it)
    layout.push_back({it->first, it->second.end, static_cast<uint64_t>(it->second.prot), it->second.offset});
  return layout;
}

std::optional<SiteModule> SiteTables::read_module(const Mapping& first) {
  const auto header = read_header(first);
  if (!header) return std::nullopt;
  SiteModule module;
  module.name = first.name;
  module.range = header->range;
  for (const Elf64_Phdr& segment : header->notes) {
    const uint64_t size = std::min<uint64_t>(segment.p_memsz, kMostNotes);
    std::vector<std::byte> notes(size);
    if (!read(segment.p_vaddr, notes.data(), size)) continue;
    // Eight only for GNU properties; binutils, elf/common.h.
    const uint64_t alignment = segment.p_align == 8 ? 8 : 4;
    for (uint64_t at = 0; at + sizeof(Elf64_Nhdr) <= size;) {
      Elf64_Nhdr note{};
      std::memcpy(&note, &notes[at], sizeof note);
      const uint64_t name = at + sizeof note, descriptor = align(name + note.n_namesz, alignment);
      at = align(descriptor + note.n_descsz, alignment);
      if (descriptor + note.n_descsz > size) break;
      if (note.n_type == VASSERT_NOTE_TYPE && note.n_namesz == sizeof VASSERT_NOTE_NAME &&
          std::memcmp(&notes[name], VASSERT_NOTE_NAME, sizeof VASSERT_NOTE_NAME) == 0)
        read_note(module, segment.p_vaddr + descriptor, note.n_descsz);
    }
  }
  if (module.places.empty()) return std::nullopt;
  return module;
}

void SiteTables::read_note(SiteModule& module, uint64_t descriptor, uint64_t size) {
  vassert_note note{};
  if (size < VASSERT_NOTE_MIN_SIZE || !read(descriptor, &note, VASSERT_NOTE_MIN_SIZE)) return;
  const auto place = [&](int64_t start, int64_t end) {
    return Range{descriptor + static_cast<uint64_t>(start), descriptor + static_cast<uint64_t>(end)};
  };
  const auto inside = [&](Range range) {
    return range.start < range.end && range.start >= module.range.start && range.end <= module.range.end;
  };
  const Range table = place(note.sites_start, note.sites_end),
              ghosts = place(note.ghost_start, note.ghost_end);
  if (inside(ghosts) && std::find(module.ghosts.begin(), module.ghosts.end(), ghosts) == module.ghosts.end())
    module.ghosts.push_back(ghosts);
  if (size >= VASSERT_NOTE_CONTROL_SIZE && read(descriptor, &note, VASSERT_NOTE_CONTROL_SIZE)) {
    constexpr int64_t kVectors = VASSERT_CONTROL_VECTORS, kWord = sizeof(uint32_t);
    const Range control = place(note.control, note.control + kVectors + kWord);
    uint32_t version = 0;
    if (inside(control) && read(control.start, &version, sizeof version) &&
        version == VASSERT_CONTROL_VERSION)
      module.vectors.push_back(control.start + kVectors);
  }
  if (inside(table)) read_table(module, table);
}

void SiteTables::read_table(SiteModule& module, Range table) {
  const uint64_t count = std::min(table.size() / sizeof(vassert_entry), kMostEntries);
  std::vector<vassert_entry> entries(count);
  if (!read(table.start, entries.data(), count * sizeof(vassert_entry))) return;
  for (uint64_t i = 0; i < count; ++i) {
    const vassert_entry& entry = entries[i];
    const uint64_t address = table.start + i * sizeof entry;
    const uint64_t site =
        address + offsetof(vassert_entry, site) + static_cast<uint64_t>(int64_t{entry.site});
    const uint64_t check =
        address + offsetof(vassert_entry, check) + static_cast<uint64_t>(int64_t{entry.check});
    std::array<uint8_t, kNop.size()> code{};
    if (entry.version != VASSERT_VERSION || module.places.contains(site) ||
        !space_.accessible(site, code.size(), PROT_EXEC) || !space_.accessible(check, 1, PROT_EXEC) ||
        !read(site, code.data(), code.size()) || code != kNop)
      continue;
    if (const auto number = number_of(address, &entry))
      module.places.emplace(site, SitePlace{*number, check});
  }
}

std::optional<uint32_t> SiteTables::number_of(uint64_t entry_address, const void* bytes) {
  vassert_entry entry{};
  std::memcpy(&entry, bytes, sizeof entry);
  const auto text_at = [&](int32_t offset, size_t field) {
    return read_string(entry_address + field + static_cast<uint64_t>(int64_t{offset})).value_or("?");
  };
  SiteText text{text_at(entry.file, offsetof(vassert_entry, file)),
                text_at(entry.text, offsetof(vassert_entry, text)),
                text_at(entry.function, offsetof(vassert_entry, function)), entry.line, entry.kind};
  if (const auto known = numbers_.find(text); known != numbers_.end()) return known->second;
  if (sites_.size() == kMostSites) return std::nullopt;
  const auto number = static_cast<uint32_t>(sites_.size());
  sites_.push_back(text);
  numbers_.emplace(std::move(text), number);
  return number;
}

// Most changes of mappings are the heap's.
bool SiteTables::concerns(const std::vector<recording::SpaceOp>& changes) const {
  using recording::SpaceOpKind;
  return std::any_of(changes.begin(), changes.end(), [&](const recording::SpaceOp& op) {
    if (!changes_mappings(op.kind)) return false;
    if (op.kind == SpaceOpKind::map_blob || op.kind == SpaceOpKind::clear) return true;
    const Range first{op.address, op.address + op.length},
        second{op.new_address, op.new_address + op.new_length};
    return std::any_of(layouts_.begin(), layouts_.end(), [&](const auto& known) {
      const Range module{known.first,
                         known.second.empty() ? known.first + kPageSize : known.second.back()[1]};
      return overlap(module, first) || (op.kind == SpaceOpKind::remap && overlap(module, second));
    });
  });
}

bool SiteTables::update(const std::vector<recording::SpaceOp>& changes) {
  if (!concerns(changes)) return false;
  bool changed = false;
  std::set<uint64_t> seen;
  for (const auto& [start, mapping] : space_.mappings()) {
    if (mapping.backing != Backing::file || mapping.offset != 0 || mapping.prot == PROT_NONE) continue;
    seen.insert(start);
    Layout layout = layout_of(mapping);
    const auto known = layouts_.find(start);
    // What was mapped anew has its old layout but lost its breakpoints.
    const bool same = known != layouts_.end() && known->second == layout;
    const auto module_there = modules_.find(start);
    const bool replaced = module_there != modules_.end() &&
                          std::any_of(changes.begin(), changes.end(), [&](const recording::SpaceOp& op) {
                            return op.kind != recording::SpaceOpKind::protect && changes_mappings(op.kind) &&
                                   overlap(module_there->second.range, {op.address, op.address + op.length});
                          });
    if (same && !replaced) continue;
    layouts_[start] = std::move(layout);
    changed = modules_.erase(start) != 0 || changed;
    if (std::optional<SiteModule> module = read_module(mapping)) {
      modules_.emplace(start, std::move(*module));
      changed = true;
    }
  }
  changed = std::erase_if(modules_, [&](const auto& m) { return !seen.contains(m.first); }) != 0 || changed;
  std::erase_if(layouts_, [&](const auto& l) { return !seen.contains(l.first); });
  return changed;
}

}  // namespace aftercheck
