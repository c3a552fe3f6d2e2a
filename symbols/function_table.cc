#include "symbols/function_table.h"

#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>

namespace aftercheck::symbols {
namespace {

// Longer names are shown as they stand in the file.
constexpr size_t kLongestMangled = 4096;

// As debuggers name entries of the procedure linkage table.
constexpr const char* kLinkageMark = "@plt";

std::string demangle(const std::string& name) {
  if (!name.starts_with("_Z") || name.size() > kLongestMangled) return name;
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(
      abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), &std::free);
  return status == 0 && text != nullptr ? text.get() : name;
}

struct Section {
  Elf_Scn* section = nullptr;
  GElf_Shdr header{};
};

// The section with this number; nothing where the file has none.
Section section_of(Elf* elf, size_t index) {
  Section found;
  found.section = elf_getscn(elf, index);
  if (found.section != nullptr && gelf_getshdr(found.section, &found.header) == nullptr)
    found.section = nullptr;
  return found;
}

// Global names first, then weak, then local ones.
uint8_t rank_of(const GElf_Sym& symbol) {
  switch (GELF_ST_BIND(symbol.st_info)) {
    case STB_GLOBAL:
      return 0;
    case STB_WEAK:
      return 1;
    default:
      return 2;
  }
}

// Does a jump through a slot of the global offset table stand here, and where is the slot? An entry may begin
// with ENDBR64 and a BND prefix.
std::optional<uint64_t> linkage_slot(const uint8_t* code, size_t size, uint64_t address) {
  size_t at = 0;
  constexpr uint8_t endbr64[] = {0xf3, 0x0f, 0x1e, 0xfa};
  if (size >= sizeof endbr64 && std::memcmp(code, endbr64, sizeof endbr64) == 0) at += sizeof endbr64;
  if (at < size && code[at] == 0xf2) ++at;
  if (at + 6 > size || code[at] != 0xff || code[at + 1] != 0x25) return std::nullopt;  // JMP [RIP + disp32]
  int32_t distance;
  std::memcpy(&distance, code + at + 2, sizeof distance);
  return address + at + 6 + static_cast<uint64_t>(static_cast<int64_t>(distance));
}

// Slots of the global offset table with the names of the functions that they lead to.
std::map<uint64_t, std::string> linkage_slots(Elf* elf) {
  std::map<uint64_t, std::string> slots;
  for (Elf_Scn* scn = nullptr; (scn = elf_nextscn(elf, scn)) != nullptr;) {
    GElf_Shdr header;
    if (gelf_getshdr(scn, &header) == nullptr || header.sh_type != SHT_RELA || header.sh_entsize == 0)
      continue;
    const Section symbols = section_of(elf, header.sh_link);
    Elf_Data* const data = elf_getdata(scn, nullptr);
    Elf_Data* const symbol_data =
        symbols.section != nullptr ? elf_getdata(symbols.section, nullptr) : nullptr;
    if (data == nullptr || symbol_data == nullptr || symbols.header.sh_type != SHT_DYNSYM) continue;
    GElf_Rela entry;
    for (int i = 0; gelf_getrela(data, i, &entry) != nullptr; ++i) {
      const auto type = GELF_R_TYPE(entry.r_info);
      if (type != R_X86_64_JUMP_SLOT && type != R_X86_64_GLOB_DAT) continue;
      GElf_Sym symbol;
      if (gelf_getsym(symbol_data, static_cast<int>(GELF_R_SYM(entry.r_info)), &symbol) == nullptr) continue;
      const char* name = elf_strptr(elf, symbols.header.sh_link, symbol.st_name);
      if (name != nullptr && *name != '\0') slots.emplace(entry.r_offset, name);
    }
  }
  return slots;
}

}  // namespace

void FunctionTable::add(Elf* elf) {
  for (Elf_Scn* scn = nullptr; (scn = elf_nextscn(elf, scn)) != nullptr;) {
    GElf_Shdr header;
    if (gelf_getshdr(scn, &header) == nullptr) continue;
    if (header.sh_type == SHT_SYMTAB || header.sh_type == SHT_DYNSYM) add_symbols(elf, scn, header);
  }
  GElf_Ehdr header;
  if (gelf_getehdr(elf, &header) != nullptr && header.e_machine == EM_X86_64) add_linkage_table(elf);
}

