#include "machine/translated/translator.h"

#include <algorithm>

#include "base/invariant.h"

namespace aftercheck::translated {
namespace {

// Of a block. Branches that are not taken are gone through.
constexpr size_t kMostInstructions = 64;
// No block takes more (an instruction takes at most some hundred bytes), with its way in from a table.
constexpr uint64_t kRoom = 64 << 10;
// Of what is kept besides code.
constexpr size_t kMostBlocks = 1 << 20;

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

uint16_t slot_of(uint64_t guest) { return static_cast<uint16_t>(guest); }

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
    const int64_t shift = area->memory.shift();
    area->hot = Emitter(area->memory.written(), shift);
    area->cold = Emitter(area->memory.written() + area->memory.executed().size() / 4 * 3, shift);
    area->routines = write_routines(area->hot, places_, style_);
    area->blocks.clear();
  }
  // One area's will do for both tables: targets that no table has are left by any.
  tables_.jumps.fill(areas_[0]->routines.missed[static_cast<size_t>(Table::jumps)]);
  tables_.returns.fill(areas_[0]->routines.missed[static_cast<size_t>(Table::returns)]);
}

bool Translator::full() const {
  for (const auto& area : areas_)
    if (area->hot.here() + kRoom > area->cold_start() ||
        area->cold.here() + kRoom > area->memory.executed().end)
      return true;
  return blocks_.size() >= kMostBlocks || exits_.size() >= kFirstLeft / 2 ||
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
  for (auto& slots : slots_) slots.clear();
  start_areas();
}

// The one whose ends are nearer; RIP-relative operands have to reach what the code refers to.
uint8_t Translator::area_for(uint64_t guest) const {
  constexpr uint64_t kMiddle = kMainWindow.start + kMainWindow.size() / 2;
  return guest >= kMiddle ? 1 : 0;
}

const Block& Translator::block(uint64_t guest, const Way& way) {
  take_back();
  const auto found = by_guest_.find(guest);
  const bool there = found != by_guest_.end();
  const bool flushes = !there && full();  // numbers of exits are others then
  if (flushes) flush();
  const uint32_t number =
      there ? found->second : translate(guest, isolated_.contains(guest) ? std::nullopt : way.table);
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
  for (const Instruction& instruction : instructions_) {
    const uint64_t end = instruction.form == Form::special && instruction.special == Special::no_fetch
                             ? instruction.address
                             : instruction.next() - 1;
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
  if (by_table) {
    slots_[static_cast<size_t>(*by_table)][slot_of(guest)].push_back(number);
    chain(*by_table, guest);
  }
  return number;
}

void Translator::isolate(uint64_t guest) {
  if (isolated_.insert(guest).second) forget({guest, guest + 1});
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
  exits_.resize(before_->exits);
  sites_.resize(before_->sites);
  marks_.resize(before_->marks);
  paths_.paths.resize(before_->paths);
  paths_.conditionals.resize(before_->conditionals);
  blocks_.pop_back();
  before_.reset();
}

// --- linking ---

void Translator::put_displacement(uint8_t* at, uint64_t target, const Area& area) {
  Emitter(at, area.memory.shift()).relative(target);
}

uint64_t Translator::entry_for_link(uint64_t target, uint32_t exit, uint8_t area) {
  const auto found = by_guest_.find(target);
  if (found == by_guest_.end() || isolated_.contains(target)) return 0;
  Block& block = blocks_[found->second];
  if (block.area != area) return 0;
  block.linked_exits.push_back(exit);
  return block.entry;
}

void Translator::link(uint32_t number, Block& block) {
  const ExitPoint& exit = exits_.at(number);
  if (exit.patch == nullptr || !blocks_[exit.block].valid) return;
  Area& area = *areas_[blocks_[exit.block].area];
  block.linked_exits.push_back(number);
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
  block.next_in_slot[static_cast<size_t>(table)] = entry.next;
}

void Translator::add_to_table(Table table, uint32_t number) {
  Block& block = blocks_[number];
  const auto which = static_cast<size_t>(table);
  if (block.by_table[which] != 0 || full()) return;
  Area& area = *areas_[block.area];
  Writer writer = writer_for(area, style_);
  write_table_entry(writer, table, block);
  area.hot.jump(block.entry);
  slots_[which][slot_of(block.guest)].push_back(number);
  chain(table, block.guest);
}

// The blocks of a slot jump from one to the next; the last goes out.
void Translator::chain(Table table, uint64_t guest) {
  const auto which = static_cast<size_t>(table);
  const uint16_t slot = slot_of(guest);
  const auto found = slots_[which].find(slot);
  uint64_t next = 0;
  if (found != slots_[which].end()) {
    for (const uint32_t number : found->second) {
      Block& block = blocks_[number];
      Area& area = *areas_[block.area];
      uint64_t target = next == 0 ? area.routines.missed[which] : next;
      const uint64_t here =
          reinterpret_cast<uint64_t>(block.next_in_slot[which]) + static_cast<uint64_t>(area.memory.shift());
      const auto distance = static_cast<int64_t>(target - here);
      // The next one may be in the other area. Without a bridge those behind are found by the host.
      if (distance != static_cast<int32_t>(distance))
        target = bridge(area, target, area.routines.missed[which]);
      put_displacement(block.next_in_slot[which], target, area);
      next = block.by_table[which];
    }
    if (found->second.empty()) slots_[which].erase(found);
  }
  auto& entries = table == Table::jumps ? tables_.jumps : tables_.returns;
  entries[slot] = next == 0 ? areas_[0]->routines.missed[which] : next;
}

// --- forgetting ---

void Translator::invalidate(uint32_t number) {
  Block& block = blocks_[number];
  if (!block.valid) return;
  block.valid = false;
  if (const auto found = by_guest_.find(block.guest); found != by_guest_.end() && found->second == number)
    by_guest_.erase(found);
  for (const uint32_t exit : block.linked_exits) {
    const ExitPoint& from = exits_[exit];
    put_displacement(from.patch, from.stub, *areas_[blocks_[from.block].area]);
  }
  block.linked_exits.clear();
  for (const Table table : {Table::jumps, Table::returns}) {
    const auto which = static_cast<size_t>(table);
    if (block.by_table[which] == 0) continue;
    std::erase(slots_[which][slot_of(block.guest)], number);
    chain(table, block.guest);
  }
}

void Translator::forget(Range range) {
  take_back();
  reader_.forget();
  if (by_page_.empty()) return;
  const uint64_t first = page_down(range.start), last = page_up(range.end);
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
