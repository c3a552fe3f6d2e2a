// Lines and inlined frames of one file, through libdw. Internal to symbols.
#pragma once

#include <elfutils/libdw.h>

#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "symbols/object.h"

namespace aftercheck::symbols {

class SourceLines {
 public:
  // `elf` outlives this.
  explicit SourceLines(Elf* elf);
  ~SourceLines();
  SourceLines(const SourceLines&) = delete;
  SourceLines& operator=(const SourceLines&) = delete;

  // The file has lines at all.
  bool any();
  SourceLine line_at(uint64_t address);
  std::vector<Frame> frames_at(uint64_t address);
  void for_each_line(const std::function<void(uint64_t, const SourceLine&)>& visit);

 private:
  // Where the code of a compilation unit is. libdw's own index needs .debug_aranges, which clang doesn't
  // write.
  struct UnitRange {
    uint64_t first, last;
    Dwarf_Off unit;
  };
  void index();
  bool unit_of(uint64_t address, Dwarf_Die& unit);
  SourceLine source_line(Dwarf_Die* unit, const char* file, int line);
  SourceLine call_site(Dwarf_Die* inlined, Dwarf_Die* unit);

  Dwarf* dwarf_;
  bool indexed_ = false;
  std::vector<UnitRange> ranges_;
  std::vector<Dwarf_Off> units_;
  std::unordered_map<std::string, std::unique_ptr<std::string>> files_;
  // libdw gives the same pointer for the same file of a unit.
  std::unordered_map<const char*, const std::string*> by_pointer_;
};

}  // namespace aftercheck::symbols
