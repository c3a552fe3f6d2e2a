#include "code-scan/elf_functions.h"

#include <algorithm>
#include <array>

namespace aftercheck {
namespace {

class Collector {
 public:
  Collector(const ElfFile& file, uint64_t start, uint64_t end) : file_(file), start_(start), end_(end) {}

  ElfFunctions run() {
    for (const FrameRange& range : frame_ranges(file_)) add_range(range, result_.ranges);
    make_disjoint(result_.ranges);
    add_entry(file_.header().e_entry);
    add_symbols();
    add_dynamic();
    auto& entries = result_.entries;
    std::sort(entries.begin(), entries.end());
    entries.erase(std::unique(entries.begin(), entries.end()), entries.end());
    return std::move(result_);
  }

 private:
  void add_entry(uint64_t vaddr) {
    if (vaddr >= start_ && vaddr < end_) result_.entries.push_back(vaddr);
  }

  void add_range(FrameRange range, std::vector<FrameRange>& out) const {
    range.end = std::min(range.end, end_);
    if (range.start >= start_ && range.start < range.end) out.push_back(range);
  }

  // Sorts; of ranges with one start the longest stays; overlapping ones end where the next begins.
  static void make_disjoint(std::vector<FrameRange>& ranges) {
    std::sort(ranges.begin(), ranges.end(), [](const FrameRange& a, const FrameRange& b) {
      return a.start != b.start ? a.start < b.start : a.end > b.end;
    });
    ranges.erase(std::unique(ranges.begin(), ranges.end(),
                             [](const FrameRange& a, const FrameRange& b) { return a.start == b.start; }),
                 ranges.end());
    for (size_t i = 1; i < ranges.size(); ++i)
      ranges[i - 1].end = std::min(ranges[i - 1].end, ranges[i].start);
  }

  void add_symbols() {
    std::vector<FrameRange> sized;
    int tables = 0;
    for (const Elf64_Shdr& section : file_.sections()) {
      if (section.sh_type != SHT_SYMTAB && section.sh_type != SHT_DYNSYM) continue;
      // A file has at most one of each (gABI); more would be read only to waste our time.
      if (++tables > 2) break;
      for (const Elf64_Sym& symbol :
           file_.read_array<Elf64_Sym>(section.sh_offset, section.sh_size / sizeof(Elf64_Sym))) {
        const auto type = ELF64_ST_TYPE(symbol.st_info);
        if ((type != STT_FUNC && type != STT_GNU_IFUNC) || symbol.st_shndx == SHN_UNDEF) continue;
        add_entry(symbol.st_value);
        if (symbol.st_size <= UINT64_MAX - symbol.st_value)
          add_range({symbol.st_value, symbol.st_value + symbol.st_size, false}, sized);
      }
    }
    make_disjoint(sized);
    add_where_free(sized);
  }

  // Symbols' extents matter only where no FDE has a say: FDEs know about cold parts and landing pads.
  void add_where_free(const std::vector<FrameRange>& sized) {
    std::vector<FrameRange> merged;
    merged.reserve(result_.ranges.size() + sized.size());
    auto frame = result_.ranges.cbegin();
    const auto frames_end = result_.ranges.cend();
    for (const FrameRange& range : sized) {
      while (frame != frames_end && frame->end <= range.start) merged.push_back(*frame++);
      if (frame == frames_end || frame->start >= range.end) merged.push_back(range);
    }
    merged.insert(merged.end(), frame, frames_end);
    result_.ranges = std::move(merged);
  }

  struct Area {
    uint64_t start = 0, size = 0;
    bool contains(uint64_t vaddr) const { return vaddr >= start && vaddr - start < size; }
  };

  // Initialisers are called through tables only, and so are ifunc resolvers (which like to execute CPUID).
  void add_dynamic() {
    const auto segment = std::find_if(file_.segments().begin(), file_.segments().end(),
                                      [](const Elf64_Phdr& s) { return s.p_type == PT_DYNAMIC; });
    if (segment == file_.segments().end()) return;
    std::array<Area, 3> arrays;
    std::array<Area, 2> relocations;
    for (const auto& [tag, value] :
         file_.read_array_at<Elf64_Dyn>(segment->p_vaddr, segment->p_filesz / sizeof(Elf64_Dyn))) {
      if (tag == DT_NULL) break;
      if (tag == DT_INIT || tag == DT_FINI) add_entry(value.d_ptr);
      if (tag == DT_INIT_ARRAY) arrays[0].start = value.d_ptr;
      if (tag == DT_INIT_ARRAYSZ) arrays[0].size = value.d_val;
      if (tag == DT_FINI_ARRAY) arrays[1].start = value.d_ptr;
      if (tag == DT_FINI_ARRAYSZ) arrays[1].size = value.d_val;
      if (tag == DT_PREINIT_ARRAY) arrays[2].start = value.d_ptr;
      if (tag == DT_PREINIT_ARRAYSZ) arrays[2].size = value.d_val;
      if (tag == DT_RELA) relocations[0].start = value.d_ptr;
      if (tag == DT_RELASZ) relocations[0].size = value.d_val;
      if (tag == DT_JMPREL) relocations[1].start = value.d_ptr;
      if (tag == DT_PLTRELSZ) relocations[1].size = value.d_val;
    }
    for (const Area& array : arrays)
      for (const uint64_t function : file_.read_array_at<uint64_t>(array.start, array.size / 8))
        add_entry(function);
    for (const Area& table : relocations) {
      for (const Elf64_Rela& r :
           file_.read_array_at<Elf64_Rela>(table.start, table.size / sizeof(Elf64_Rela))) {
        const auto type = ELF64_R_TYPE(r.r_info);
        const bool initialiser =
            type == R_X86_64_RELATIVE &&
            std::any_of(arrays.begin(), arrays.end(), [&](const Area& a) { return a.contains(r.r_offset); });
        if (initialiser || type == R_X86_64_IRELATIVE) add_entry(static_cast<uint64_t>(r.r_addend));
      }
    }
  }

  const ElfFile& file_;
  uint64_t start_, end_;
  ElfFunctions result_;
};

}  // namespace

ElfFunctions elf_functions(const ElfFile& file, uint64_t start, uint64_t end) {
  return Collector(file, start, end).run();
}

}  // namespace aftercheck
