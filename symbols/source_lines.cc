#include "symbols/source_lines.h"

#include <dwarf.h>

#include <algorithm>
#include <filesystem>
#include <memory>

namespace aftercheck::symbols {
namespace {

// As deep as scopes may be nested: no compiler comes near it, a forged file may.
constexpr size_t kDeepest = 256;

// Appends the scopes below `parent` that have code at `address`, outermost first. (dwarf_getscopes() passes
// by what is within a namespace, where clang has its functions.)
bool append_scopes(Dwarf_Die* parent, Dwarf_Addr address, size_t depth, std::vector<Dwarf_Die>& scopes) {
  Dwarf_Die child;
  if (depth == kDeepest || dwarf_child(parent, &child) != 0) return false;
  do {
    switch (dwarf_tag(&child)) {
      case DW_TAG_namespace:
      case DW_TAG_module:
        if (append_scopes(&child, address, depth + 1, scopes)) return true;
        break;
      case DW_TAG_subprogram:
      case DW_TAG_inlined_subroutine:
      case DW_TAG_lexical_block:
      case DW_TAG_with_stmt:
      case DW_TAG_try_block:
      case DW_TAG_catch_block:
        if (dwarf_haspc(&child, address) <= 0) break;
        scopes.push_back(child);
        append_scopes(&child, address, depth + 1, scopes);
        return true;
      default:
        break;
    }
  } while (dwarf_siblingof(&child, &child) == 0);
  return false;
}

std::string name_of(Dwarf_Die* die) {
  const char* name = dwarf_diename(die);  // follows DW_AT_abstract_origin
  return name != nullptr ? name : "";
}

}  // namespace

SourceLines::SourceLines(Elf* elf) : dwarf_(dwarf_begin_elf(elf, DWARF_C_READ, nullptr)) {}

SourceLines::~SourceLines() {
  if (dwarf_ != nullptr) dwarf_end(dwarf_);
}

bool SourceLines::any() {
  index();
  return !units_.empty();
}

void SourceLines::index() {
  if (indexed_ || dwarf_ == nullptr) return;
  indexed_ = true;
  Dwarf_CU* unit = nullptr;
  Dwarf_Die die;
  while (dwarf_get_units(dwarf_, unit, &unit, nullptr, nullptr, &die, nullptr) == 0) {
    if (dwarf_tag(&die) != DW_TAG_compile_unit) continue;
    const Dwarf_Off offset = dwarf_dieoffset(&die);
    units_.push_back(offset);
    Dwarf_Addr base = 0, first = 0, last = 0;
    for (ptrdiff_t at = 0; (at = dwarf_ranges(&die, at, &base, &first, &last)) > 0;)
      if (first < last) ranges_.push_back({first, last - 1, offset});
  }
  std::sort(ranges_.begin(), ranges_.end(),
            [](const UnitRange& a, const UnitRange& b) { return a.first < b.first; });
}

bool SourceLines::unit_of(uint64_t address, Dwarf_Die& unit) {
  index();
  const auto it = std::upper_bound(ranges_.begin(), ranges_.end(), address,
                                   [](uint64_t a, const UnitRange& range) { return a < range.first; });
  if (it == ranges_.begin() || address > (it - 1)->last) return false;
  return dwarf_offdie(dwarf_, (it - 1)->unit, &unit) != nullptr;
}

SourceLine SourceLines::source_line(Dwarf_Die* unit, const char* file, int line) {
  if (file == nullptr || line <= 0) return {};
  const std::string*& known = by_pointer_[file];
  if (known == nullptr) {
    std::filesystem::path path(file);
    Dwarf_Attribute attribute;
    if (path.is_relative())
      if (const char* directory = dwarf_formstring(dwarf_attr(unit, DW_AT_comp_dir, &attribute)))
        path = directory / path;
    const std::string text = path.lexically_normal().string();
    auto& kept = files_[text];
    if (kept == nullptr) kept = std::make_unique<std::string>(text);
    known = kept.get();
  }
  return {known, static_cast<uint32_t>(line)};
}

SourceLine SourceLines::line_at(uint64_t address) {
  Dwarf_Die unit;
  if (!unit_of(address, unit)) return {};
  Dwarf_Line* const found = dwarf_getsrc_die(&unit, address);
  int line = 0;
  if (found == nullptr || dwarf_lineno(found, &line) != 0) return {};
  return source_line(&unit, dwarf_linesrc(found, nullptr, nullptr), line);
}

// Where an inlined function was called.
SourceLine SourceLines::call_site(Dwarf_Die* inlined, Dwarf_Die* unit) {
  Dwarf_Attribute attribute;
  Dwarf_Word file = 0, line = 0;
  Dwarf_Files* files = nullptr;
  size_t count = 0;
  if (dwarf_formudata(dwarf_attr(inlined, DW_AT_call_file, &attribute), &file) != 0 ||
      dwarf_formudata(dwarf_attr(inlined, DW_AT_call_line, &attribute), &line) != 0 ||
      dwarf_getsrcfiles(unit, &files, &count) != 0 || file >= count || line > INT32_MAX)
    return {};
  return source_line(unit, dwarf_filesrc(files, file, nullptr, nullptr), static_cast<int>(line));
}

std::vector<Frame> SourceLines::frames_at(uint64_t address) {
  Dwarf_Die unit;
  if (!unit_of(address, unit)) return {};
  std::vector<Dwarf_Die> scopes;
  append_scopes(&unit, address, 0, scopes);
  std::vector<Frame> frames;
  SourceLine here = line_at(address);
  for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope) {
    Dwarf_Die* const die = &*scope;
    const int tag = dwarf_tag(die);
    if (tag != DW_TAG_inlined_subroutine && tag != DW_TAG_subprogram) continue;
    const bool inlined = tag == DW_TAG_inlined_subroutine;
    frames.push_back({name_of(die), here, inlined});
    if (!inlined) break;
    here = call_site(die, &unit);
  }
  if (!frames.empty()) frames.back().inlined = false;
  return frames;
}

void SourceLines::for_each_line(const std::function<void(uint64_t, const SourceLine&)>& visit) {
  index();
  for (const Dwarf_Off offset : units_) {
    Dwarf_Die unit;
    Dwarf_Lines* lines = nullptr;
    size_t count = 0;
    if (dwarf_offdie(dwarf_, offset, &unit) == nullptr || dwarf_getsrclines(&unit, &lines, &count) != 0)
      continue;
    for (size_t i = 0; i < count; ++i) {
      Dwarf_Line* const at = dwarf_onesrcline(lines, i);
      Dwarf_Addr address = 0;
      int line = 0;
      bool is_end = false, is_statement = false;
      if (at == nullptr || dwarf_lineaddr(at, &address) != 0 || dwarf_lineno(at, &line) != 0 ||
          dwarf_lineendsequence(at, &is_end) != 0 || dwarf_linebeginstatement(at, &is_statement) != 0)
        continue;
      if (is_end || !is_statement) continue;
      const SourceLine source = source_line(&unit, dwarf_linesrc(at, nullptr, nullptr), line);
      if (source.file != nullptr) visit(address, source);
    }
  }
}

}  // namespace aftercheck::symbols
