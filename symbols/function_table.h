// Functions of an ELF file by address, from its symbol tables. Internal to symbols.
#pragma once

#include <gelf.h>

#include <vector>

#include "symbols/object.h"

namespace aftercheck::symbols {

class FunctionTable {
 public:
  // Adds the functions of .symtab and .dynsym, and names the entries of procedure linkage tables. Damaged
  // tables give fewer functions, never an error.
  void add(Elf* elf);
  // Call once behind the last add().
  void finish();

  const Function* at(uint64_t address);
  std::vector<const Function*> named(const std::string& name);

 private:
  struct Entry {
    Function function;
    uint64_t limit = 0;  // nothing behind this belongs to it
    uint8_t rank = 0;    // which of several at one address names it best: the lowest
    bool sized = false;  // the table gives its size
    bool demangled = false;
  };
  void add_symbols(Elf* elf, Elf_Scn* section, const GElf_Shdr& header);
  void add_linkage_table(Elf* elf);
  static const Function* show(Entry& entry);

  std::vector<Entry> entries_;  // by address
};

}  // namespace aftercheck::symbols