void FunctionTable::add_symbols(Elf* elf, Elf_Scn* section, const GElf_Shdr& header) {
  Elf_Data* const data = elf_getdata(section, nullptr);
  if (data == nullptr || header.sh_entsize == 0) return;
  GElf_Sym symbol;
  for (int i = 0; gelf_getsym(data, i, &symbol) != nullptr; ++i) {
    const auto type = GELF_ST_TYPE(symbol.st_info);
    if (type != STT_FUNC && type != STT_GNU_IFUNC && type != STT_NOTYPE) continue;
    if (symbol.st_shndx == SHN_UNDEF || symbol.st_shndx >= SHN_LORESERVE || symbol.st_name == 0) continue;
    const Section home = section_of(elf, symbol.st_shndx);
    if (home.section == nullptr || (home.header.sh_flags & SHF_EXECINSTR) == 0) continue;
    const uint64_t limit = home.header.sh_addr + home.header.sh_size;
    if (symbol.st_value < home.header.sh_addr || symbol.st_value >= limit) continue;
    const char* name = elf_strptr(elf, header.sh_link, symbol.st_name);
    if (name == nullptr || *name == '\0') continue;
    Entry entry;
    entry.function = {symbol.st_value, std::min(symbol.st_size, limit - symbol.st_value), name};
    entry.limit = limit;
    entry.sized = symbol.st_size != 0;
    // Assembler's labels come last.
    entry.rank = static_cast<uint8_t>(rank_of(symbol) + (type == STT_NOTYPE ? 4 : 0));
    entries_.push_back(std::move(entry));
  }
}

void FunctionTable::add_linkage_table(Elf* elf) {
  size_t names = 0;
  if (elf_getshdrstrndx(elf, &names) != 0) return;
  const auto slots = linkage_slots(elf);
  if (slots.empty()) return;
  for (Elf_Scn* scn = nullptr; (scn = elf_nextscn(elf, scn)) != nullptr;) {
    GElf_Shdr header;
    if (gelf_getshdr(scn, &header) == nullptr || header.sh_type != SHT_PROGBITS) continue;
    const char* name = elf_strptr(elf, names, header.sh_name);
    if (name == nullptr || !std::string_view(name).starts_with(".plt")) continue;
    Elf_Data* const data = elf_getdata(scn, nullptr);
    if (data == nullptr || data->d_buf == nullptr) continue;
    const auto* code = static_cast<const uint8_t*>(data->d_buf);
    const size_t step = header.sh_entsize == 8 ? 8 : 16;
    for (size_t at = 0; at + step <= data->d_size; at += step) {
      const auto slot = linkage_slot(code + at, step, header.sh_addr + at);
      const auto found = slot ? slots.find(*slot) : slots.end();
      if (found == slots.end()) continue;
      Entry entry;
      entry.function = {header.sh_addr + at, step, demangle(found->second) + kLinkageMark};
      entry.limit = header.sh_addr + at + step;
      entry.sized = entry.demangled = true;
      entries_.push_back(std::move(entry));
    }
  }
}

void FunctionTable::finish() {
  std::stable_sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
    if (a.function.address != b.function.address) return a.function.address < b.function.address;
    return a.rank != b.rank ? a.rank < b.rank : a.sized > b.sized;
  });
  const auto same = [](const Entry& a, const Entry& b) { return a.function.address == b.function.address; };
  entries_.erase(std::unique(entries_.begin(), entries_.end(), same), entries_.end());
  // A symbol without a size reaches up to the next one.
  for (size_t i = 0; i < entries_.size(); ++i) {
    Entry& entry = entries_[i];
    if (entry.sized) continue;
    uint64_t end = entry.limit;
    if (i + 1 < entries_.size()) end = std::min(end, entries_[i + 1].function.address);
    entry.function.size = end - entry.function.address;
  }
  entries_.shrink_to_fit();
}

const Function* FunctionTable::show(Entry& entry) {
  if (!entry.demangled) {
    entry.function.name = demangle(entry.function.name);
    entry.demangled = true;
  }
  return &entry.function;
}

const Function* FunctionTable::at(uint64_t address) {
  auto it = std::upper_bound(entries_.begin(), entries_.end(), address,
                             [](uint64_t a, const Entry& entry) { return a < entry.function.address; });
  // A function may lie around others (a label inside it): look at a few before.
  constexpr int kLookBack = 8;
  for (int i = 0; i < kLookBack && it != entries_.begin(); ++i) {
    --it;
    if (address - it->function.address < it->function.size) return show(*it);
  }
  return nullptr;
}

std::vector<const Function*> FunctionTable::named(const std::string& name) {
  // With its parameters left out; the parts that a compiler made of a function, and calls to it, are not
  // meant.
  const auto stands_for = [&name](const std::string& shown) {
    if (shown == name) return true;
    return shown.starts_with(name + "(") && !shown.ends_with(kLinkageMark) && !shown.ends_with(']');
  };
  std::vector<const Function*> found;
  for (Entry& entry : entries_)
    if (stands_for(show(entry)->name)) found.push_back(&entry.function);
  return found;
}

}  // namespace aftercheck::symbols
