#include "machine/translated/translator.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/invariant.h"

namespace aftercheck::translated {
namespace {

// Of a block. Branches that are not taken are gone through.
constexpr size_t kMostInstructions = 64;
// No block takes more (an instruction takes at most some hundred bytes), with its way in from a table.
constexpr uint64_t kRoom = 64 << 10;
// Nor has a block more exits, sites or marks.
constexpr size_t kRoomForEntries = 1 << 12;

// What translated code can't note down is the host's to execute.
void look_for_accesses(Instruction& instruction, const Style& style) {
  if (instruction.form == Form::special || instruction.form == Form::system_call) return;
  bool by_host = false;
  if (style.journaled) {
    instruction.store = store_shape(instruction);
    by_host = instruction.store.kind == StoreKind::other;
  }
  if (style.accesses) {
    const std::optional<AccessShapes> shapes = access_shapes(instruction);
    by_host |= !shapes;
    instruction.accesses = shapes.value_or(AccessShapes{});
  }
  if (!by_host) return;
  instruction.form = Form::special;
  instruction.special = Special::noted;
}

}  // namespace

Translator::Translator(AddressSpace& space, const Places& places, Tables& tables, Style style, uint64_t size,
                       std::function<void(uint64_t page)> executed)
    : places_(places),
      tables_(tables),
      style_(style),
      executed_(std::move(executed)),
      reader_(space, style.model) {
  for (size_t i = 0; i < areas_.size(); ++i) areas_[i] = std::make_unique<Area>(kCodeWindows[i], size);
  start_areas();
}

void Translator::start_areas() {
  for (const auto& area : areas_) {
    area->memory.show_none();
    const int64_t shift = area->memory.shift();
    area->hot = Emitter(area->memory.written(), shift);
    area->cold = Emitter(area->memory.written() + area->memory.executed().size() / 4 * 3, shift);
    area->routines = write_routines(area->hot, places_, style_);
    area->blocks.clear();
  }
  // Routines of another style lie elsewhere.
  const auto& missed = areas_[0]->routines.missed;
  if (!std::exchange(tables_used_, false) && filled_with_ == missed) return;
  filled_with_ = missed;
  for (auto& slots : slots_) slots.assign_zeros(kTableSize);
  // Pages one by one would cost more than what is written there. (Before Linux 5.14 that is how they come.)
  const uint64_t start = page_down(reinterpret_cast<uint64_t>(&tables_));
  const uint64_t end = page_up(reinterpret_cast<uint64_t>(&tables_ + 1));
  madvise(reinterpret_cast<void*>(start), end - start, MADV_POPULATE_WRITE);
  // One area's will do for both tables: targets that no table has are left by any.
  tables_.jumps.fill(areas_[0]->routines.missed[static_cast<size_t>(Table::jumps)]);
  tables_.returns.fill(areas_[0]->routines.missed[static_cast<size_t>(Table::returns)]);
}

bool Translator::full() const {
  for (const auto& area : areas_)
    if (area->hot.here() + kRoom > area->cold_start() ||
        area->cold.here() + kRoom > area->memory.executed().end)
      return true;
  const auto lacks_room = [](const auto& entries) {
    return entries.size() + kRoomForEntries > entries.most();
  };
  return lacks_room(blocks_) || lacks_room(exits_) || lacks_room(sites_) || lacks_room(marks_) ||
         paths_.paths.size() >= PathNote::kMostPaths / 2;
}

void Translator::flush() {
  if (forgets) forgets();
  paths_.clear();
  blocks_.clear();
  exits_.clear();
  sites_.clear();
  marks_.clear();
  by_guest_.clear();
  by_page_.clear();
  adopted_.reset();
  standings_.clear();
  told_ = 0;
  start_areas();
}

// The one whose ends are nearer; RIP-relative operands have to reach what the code refers to.
uint8_t Translator::area_for(uint64_t guest) const {
  constexpr uint64_t kMiddle = kMainWindow.start + kMainWindow.size() / 2;
  return guest >= kMiddle ? 1 : 0;
}

const Block& Translator::block(uint64_t guest, const Way& way) {
  take_back();
  const std::optional<uint32_t> found = find_block(guest);
  const bool flushes = !found && full();  // numbers of exits are others then
  if (flushes) flush();
  const uint32_t number =
      found ? *found : translate(guest, isolated_.contains(guest) ? std::nullopt : way.table);
  if (isolated_.contains(guest)) return blocks_[number];
  if (way.exit && !flushes) link(*way.exit, blocks_[number]);
  if (way.table) add_to_table(*way.table, number);
  return blocks_[number];
}

Writer Translator::writer_for(Area& area, Style style) {
  Writer writer(area.hot, area.cold, area.routines, places_, style);
  writer.exits = &exits_;
  writer.sites = &sites_;
  writer.marks = &marks_;
  writer.paths = &paths_;
  return writer;
}

void Translator::read_block(uint64_t guest) {
  instructions_.clear();
  size_t conditionals = 0;
  for (uint64_t at = guest; instructions_.size() < kMostInstructions;) {
    if (at != guest && isolated_.contains(at)) return;
    Instruction& instruction = instructions_.emplace_back();
    reader_.read(at, instruction);
    if (style_.journaled || style_.accesses) look_for_accesses(instruction, style_);
    at = instruction.next();
    if (instruction.form == Form::copied) continue;
    if (instruction.form == Form::conditional && ++conditionals < kMostConditionals) continue;
    return;
  }
}

void Translator::note_pages(uint32_t number) {
  uint64_t last = UINT64_MAX;
  Block& block = blocks_[number];
  for (const Instruction& instruction : instructions_) {
    const bool cut_off = instruction.form == Form::special && instruction.special == Special::no_fetch;
    const uint64_t end = cut_off ? instruction.address : instruction.next() - 1;
    block.last = end;
    block.whole = !cut_off;
    for (const uint64_t page : {page_down(instruction.address), page_down(end)}) {
      if (page == last) continue;
      last = page;
      std::vector<uint32_t>& there = by_page_[page];
      if (!there.empty() && there.back() == number) continue;
      there.push_back(number);
      executed_(page);
    }
  }
}

uint32_t Translator::translate(uint64_t guest, std::optional<Table> by_table) {
  read_block(guest);
  const auto number = static_cast<uint32_t>(blocks_.size());
  const uint8_t area_number = area_for(guest);
  Area& area = *areas_[area_number];
  blocks_.emplace_back();
  note_pages(number);
  Writer writer = writer_for(area, style_);
  writer.entry_of = [&](uint64_t target, uint32_t exit) { return entry_for_link(target, exit, area_number); };
  Block& block = blocks_.back();
  block.guest = guest;
  block.area = area_number;
  block.first_mark = static_cast<uint32_t>(marks_.size());
  block.first_conditional = static_cast<uint32_t>(paths_.conditionals.size());
  block.first_access = static_cast<uint32_t>(paths_.accesses.size());
  constexpr uint64_t kAligned = 16;
  const uint64_t before = by_table ? Writer::kBeforeTableEntry : 0;
  while ((area.hot.here() + before) % kAligned != 0) area.hot.byte(0xcc);
  if (by_table) write_table_entry(writer, *by_table, block);
  block.entry = area.hot.here();
  by_guest_[guest] = number;
  writer.begin_block(number, guest);
  if (style_.journaled) writer.write_code_left(guest, instructions_.back().next() - guest);
  bool ended = false;
  for (size_t i = 0; i < instructions_.size(); ++i) {
    const bool goes_on = i + 1 < instructions_.size();
    if (goes_on && !style_.stopping && !style_.accesses && fuse(instructions_[i], instructions_[i + 1]))
      writer.count_ahead(instructions_[i]);
    ended = writer.write(instructions_[i], goes_on);
  }
  if (!ended) writer.write_behind(instructions_.back().next());
  writer.finish_block();
  block.end = area.hot.here();
  block.marks = static_cast<uint32_t>(marks_.size()) - block.first_mark;
  area.blocks.push_back(number);
  if (by_table) put_first(*by_table, number);
  return number;
}

void Translator::isolate(uint64_t guest) {
  if (!isolated_.insert(guest).second) return;
  if (adopted_->empty()) return forget({guest, guest + 1});
  take_back();
  flush();
}

void Translator::set_notes(const Notes& notes) {
  take_back();
  style_.flow = notes.flow;
  style_.code = notes.code;
  style_.accesses = notes.accesses;
  flush();
}

const Block& Translator::alone(const Instruction& instruction, bool notes) {
  take_back();
  if (full()) flush();
  const uint8_t area_number = area_for(instruction.address);
  Area& area = *areas_[area_number];
  before_ = Before{area_number,   area.hot,      area.cold,           exits_.size(),
                   sites_.size(), marks_.size(), paths_.paths.size(), paths_.conditionals.size()};
  const auto number = static_cast<uint32_t>(blocks_.size());
  blocks_.emplace_back();
  Style style = style_;
  style.alone = true;
  style.stopping = style.journaled = false;
  style.flow = style.flow && notes;
  style.accesses = false;
  Writer writer = writer_for(area, style);
  Block& block = blocks_.back();
  block.guest = instruction.address;
  block.area = area_number;
  block.entry = area.hot.here();
  block.first_mark = static_cast<uint32_t>(marks_.size());
  writer.begin_block(number, instruction.address);
  if (!writer.write(instruction, false)) writer.write_behind(instruction.next());
  writer.finish_block();
  block.end = area.hot.here();
  block.marks = static_cast<uint32_t>(marks_.size()) - block.first_mark;
  area.blocks.push_back(number);
  return block;
}

void Translator::take_back() {
  if (!before_) return;
  Area& area = *areas_[before_->area];
  area.hot = before_->hot;
  area.cold = before_->cold;
  area.blocks.pop_back();
  exits_.shrink(before_->exits);
  sites_.shrink(before_->sites);
  marks_.shrink(before_->marks);
  paths_.paths.resize(before_->paths);
  paths_.conditionals.resize(before_->conditionals);
  blocks_.pop_back();
  before_.reset();
}

// --- linking ---

// `at`: where it is executed.
void Translator::put_displacement(uint64_t at, uint64_t target, Area& area) {
  Emitter(area.memory.writable(at, sizeof(uint32_t)), area.memory.shift()).relative(target);
}

uint64_t Translator::entry_for_link(uint64_t target, uint32_t exit, uint8_t area) {
  if (isolated_.contains(target)) return 0;
  const std::optional<uint32_t> found = find_block(target);
  if (!found) return 0;
  Block& block = blocks_[*found];
  if (block.area != area) return 0;
  note_link(exit, block);
  return block.entry;
}

void Translator::note_link(uint32_t exit, Block& block) {
  ExitPoint& from = exits_[exit];
  from.linked_to = static_cast<uint32_t>(&block - blocks_.begin());
  from.next_linked = block.first_linked;
  block.first_linked = exit;
}

void Translator::link(uint32_t number, Block& block) {
  const ExitPoint& exit = exits_.at(number);
  // One that is linked already found no room for a bridge.
  if (exit.patch == 0 || exit.linked_to != kNoBlock || !blocks_[exit.block].valid) return;
  Area& area = *areas_[blocks_[exit.block].area];
  note_link(number, block);
  if (&area == areas_[block.area].get()) return put_displacement(exit.patch, block.entry, area);
  put_displacement(exit.patch, bridge(area, block.entry, exit.stub), area);
}

// Where what is out of reach is jumped to by way of an address in memory; `otherwise` where there is no room
// for more.
uint64_t Translator::bridge(Area& area, uint64_t target, uint64_t otherwise) {
  constexpr uint64_t kOpcode = 6, kSize = kOpcode + 8, kPadding = 7;
  if (area.cold.here() + kPadding + kSize > area.memory.executed().end) return otherwise;
  area.cold.align(kOpcode);
  const uint64_t start = area.cold.here();
  area.cold.bytes({0xff, 0x25});  // jmp [rip + 0]
  area.cold.word32(0);
  area.cold.word64(target);
  return start;
}

void Translator::write_table_entry(Writer& writer, Table table, Block& block) {
  const Writer::TableEntry entry = writer.write_table_entry(table, block.guest);
  block.by_table[static_cast<size_t>(table)] = entry.start;
  block.jump_to_next[static_cast<size_t>(table)] = entry.next;
}

void Translator::add_to_table(Table table, uint32_t number) {
  Block& block = blocks_[number];
  const auto which = static_cast<size_t>(table);
  if (block.by_table[which] != 0 || full()) return;
  Area& area = *areas_[block.area];
  Writer writer = writer_for(area, style_);
  write_table_entry(writer, table, block);
  area.hot.jump(block.entry);
  put_first(table, number);
}

// The blocks of a slot jump from one to the next; the last goes out.
void Translator::put_first(Table table, uint32_t number) {
  const uint16_t slot = slot_of(blocks_[number].guest);
  const uint32_t first = slots_[static_cast<size_t>(table)][slot];
  put_behind(table, number, first == 0 ? kNoBlock : first - 1);
  lead_to(table, slot, number);
}

// `next`, or none, comes behind `number`.
void Translator::put_behind(Table table, uint32_t number, uint32_t next) {
  const auto which = static_cast<size_t>(table);
  Block& block = blocks_[number];
  Area& area = *areas_[block.area];
  block.next_in_slot[which] = next;
  uint64_t target = next == kNoBlock ? area.routines.missed[which] : blocks_[next].by_table[which];
  const auto distance = static_cast<int64_t>(target - block.jump_to_next[which]);
  // The next one may be in the other area. Without a bridge those behind are found by the host.
  if (distance != static_cast<int32_t>(distance)) target = bridge(area, target, area.routines.missed[which]);
  put_displacement(block.jump_to_next[which], target, area);
}

void Translator::lead_to(Table table, uint16_t slot, uint32_t number) {
  const auto which = static_cast<size_t>(table);
  tables_used_ = true;
  slots_[which][slot] = number == kNoBlock ? 0 : number + 1;
  auto& entries = table == Table::jumps ? tables_.jumps : tables_.returns;
  entries[slot] = number == kNoBlock ? areas_[0]->routines.missed[which] : blocks_[number].by_table[which];
}

void Translator::take_out(Table table, uint32_t number) {
  const auto which = static_cast<size_t>(table);
  const uint16_t slot = slot_of(blocks_[number].guest);
  const uint32_t next = blocks_[number].next_in_slot[which];
  if (slots_[which][slot] == number + 1) return lead_to(table, slot, next);
  uint32_t before = slots_[which][slot];
  // Of a group that has not been looked at it is in no slot.
  while (before != 0 && blocks_[before - 1].next_in_slot[which] != number)
    before = blocks_[before - 1].next_in_slot[which] + 1;
  if (before != 0) put_behind(table, before - 1, next);
}

// --- forgetting ---

void Translator::invalidate(uint32_t number) {
  Block& block = blocks_[number];
  if (!block.valid) return;
  block.valid = false;
  if (const auto found = by_guest_.find(block.guest); found != by_guest_.end() && found->second == number)
    by_guest_.erase(found);
  for (uint32_t exit = std::exchange(block.first_linked, kNoExit); exit != kNoExit;) {
    ExitPoint& from = exits_[exit];
    put_displacement(from.patch, from.stub, *areas_[blocks_[from.block].area]);
    from.linked_to = kNoBlock;
    exit = std::exchange(from.next_linked, kNoExit);
  }
  for (const Table table : {Table::jumps, Table::returns}) {
    const auto which = static_cast<size_t>(table);
    if (block.by_table[which] != 0) take_out(table, number);
  }
}

void Translator::forget(Range range) {
  take_back();
  reader_.forget();
  // All of a program: nothing need be unlinked from anything.
  if (!notes() && range.start <= kMainWindow.start && range.end >= kMainWindow.end) return flush();
  const uint64_t first = page_down(range.start), last = page_up(range.end);
  // Of an image only what was found to be the guest's code. The rest is looked at before it is used.
  for (size_t i = adopted_->lower_page(first); i < adopted_->pages.size() && adopted_->pages[i].page < last;
       ++i) {
    if (standings_[i] != Standing::same) continue;
    standings_[i] = Standing::other;
    invalidate_adopted(i);
  }
  if (by_page_.empty()) return;
  const auto drop = [this](const std::vector<uint32_t>& numbers) {
    for (const uint32_t number : numbers) invalidate(number);
  };
  if ((last - first) / kPageSize > by_page_.size()) {
    std::erase_if(by_page_, [&](const auto& entry) {
      if (entry.first < first || entry.first >= last) return false;
      drop(entry.second);
      return true;
    });
    return;
  }
  for (uint64_t page = first; page < last; page += kPageSize) {
    const auto found = by_page_.find(page);
    if (found == by_page_.end()) continue;
    drop(found->second);
    by_page_.erase(found);
  }
}

// --- images ---

CodePlaces Translator::code_places() const {
  CodePlaces places;
  places.style = static_cast<uint64_t>(style_.model) << 8 | static_cast<uint64_t>(style_.counting) << 1 |
                 static_cast<uint64_t>(style_.loop);
  places.context = reinterpret_cast<uint64_t>(places_.context);
  places.tables = reinterpret_cast<uint64_t>(places_.tables);
  for (size_t i = 0; i < areas_.size(); ++i) places.executed[i] = areas_[i]->memory.executed().start;
  return places;
}

// Blocks of an image get among the others when they are first looked for, if their pages are the same.
std::optional<uint32_t> Translator::find_block(uint64_t guest) {
  if (const auto found = by_guest_.find(guest); found != by_guest_.end()) return found->second;
  const std::optional<uint32_t> number = adopted_->find(guest);
  if (!number || !blocks_[*number].valid) return std::nullopt;
  const Block& block = blocks_[*number];
  if (!same_code(page_down(block.guest)) || !same_code(page_down(block.last))) return std::nullopt;
  by_guest_[guest] = *number;
  return number;
}

bool Translator::same_code(uint64_t page) {
  const std::optional<size_t> number = adopted_->find_page(page);
  if (!number) return false;
  if (standings_[*number] == Standing::unknown) look_at(adopted_->groups[adopted_->pages[*number].group]);
  return standings_[*number] == Standing::same;
}

// Its blocks are linked with each other, so all of its pages count before one is executed. What was adopted
// of those that are different is gone.
void Translator::look_at(const GroupOf& group) {
  const std::span<const PageOf> pages = adopted_->pages.subspan(group.first_page, group.pages);
  std::vector<size_t> others;
  for (size_t i = group.first_page; i < group.first_page + group.pages; ++i) {
    const bool same = is_same(adopted_->pages[i]);
    standings_[i] = same ? Standing::same : Standing::other;
    if (same)
      executed_(adopted_->pages[i].page);
    else
      others.push_back(i);
  }
  // Where nothing is the same the slots need not be filled first.
  if (others.size() < pages.size())
    for (const SlotOf& slot : adopted_->slots.subspan(group.first_slot, group.slots)) add_slot(group, slot);
  for (const size_t page : others) invalidate_adopted(page);
}

bool Translator::is_same(const PageOf& page) {
  return reader_.fetchable(page.page) && std::memcmp(reinterpret_cast<const void*>(page.page),
                                                     adopted_->copy_of(page).data(), kPageSize) == 0;
}

// There may be blocks in the slot already. What is linked anew is written, so it is the end of the shorter
// list: of the large part of an image nothing need be copied for that.
void Translator::add_slot(const GroupOf& group, const SlotOf& added) {
  const auto table = static_cast<Table>(added.table);
  const auto slot = static_cast<uint16_t>(added.slot);
  const auto first = static_cast<uint32_t>(added.block);
  const auto last_from = [&](uint32_t number) {
    while (blocks_[number].next_in_slot[added.table] != kNoBlock)
      number = blocks_[number].next_in_slot[added.table];
    return number;
  };
  const uint32_t there = slots_[added.table][slot];
  constexpr uint64_t kFew = 4096;
  if (there != 0 && group.slots >= kFew) return put_behind(table, last_from(there - 1), first);
  if (there != 0) put_behind(table, last_from(first), there - 1);
  lead_to(table, slot, first);
}

void Translator::invalidate_adopted(size_t page) {
  for (const uint32_t number : adopted_->blocks_of(adopted_->pages[page])) invalidate(number);
}

bool Translator::adopt(KeptImage kept) {
  if (notes() || !isolated_.empty() || !(kept->header.places == code_places())) return false;
  take_back();
  flush();
  const CodeImage& image = *kept;
  const auto assign = [&kept](auto& entries, const auto& part) {
    entries.assign(part.size(), kept.file(), kept.offset_of(part));
  };
  assign(blocks_, image.blocks);
  assign(exits_, image.exits);
  assign(sites_, image.sites);
  assign(marks_, image.marks);
  for (size_t i = 0; i < areas_.size(); ++i) {
    Area& area = *areas_[i];
    const uint64_t hot = area.memory.executed().start, cold = area.cold_start();
    area.memory.show(hot, image.hot[i], kept.file(), kept.offset_of(image.hot[i]));
    area.memory.show(cold, image.cold[i], kept.file(), kept.offset_of(image.cold[i]));
    uint8_t* const written = area.memory.written();
    area.hot = Emitter(written + image.hot[i].size(), area.memory.shift());
    area.cold = Emitter(written + (cold - hot) + image.cold[i].size(), area.memory.shift());
    area.blocks.assign(image.area_blocks[i].begin(), image.area_blocks[i].end());
  }
  standings_.assign(image.pages.size(), Standing::unknown);
  adopted_ = std::move(kept);
  told_ = blocks_.size();
  return true;
}

bool Translator::worth_sharing() const {
  constexpr size_t kFewBlocks = 200, kPart = 8;
  return blocks_.size() - told_ > std::max(kFewBlocks, told_ / kPart);
}

void Translator::leave_image(CodeImages& images, std::span<const std::byte> program) {
  if (notes() || !isolated_.empty()) return;
  take_back();
  told_ = blocks_.size();
  const std::map<uint64_t, ImageMaker::Page> pages = lasting_pages();
  std::array<ImageMaker::Area, 2> areas;
  for (size_t i = 0; i < areas.size(); ++i) {
    const Area& area = *areas_[i];
    const auto code = [](uint64_t start, uint64_t end) {
      return std::span(reinterpret_cast<const std::byte*>(start), end - start);
    };
    const uint64_t hot = area.memory.executed().start, cold = area.cold_start();
    areas[i] = {hot,
                cold,
                code(hot, area.hot.here()),
                code(cold, area.cold.here()),
                area.blocks,
                area.routines.missed};
  }
  const ImageMaker maker(pages, {blocks_.begin(), blocks_.end()}, {exits_.begin(), exits_.end()}, areas);
  CodeImage image = maker.image();
  if (image.empty()) return;
  image.header.places = code_places();
  image.sites = {sites_.begin(), sites_.end()};
  image.marks = {marks_.begin(), marks_.end()};
  images.add(program, image);
}

// Pages of which there is code that will be the same as long as their mappings are.
std::map<uint64_t, ImageMaker::Page> Translator::lasting_pages() {
  std::map<uint64_t, ImageMaker::Page> pages;
  for (const auto& [page, blocks] : by_page_) {
    if (!reader_.lasting(page) || !reader_.fetchable(page)) continue;
    same_code(page);
    pages[page] = {reinterpret_cast<const std::byte*>(page), reader_.mapping_of(page), area_for(page)};
  }
  for (size_t i = 0; i < adopted_->pages.size(); ++i) {
    const PageOf& page = adopted_->pages[i];
    if (standings_[i] != Standing::other)
      pages[page.page] = {adopted_->copy_of(page).data(), page.mapping, area_for(page.page)};
  }
  return pages;
}

// --- where is it? ---

std::optional<Translator::Place> Translator::find_place(uint64_t pc) const {
  for (const auto& area : areas_) {
    if (!area->memory.executed().contains(pc)) continue;
    Place place;
    place.routines = &area->routines;
    const Routines& routines = area->routines;
    if (pc >= routines.enter && pc < routines.enter_end) {
      place.kind = Place::Kind::enter;
      return place;
    }
    if (pc < routines.end) {
      place.kind = Place::Kind::leave;
      return place;
    }
    const auto after = std::ranges::upper_bound(area->blocks, pc, {},
                                                [this](uint32_t number) { return blocks_[number].entry; });
    if (after == area->blocks.begin()) return place;
    const Block& block = blocks_[*std::prev(after)];
    if (pc >= block.end) return place;
    place.kind = Place::Kind::block;
    place.block = &block;
    const auto offset = static_cast<uint32_t>(pc - block.entry);
    const auto first = marks_.begin() + block.first_mark, end = first + block.marks;
    const auto next = std::upper_bound(first, end, offset,
                                       [](uint32_t value, const Mark& mark) { return value < mark.offset; });
    if (next == first) return place;
    place.mark = &*std::prev(next);
    place.at_mark = place.mark->offset == offset;
    return place;
  }
  return std::nullopt;
}

}  // namespace aftercheck::translated
