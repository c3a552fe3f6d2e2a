// The table of sites and its note, as a replayer finds them: in the file, and in a running process without
// section headers.
#include <elf.h>
#include <link.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "library.h"
#include "vassert.h"

namespace {

constexpr unsigned char kNop[] = {VASSERT_NOP_BYTES};

VASSERT_GHOST int a_ghost = 7;

[[gnu::noinline]] int with_sites(int x) {
  VASSERT(x % 2 == 0 && "as written");
  VASSERT_MSG(x > 1, "x is %d", x);
  VASSERT_LOG("logged %d", x);
  VASSERT_BLOCK {
    VASSERT(x != 4);
    a_ghost++;
  }
  return x;
}

std::vector<char> own_file() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <class T>
T at(const std::vector<char>& file, size_t offset) {
  REQUIRE(offset + sizeof(T) <= file.size());
  T value;
  std::memcpy(&value, file.data() + offset, sizeof value);
  return value;
}

// The file's bytes by virtual address, from the program headers.
struct image {
  std::vector<char> file = own_file();
  size_t offset_of(uint64_t address) const {
    auto header = at<Elf64_Ehdr>(file, 0);
    for (int i = 0; i < header.e_phnum; i++) {
      auto segment = at<Elf64_Phdr>(file, header.e_phoff + i * sizeof(Elf64_Phdr));
      if (segment.p_type == PT_LOAD && address >= segment.p_vaddr &&
          address < segment.p_vaddr + segment.p_filesz) {
        return address - segment.p_vaddr + segment.p_offset;
      }
    }
    FAIL("no segment has address " << address);
    return 0;
  }
  std::string string_at(uint64_t address) const { return file.data() + offset_of(address); }
};

Elf64_Shdr section(const std::vector<char>& file, const char* name) {
  auto header = at<Elf64_Ehdr>(file, 0);
  auto names = at<Elf64_Shdr>(file, header.e_shoff + header.e_shstrndx * sizeof(Elf64_Shdr));
  for (int i = 0; i < header.e_shnum; i++) {
    auto candidate = at<Elf64_Shdr>(file, header.e_shoff + i * sizeof(Elf64_Shdr));
    if (std::strcmp(file.data() + names.sh_offset + candidate.sh_name, name) == 0) return candidate;
  }
  FAIL("no section " << name);
  return {};
}

struct loaded_note {
  std::string module;
  const char* desc;
  vassert_note note;
};

std::vector<loaded_note> loaded_notes() {
  std::vector<loaded_note> found;
  auto collect = [](dl_phdr_info* info, size_t, void* context) {
    for (int i = 0; i < info->dlpi_phnum; i++) {
      const auto& segment = info->dlpi_phdr[i];
      if (segment.p_type != PT_NOTE) continue;
      auto* start = reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr);
      // vassert's header is 12 bytes and its name 8
      for (const char* p = start; p + 20 <= start + segment.p_memsz; p += 4) {
        Elf64_Nhdr header;
        std::memcpy(&header, p, sizeof header);
        if (header.n_type != VASSERT_NOTE_TYPE || header.n_namesz != sizeof VASSERT_NOTE_NAME ||
            std::memcmp(p + 12, VASSERT_NOTE_NAME, 8) != 0) {
          continue;
        }
        loaded_note note{info->dlpi_name, p + 20, {}};
        std::memcpy(&note.note, note.desc, sizeof note.note);
        static_cast<std::vector<loaded_note>*>(context)->push_back(note);
      }
    }
    return 0;
  };
  dl_iterate_phdr(collect, &found);
  return found;
}

TEST_CASE("The file's table names every site, its check and its text") {
  image exe;
  auto table = section(exe.file, VASSERT_SECTION);
  CHECK(table.sh_flags & SHF_ALLOC);
  CHECK(!(table.sh_flags & SHF_WRITE));
  REQUIRE(table.sh_size % sizeof(vassert_entry) == 0);
  auto text = section(exe.file, ".text");
  std::map<std::string, unsigned> kinds;
  for (uint64_t offset = 0; offset < table.sh_size; offset += sizeof(vassert_entry)) {
    auto entry = at<vassert_entry>(exe.file, table.sh_offset + offset);
    uint64_t address = table.sh_addr + offset;
    CHECK(entry.version == VASSERT_VERSION);
    uint64_t site = address + offsetof(vassert_entry, site) + entry.site;
    uint64_t check = address + offsetof(vassert_entry, check) + entry.check;
    REQUIRE(site >= text.sh_addr);
    REQUIRE(site < text.sh_addr + text.sh_size);
    CHECK(check >= text.sh_addr);
    CHECK(check < text.sh_addr + text.sh_size);
    CHECK(std::memcmp(exe.file.data() + exe.offset_of(site), kNop, sizeof kNop) == 0);
    auto field = [&](size_t member, int32_t value) { return exe.string_at(address + member + value); };
    if (field(offsetof(vassert_entry, file), entry.file) != __FILE__) continue;
    CHECK(entry.line > 20);
    auto function = field(offsetof(vassert_entry, function), entry.function);
    CHECK((function == "with_sites" || (function.empty() && entry.kind == VASSERT_KIND_BLOCK)));
    kinds[field(offsetof(vassert_entry, text), entry.text)] = entry.kind;
  }
  CHECK(kinds == std::map<std::string, unsigned>{{"x % 2 == 0 && \"as written\"", VASSERT_KIND_ASSERT},
                                                 {"x > 1", VASSERT_KIND_MESSAGE},
                                                 {"\"logged %d\", x", VASSERT_KIND_LOG},
                                                 {"", VASSERT_KIND_BLOCK},
                                                 {"x != 4", VASSERT_KIND_ASSERT}});
  CHECK(with_sites(3) == 3);  // no eager mode: nothing is checked
  CHECK(a_ghost == 7);
}

TEST_CASE("The note of each module leads to its table and its ghosts") {
  CHECK(library_double(1) == 2);
  image exe;
  auto table = section(exe.file, VASSERT_SECTION);
  auto ghosts = section(exe.file, VASSERT_GHOST_SECTION);
  CHECK(ghosts.sh_addralign >= 4096);
  auto notes = loaded_notes();
  REQUIRE(notes.size() >= 2);  // this program and the library
  CHECK(notes[0].note.sites_end - notes[0].note.sites_start == static_cast<int64_t>(table.sh_size));
  CHECK(notes[0].note.ghost_end - notes[0].note.ghost_start == static_cast<int64_t>(ghosts.sh_size));
  auto* ghost_start = notes[0].desc + notes[0].note.ghost_start;
  CHECK(reinterpret_cast<uintptr_t>(ghost_start) % 4096 == 0);
  CHECK(reinterpret_cast<char*>(&a_ghost) >= ghost_start);
  CHECK(reinterpret_cast<char*>(&a_ghost) < notes[0].desc + notes[0].note.ghost_end);
  bool library_seen = false;
  for (const auto& found : notes) {
    auto* entry = reinterpret_cast<const vassert_entry*>(found.desc + found.note.sites_start);
    auto* end = reinterpret_cast<const vassert_entry*>(found.desc + found.note.sites_end);
    for (; entry < end; entry++) {
      CHECK(entry->version == VASSERT_VERSION);
      auto* text = reinterpret_cast<const char*>(&entry->text) + entry->text;
      if (std::strcmp(text, "x != 13") == 0) {
        library_seen = true;
        CHECK(found.module.find("vassert_test_library") != std::string::npos);
      }
    }
  }
  CHECK(library_seen);
}

}  // namespace
