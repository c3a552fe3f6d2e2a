// Translates guest code to itself, a block at a time, and keeps what it has translated.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "machine/translated/block.h"
#include "machine/translated/code_area.h"
#include "machine/translated/code_image.h"
#include "machine/translated/image_maker.h"
#include "machine/translated/writer.h"

namespace aftercheck::translated {

// Not thread-safe, and not while its code runs, but for find_place(), which a signal handler may call that
// has interrupted its code.
class Translator {
 public:
  // `tables` are this translator's alone. `executed(page)` is called before the first block with code from
  // that page is used. `size`: bytes of each of its areas.
  Translator(AddressSpace& space, const Places& places, Tables& tables, Style style, uint64_t size,
             std::function<void(uint64_t page)> executed);

  // How a block was come to: by that exit, or from a table that did not have it. Next time at once.
  struct Way {
    std::optional<uint32_t> exit;
    std::optional<Table> table;
  };
  // The block that starts at `guest`, translated if need be. Valid until the next call of this class.
  const Block& block(uint64_t guest, const Way& way);

  // The instruction alone: goes nowhere but out. Gone with the next call of this class, and so are the paths
  // that it notes, if it is to note any.
  const Block& alone(const Instruction& instruction, bool notes);

  // What translated code notes from now on. Forgets everything.
  void set_notes(const Notes& notes);
  // Numbers of paths last until `forgets` is called.
  const Paths& paths() const { return paths_; }
  std::function<void()> forgets;

  ExitPoint exit(uint32_t number) const { return exits_.at(number); }
  Site site(uint32_t number) const { return sites_.at(number); }
  // Any area's routines will do to enter a block, or to leave without having executed anything.
  const Routines& common_routines() const { return areas_[0]->routines; }

  // No block is linked to the one that starts at `guest`, so that whoever comes there leaves translated code.
  void isolate(uint64_t guest);

  // Code in the range is no longer what it was.
  void forget(Range range);
  void read_anew() { reader_.forget(); }
  CodeReader& reader() { return reader_; }

  // Leaves all that was translated of code that lasts to other processes that execute the same program in
  // the same places; not while anything is noted.
  void leave_image(CodeImages& images, std::span<const std::byte> program);
  // Has so much been translated since it was made, or adopted or left an image, that a new one is worth
  // making?
  bool worth_sharing() const;
  // Forgets everything and goes on with that. Code is used when its pages have been found to be the same.
  // False where it is of a translator that writes other code, or was elsewhere; nothing is changed then.
  bool adopt(KeptImage image);

  // Where the code at `pc` is, if it is this translator's.
  struct Place {
    enum class Kind : uint8_t { enter, leave, block, elsewhere } kind = Kind::elsewhere;
    const Routines* routines = nullptr;
    const Mark* mark = nullptr;    // block: the last one at or before `pc`; null where there is none
    bool at_mark = false;          // `pc` is right at it
    const Block* block = nullptr;  // block
  };
  std::optional<Place> find_place(uint64_t pc) const;

 private:
  struct Area {
    CodeArea memory;
    Routines routines;
    Emitter hot, cold;
    std::vector<uint32_t> blocks;  // by ascending entry
    Area(Range window, uint64_t size) : memory(window, size) {}
    uint64_t cold_start() const { return memory.executed().start + memory.executed().size() / 4 * 3; }
  };

  const Places places_;
  Tables& tables_;
  Style style_;
  const std::function<void(uint64_t)> executed_;
  CodeReader reader_;
  std::array<std::unique_ptr<Area>, 2> areas_;
  // More than fits into the areas, but for marks.
  static constexpr size_t kMostBlocks = 1 << 20, kMostExits = 1 << 23, kMostSites = 1 << 22,
                          kMostMarks = 1 << 25;
  Growable<Block> blocks_{kMostBlocks};
  Growable<ExitPoint> exits_{kMostExits};
  Growable<Site> sites_{kMostSites};
  Growable<Mark> marks_{kMostMarks};
  Paths paths_;
  std::unordered_map<uint64_t, uint32_t> by_guest_;
  std::unordered_map<uint64_t, std::vector<uint32_t>> by_page_;
  // By slot of each table: the number of its first block and one, or 0.
  std::array<Growable<uint32_t>, kTables> slots_{Growable<uint32_t>{kTableSize},
                                                 Growable<uint32_t>{kTableSize}};
  std::unordered_set<uint64_t> isolated_;
  std::vector<Instruction> instructions_;  // of the block under way
  // What was adopted, but for what the arrays above have of it.
  KeptImage adopted_;
  enum class Standing : uint8_t { unknown, same, other };
  std::vector<Standing> standings_;  // of its pages: is the guest's code the same?
  size_t told_ = 0;          // blocks that others know: it had so many, or the last image that was left
  bool tables_used_ = true;  // since they were filled, with what misses:
  std::array<uint64_t, kTables> filled_with_{};
  // alone(): what to take back
  struct Before {
    uint8_t area = 0;
    Emitter hot, cold;
    size_t exits = 0, sites = 0, marks = 0, paths = 0, conditionals = 0;
  };
  std::optional<Before> before_;

  Writer writer_for(Area& area, Style style);
  void start_areas();
  bool notes() const { return style_.flow || style_.journaled || style_.stopping || style_.accesses; }
  void flush();
  bool full() const;
  uint8_t area_for(uint64_t guest) const;
  uint32_t translate(uint64_t guest, std::optional<Table> by_table);
  void read_block(uint64_t guest);
  void note_pages(uint32_t number);
  std::optional<uint32_t> find_block(uint64_t guest);
  bool same_code(uint64_t page);
  void look_at(const GroupOf& group);
  bool is_same(const PageOf& page);
  void add_slot(const GroupOf& group, const SlotOf& slot);
  void invalidate_adopted(size_t page);
  std::map<uint64_t, ImageMaker::Page> lasting_pages();
  CodePlaces code_places() const;
  uint64_t entry_for_link(uint64_t target, uint32_t exit, uint8_t area);
  static void put_displacement(uint64_t at, uint64_t target, Area& area);
  void link(uint32_t number, Block& block);
  void note_link(uint32_t exit, Block& block);
  static void write_table_entry(Writer& writer, Table table, Block& block);
  void add_to_table(Table table, uint32_t number);
  static uint64_t bridge(Area& area, uint64_t target, uint64_t otherwise);
  void invalidate(uint32_t number);
  void put_first(Table table, uint32_t number);
  void put_behind(Table table, uint32_t number, uint32_t next);
  void take_out(Table table, uint32_t number);
  void lead_to(Table table, uint16_t slot, uint32_t number);
  void take_back();
};

}  // namespace aftercheck::translated
