#include "recording/chunk_decoder.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "recording/writer.h"

namespace aftercheck::recording {
namespace {

// Columns are read once each, so this suffices for every honest message, and pointers that lead to the same
// bytes over and over run into it.
capnp::ReaderOptions reader_options(std::span<const uint64_t> payload) {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = payload.size() + 1024;
  options.nestingLimit = 8;  // Chunk, Extra, SpaceOp, their lists and Data: the schema has no recursion
  return options;
}

kj::ArrayPtr<const capnp::word> as_words(std::span<const uint64_t> payload) {
  return {reinterpret_cast<const capnp::word*>(payload.data()), payload.size()};
}

std::span<const std::byte> as_span(capnp::Data::Reader data) {
  return {reinterpret_cast<const std::byte*>(data.begin()), data.size()};
}

template <size_t N>
bool copy_exactly(capnp::Data::Reader data, std::array<uint8_t, N>& out) {
  if (data.size() != N) return false;
  std::copy(data.begin(), data.end(), out.begin());
  return true;
}

std::span<const std::byte> take(std::span<const std::byte>& column, uint64_t length) {
  const auto taken = column.first(length);
  column = column.subspan(length);
  return taken;
}

void clear(Event& event) {
  event.operands.clear();
  event.memory.clear();
  event.fpu_digest.reset();
  event.branches.reset();
  event.registers.clear();
  event.fpu.clear();
  event.space_ops.clear();
  event.writes.clear();
  event.patches.clear();
  event.output_steps.clear();
}

}  // namespace

template <typename... Args>
void ChunkDecoder::damaged(fmt::format_string<Args...> format, Args&&... args) const {
  fail(ErrorKind::bad_input, "{}: {}", where_, fmt::format(format, std::forward<Args>(args)...));
}

// The counterpart of ChunkBuilder::SlotWriter.
class ChunkDecoder::SlotReader {
 public:
  // The caller has checked that enough mask bytes are there.
  SlotReader(ChunkDecoder& chunk, uint64_t* last, std::span<const std::byte> masks)
      : chunk_(chunk), last_(last), masks_(masks) {}

  uint64_t take() {
    if (bit_ == 8) {
      bit_ = 0;
      byte_++;
    }
    const auto mask = static_cast<unsigned>(masks_[byte_]);
    if ((mask >> bit_++ & 1) != 0) *last_ += unzigzag(chunk_.take_number(chunk_.deltas_, "deltas"));
    return *last_++;
  }

