// Where the guest's VAsserts are: the tables of all modules that are mapped at the moment.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "machine/address_space.h"
#include "machine/breakpoints.h"
#include "recording/event.h"

namespace aftercheck {

// What the table says of a site. Equal ones (inlined or duplicated code, a module mapped twice) are one site.
struct SiteText {
  std::string file, text, function;  // all as the program has them: any bytes
  uint32_t line = 0, kind = 0;       // enum vassert_kind

  // Not the function: instances of a template differ in it.
  friend bool operator<(const SiteText& a, const SiteText& b) {
    return std::tie(a.file, a.line, a.kind, a.text) < std::tie(b.file, b.line, b.kind, b.text);
  }
};

// One place of a site in the guest.
struct SitePlace {
  uint32_t site = 0;  // number of its SiteText
  uint64_t check = 0;
};

// A mapped file that has VAsserts.
struct SiteModule {
  std::string name;
  Range range;                                     // of its mappings
  std::vector<Range> ghosts;                       // its ghost variables
  std::vector<uint64_t> vectors;                   // where it says which vector registers checks have to keep
  std::unordered_map<uint64_t, SitePlace> places;  // by the address of the NOP
};

// Trusts nothing: the guest's memory may hold anything.
class SiteTables {
 public:
  // `breakpoints` are those in `space`'s memory.
  SiteTables(const AddressSpace& space, const Breakpoints& breakpoints)
      : space_(space), breakpoints_(breakpoints) {}

  // Looks again, if these changes of mappings may have changed anything. True when some module came or went;
  // a module that was mapped anew went and came.
  bool update(const std::vector<recording::SpaceOp>& changes);

  // By address.
  const std::map<uint64_t, SiteModule>& modules() const { return modules_; }
  // All sites ever seen, by number.
  const std::vector<SiteText>& sites() const { return sites_; }

 private:
  // What a module's mappings are made of; while that stays, so does the module.
  using Layout = std::vector<std::array<uint64_t, 4>>;
  struct Header;

  const AddressSpace& space_;
  const Breakpoints& breakpoints_;
  std::map<uint64_t, SiteModule> modules_;
  std::map<uint64_t, Layout> layouts_;  // of everything that looks like a module
  std::vector<SiteText> sites_;
  std::map<SiteText, uint32_t> numbers_;

  bool concerns(const std::vector<recording::SpaceOp>& changes) const;
  bool read(uint64_t address, void* destination, size_t size) const;
  std::optional<std::string> read_string(uint64_t address) const;
  std::optional<Header> read_header(const Mapping& first) const;
  Layout layout_of(const Mapping& first) const;
  std::optional<SiteModule> read_module(const Mapping& first);
  void read_note(SiteModule& module, uint64_t descriptor, uint64_t size);
  void read_table(SiteModule& module, Range table);
  std::optional<uint32_t> number_of(uint64_t entry_address, const void* entry);
};

}  // namespace aftercheck