 private:
  ChunkDecoder& chunk_;
  uint64_t* last_;
  std::span<const std::byte> masks_;
  size_t byte_ = 0;
  unsigned bit_ = 0;
};

ChunkDecoder::ChunkDecoder(std::span<const uint64_t> payload, uint64_t first_event,
                           const std::string& where) try
    : where_(where), message_(as_words(payload), reader_options(payload)) {
  open_columns(first_event);
  load_shapes();
} catch (const kj::Exception& e) {
  fail(ErrorKind::bad_input, "{}: damaged Cap'n Proto message: {}", where, e.getDescription().cStr());
}

void ChunkDecoder::open_columns(uint64_t first_event) {
  chunk_ = message_.getRoot<log::Chunk>();
  digests_ = chunk_.getDigests();
  short_digests_ = as_span(chunk_.getShortDigests());
  if (short_digests_.size() % kShortDigestBytes != 0 || short_digests_.size() > kMaxPayloadBytes)
    damaged("column `shortDigests` has {} bytes", short_digests_.size());
  has_short_digests_ = !short_digests_.empty();
  count_ = digests_.size() + static_cast<uint32_t>(short_digests_.size() / kShortDigestBytes);
  if (count_ == 0) damaged("it holds no event");
  if (chunk_.getFirstEvent() != first_event)
    damaged("it starts with event {} where event {} was expected", chunk_.getFirstEvent(), first_event);
  time_ = chunk_.getBaseTime();
  shape_indexes_ = as_span(chunk_.getShapeIndexes());
  times_ = as_span(chunk_.getTimes());
  masks_ = as_span(chunk_.getMasks());
  deltas_ = as_span(chunk_.getDeltas());
  small_ = as_span(chunk_.getSmallBytes());
  bulk_ = as_span(chunk_.getBulkBytes());
  output_digests_ = chunk_.getOutputDigests();
  extras_ = chunk_.getExtras();
  // Also keeps a list of empty structures, which costs no bytes, from asking for a large loop.
  if (extras_.size() > count_) damaged("it has {} extras for {} events", extras_.size(), count_);
}

void ChunkDecoder::load_shapes() {
  const auto shapes = chunk_.getShapes();
  if (shapes.size() > kMaxShapes) damaged("{} shapes, at most {} are allowed", shapes.size(), kMaxShapes);
  shapes_.reserve(shapes.size());
  for (const auto in : shapes) {
    KnownShape known;
    Shape& shape = known.shape;
    if (in.getKind() > kLastEventKind)
      damaged("shape {} has the unknown event kind {}", shapes_.size(), in.getKind());
    shape.kind = static_cast<EventKind>(in.getKind());
    shape.thread = in.getThread();
    shape.rip = in.getRip();
    shape.number = in.getNumber();
    shape.operands = in.getOperands();
    shape.writes = in.getWrites();
    const auto registers = in.getRegisters();
    if (registers.size() > 256) damaged("shape {} has {} registers", shapes_.size(), registers.size());
    shape.registers.assign(registers.begin(), registers.end());
    const auto outputs = in.getOutputs();
    if (outputs.size() > kMaxListEntries) damaged("shape {} has {} outputs", shapes_.size(), outputs.size());
    shape.outputs.reserve(outputs.size());
    for (const auto output : outputs)
      shape.outputs.push_back({output.getStream(), output.getFd(), output.getPieces()});
    known.slot_count = shape.slot_count();
    if (known.slot_count > kMaxEventSlots)
      damaged("shape {} has {} slots, at most {} are allowed", shapes_.size(), known.slot_count,
              kMaxEventSlots);
    shapes_.push_back(std::move(known));
  }
}

// For the first event that has the shape: of those that say what threads do. What is no answer's is in
// extras, too: those who apply events ignore it.
void ChunkDecoder::check_kind(const Shape& shape) const {
  struct Rule {
    EventKind kind;
    const char* name;
    uint32_t operands;
    bool has_answer;
  };
  static constexpr std::array kRules = {Rule{EventKind::answer, "an answer", 0, true},
                                        Rule{EventKind::thread_start, "a thread's start", 2, true},
                                        Rule{EventKind::thread_end, "a thread's end", 1, false},
                                        Rule{EventKind::preempted, "a preempted thread", 2, false},
                                        Rule{EventKind::turn, "a turn", 1, false}};
  const auto rule = std::ranges::find(kRules, shape.kind, &Rule::kind);
  if (rule == kRules.end()) return;
  if (shape.operands != rule->operands)
    damaged("event {} of the chunk, {}, has {} operands instead of {}", at_, rule->name, shape.operands,
            rule->operands);
  // What is in memory now need not be what was there at the exit.
  if (!shape.outputs.empty()) damaged("event {} of the chunk, {}, has output from memory", at_, rule->name);
  if (!rule->has_answer && (!shape.registers.empty() || shape.writes != 0))
    damaged("event {} of the chunk, {}, has an answer", at_, rule->name);
}

uint64_t ChunkDecoder::take_number(std::span<const std::byte>& column, const char* name) {
  uint64_t value = 0;
  if (!take_varint(column, value)) damaged("event {} of the chunk: damaged number in column `{}`", at_, name);
  return value;
}

ChunkDecoder::KnownShape& ChunkDecoder::take_shape() {
  const uint64_t index = take_number(shape_indexes_, "shapeIndexes");
  if (index >= shapes_.size())
    damaged("event {} of the chunk has shape {} of {}", at_, index, shapes_.size());
  KnownShape& known = shapes_[index];
  if (!known.used) {
    check_kind(known.shape);
    if (last_.size() + known.slot_count > kMaxSlots) damaged("its shapes have more than {} slots", kMaxSlots);
    known.first_slot = last_.size();
    known.used = true;
    last_.resize(last_.size() + known.slot_count);
  }
  return known;
}

std::span<const std::byte> ChunkDecoder::take_write(uint64_t length, uint64_t& total) {
  if (length > kMaxEventBytes || total + length > kMaxEventBytes)
    damaged("event {} of the chunk has more than {} bytes of memory writes", at_, kMaxEventBytes);
  total += length;
  auto& column = length < kSmallWriteBytes ? small_ : bulk_;
  if (length > column.size()) damaged("event {} of the chunk: its memory writes lack bytes", at_);
  return take(column, length);
}

// Format versions 1 and 2 have no short ones.
uint32_t ChunkDecoder::take_digest(EventKind kind) {
  if (has_short_digests_ && kind == EventKind::preempted) {
    if (short_digests_.empty()) damaged("event {} of the chunk: column `shortDigests` is too short", at_);
    uint16_t digest = 0;
    std::memcpy(&digest, take(short_digests_, kShortDigestBytes).data(), sizeof digest);
    return digest;
  }
  if (digest_at_ == digests_.size()) damaged("event {} of the chunk: column `digests` is too short", at_);
  return digests_[digest_at_++];
}

void ChunkDecoder::take_slots(KnownShape& known, Event& event) {
  const Shape& shape = known.shape;
  const uint64_t mask_bytes = (known.slot_count + 7) / 8;
  if (mask_bytes > masks_.size()) damaged("event {} of the chunk: column `masks` is too short", at_);
  if (shape.outputs.size() > output_digests_.size() - output_at_)
    damaged("event {} of the chunk: column `outputDigests` is too short", at_);
  SlotReader slots(*this, last_.data() + known.first_slot, take(masks_, mask_bytes));
  if (shape.has_number()) event.operands.push_back(shape.number);
  while (event.operands.size() < shape.operands) event.operands.push_back(slots.take());
  for (const uint8_t number : shape.registers) event.registers.push_back({number, slots.take()});
  uint64_t total = 0;
  for (uint32_t i = 0; i < shape.writes; i++) {
    const uint64_t address = slots.take();
    event.writes.push_back({address, take_write(slots.take(), total)});
  }
  event.outputs.resize(shape.outputs.size());
  for (size_t i = 0; i < shape.outputs.size(); i++) {
    Output& output = event.outputs[i];
    output.stream = shape.outputs[i].stream;
    output.fd = shape.outputs[i].fd;
    output.digest = output_digests_[output_at_++];
    output.pieces.resize(shape.outputs[i].pieces);
    for (Output::Piece& piece : output.pieces) {
      piece.address = slots.take();
      piece.length = slots.take();
    }
  }
}

void ChunkDecoder::load_space_op(log::SpaceOp::Reader in, SpaceOp& op) {
  if (in.getKind() > kLastSpaceOpKind)
    damaged("event {} of the chunk has the unknown change of mappings {}", at_, in.getKind());
  op.kind = static_cast<SpaceOpKind>(in.getKind());
  op.shared = in.getShared();
  op.prot = in.getProt();
  op.address = in.getAddress();
  op.length = in.getLength();
  op.new_address = in.getNewAddress();
  op.new_length = in.getNewLength();
  if (const auto blob = in.getBlob(); blob.size() != 0 && !copy_exactly(blob, op.blob))
    damaged("event {} of the chunk: a blob's name has {} bytes", at_, blob.size());
  op.blob_offset = in.getBlobOffset();
  const auto name = in.getName();
  op.name.assign(name.asChars().begin(), name.size());
  const auto bytes = as_span(in.getBytes());
  op.bytes.assign(bytes.begin(), bytes.end());
}

void ChunkDecoder::load_output_step(log::OutputStep::Reader in, Event& event) {
  if (in.getKind() > kLastOutputStepKind)
    damaged("event {} of the chunk has the unknown step of output {}", at_, in.getKind());
  if (in.getStream() != 1 && in.getStream() != 2)
    damaged("event {} of the chunk: a step of output is for the unknown stream {}", at_, in.getStream());
  const uint32_t first = event.output_steps.empty() ? 0 : event.output_steps.back().before;
  if (in.getBefore() < first || in.getBefore() > event.outputs.size())
    damaged("event {} of the chunk: its steps of output are out of order", at_);
  OutputStep& step = event.output_steps.emplace_back();
  step.kind = static_cast<OutputStepKind>(in.getKind());
  step.stream = in.getStream();
  step.before = in.getBefore();
  step.offset = in.getOffset();
  const auto bytes = as_span(in.getBytes());
  step.bytes.assign(bytes.begin(), bytes.end());
}

void ChunkDecoder::load_extra(log::Extra::Reader in, Event& event) {
  const auto memory = in.getMemory();
  const auto ops = in.getSpaceOps();
  const auto patches = in.getPatches();
  const auto steps = in.getOutputSteps();
  if (std::max({memory.size(), ops.size(), patches.size(), steps.size()}) > kMaxListEntries)
    damaged("event {} of the chunk has a list of more than {} entries", at_, kMaxListEntries);
  for (const auto digest : memory) {
    MemoryDigest& out = event.memory.emplace_back();
    out.address = digest.getAddress();
    out.length = digest.getLength();
    if (!copy_exactly(digest.getDigest(), out.digest))
      damaged("event {} of the chunk: a memory digest has {} bytes", at_, digest.getDigest().size());
  }
  if (in.getHasFpuDigest()) event.fpu_digest = in.getFpuDigest();
  if (in.getBranchesPlusOne() != 0) event.branches = in.getBranchesPlusOne() - 1;
  const auto fpu = as_span(in.getFpu());
  if (!fpu.empty() && fpu.size() != kFpuBytes && fpu.size() != kWideFpuBytes)
    damaged("event {} of the chunk has {} bytes of FPU state", at_, fpu.size());
  event.fpu.assign(fpu.begin(), fpu.end());
  for (const auto op : ops) load_space_op(op, event.space_ops.emplace_back());
  for (const auto patch : patches) {
    CodePatch& out = event.patches.emplace_back();
    out.address = patch.getAddress();
    out.kind = patch.getKind();
    out.length = patch.getLength();
    out.operand = patch.getOperand();
    out.operand_bits = patch.getOperandBits();
    if (out.length > out.original.size() || !copy_exactly(patch.getOriginal(), out.original))
      damaged("event {} of the chunk: damaged code patch for {:#x}", at_, out.address);
  }
  for (const auto step : steps) load_output_step(step, event);
}

void ChunkDecoder::take_extra(Event& event) {
  if (extra_at_ == extras_.size()) return;
  const auto extra = extras_[extra_at_];
  if (extra.getEvent() < at_) damaged("its extras are out of order");
  if (extra.getEvent() > at_) return;
  extra_at_++;
  load_extra(extra, event);
}

void ChunkDecoder::check_end() const {
  for (const auto& column : {shape_indexes_, times_, masks_, deltas_, small_, bulk_, short_digests_})
    if (!column.empty()) damaged("{} bytes are left over after its last event", column.size());
  if (extra_at_ != extras_.size() || output_at_ != output_digests_.size())
    damaged("extras or outputs are left over after its last event");
}

bool ChunkDecoder::next(Event& event) {
  if (at_ == count_) return false;
  try {
    clear(event);
    KnownShape& known = take_shape();
    time_ += unzigzag(take_number(times_, "times"));
    event.kind = known.shape.kind;
    event.thread = known.shape.thread;
    event.rip = known.shape.rip;
    event.time_ns = time_;
    event.digest = take_digest(event.kind);
    take_slots(known, event);
    if (event.kind == EventKind::preempted && event.operands[1] == UINT64_MAX)
      damaged("event {} of the chunk: a count of branches that no machine reaches", at_);
    take_extra(event);
    at_++;
    if (at_ == count_) check_end();
  } catch (const kj::Exception& e) {
    damaged("event {} of the chunk: damaged Cap'n Proto message: {}", at_, e.getDescription().cStr());
  }
  return true;
}

}  // namespace aftercheck::recording
