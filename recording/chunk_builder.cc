#include "recording/chunk_builder.h"

#include <capnp/message.h>
#include <capnp/serialize.h>

#include <algorithm>

#include "base/error.h"
#include "base/guarded_copy.h"
#include "log.capnp.h"
#include "recording/chunk_message.h"
#include "recording/writer.h"

namespace aftercheck::recording {
namespace {

constexpr size_t kFirstTableSize = 1024;

// Mixes well enough for a hash table: multiply by an odd constant (2^64 / golden ratio) and fold the high
// half down.
uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15;
  return hash ^ (hash >> 32);
}

uint64_t shape_number(const Event& event) {
  return event.kind == EventKind::syscall && !event.operands.empty() ? event.operands[0] : 0;
}

uint64_t shape_hash(const Event& event) {
  uint64_t hash = mix(event.rip, shape_number(event));
  hash = mix(hash,
             static_cast<uint64_t>(event.kind) | uint64_t{event.thread} << 8 | event.operands.size() << 40);
  for (const RegisterChange& change : event.registers) hash = mix(hash, change.number);
  hash = mix(hash, event.writes.size() << 8 | event.registers.size());
  for (const Output& output : event.outputs)
    hash = mix(hash,
               output.stream | uint64_t{static_cast<uint32_t>(output.fd)} << 8 | output.pieces.size() << 40);
  return hash;
}

bool same_shape(const Shape& shape, const Event& event) {
  const auto same_register = [](uint8_t number, const RegisterChange& change) {
    return number == change.number;
  };
  const auto same_output = [](const OutputShape& known, const Output& output) {
    return known.stream == output.stream && known.fd == output.fd && known.pieces == output.pieces.size();
  };
  return shape.rip == event.rip && shape.number == shape_number(event) && shape.kind == event.kind &&
         shape.thread == event.thread && shape.operands == event.operands.size() &&
         shape.writes == event.writes.size() &&
         std::equal(shape.registers.begin(), shape.registers.end(), event.registers.begin(),
                    event.registers.end(), same_register) &&
         std::equal(shape.outputs.begin(), shape.outputs.end(), event.outputs.begin(), event.outputs.end(),
                    same_output);
}

Shape shape_of(const Event& event) {
  Shape shape;
  shape.kind = event.kind;
  shape.thread = event.thread;
  shape.rip = event.rip;
  shape.number = shape_number(event);
  shape.operands = static_cast<uint32_t>(event.operands.size());
  shape.writes = static_cast<uint32_t>(event.writes.size());
  for (const RegisterChange& change : event.registers) shape.registers.push_back(change.number);
  for (const Output& output : event.outputs)
    shape.outputs.push_back({output.stream, output.fd, static_cast<uint32_t>(output.pieces.size())});
  return shape;
}

bool has_extra(const Event& event) {
  return !event.memory.empty() || event.fpu_digest || !event.fpu.empty() || !event.space_ops.empty() ||
         !event.patches.empty() || !event.output_steps.empty() || event.branches;
}

// Sizes in the payload, rounded up: structure, pointers and the data behind them.
constexpr uint64_t kExtraBytes = 88, kMemoryDigestBytes = 40, kSpaceOpBytes = 96, kCodePatchBytes = 40,
                   kOutputStepBytes = 40;
constexpr uint64_t kShapeBytes = 72, kOutputShapeBytes = 16;

uint64_t extra_size(const Event& event) {
  uint64_t size = kExtraBytes + event.fpu.size() + event.memory.size() * kMemoryDigestBytes +
                  event.patches.size() * kCodePatchBytes;
  for (const SpaceOp& op : event.space_ops) size += kSpaceOpBytes + op.name.size() + op.bytes.size();
  for (const OutputStep& step : event.output_steps) size += kOutputStepBytes + step.bytes.size();
  return size;
}

capnp::Data::Reader as_data(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const capnp::byte*>(bytes.data()), bytes.size()};
}

capnp::Data::Reader as_data(std::span<const uint8_t> bytes) { return {bytes.data(), bytes.size()}; }

void build_shape(const Shape& shape, log::Shape::Builder out) {
  out.setKind(static_cast<uint8_t>(shape.kind));
  out.setThread(shape.thread);
  out.setRip(shape.rip);
  out.setNumber(shape.number);
  out.setOperands(shape.operands);
  out.setWrites(shape.writes);
  if (!shape.registers.empty()) out.setRegisters(as_data(std::span<const uint8_t>(shape.registers)));
  if (shape.outputs.empty()) return;
  auto outputs = out.initOutputs(static_cast<unsigned>(shape.outputs.size()));
  for (unsigned i = 0; i < outputs.size(); i++) {
    outputs[i].setStream(shape.outputs[i].stream);
    outputs[i].setFd(shape.outputs[i].fd);
    outputs[i].setPieces(shape.outputs[i].pieces);
  }
}

void build_space_op(const SpaceOp& op, log::SpaceOp::Builder out) {
  out.setKind(static_cast<uint8_t>(op.kind));
  out.setShared(op.shared);
  out.setProt(op.prot);
  out.setAddress(op.address);
  out.setLength(op.length);
  out.setNewAddress(op.new_address);
  out.setNewLength(op.new_length);
  if (op.blob != Digest128{}) out.setBlob(as_data(std::span<const uint8_t>(op.blob)));
  out.setBlobOffset(op.blob_offset);
  if (!op.name.empty()) out.setName(as_data(std::as_bytes(std::span(op.name))));
  if (!op.bytes.empty()) out.setBytes(as_data(std::span(op.bytes)));
}

void build_patch(const CodePatch& patch, log::CodePatch::Builder out) {
  out.setAddress(patch.address);
  out.setKind(patch.kind);
  out.setLength(patch.length);
  out.setOperand(patch.operand);
  out.setOperandBits(patch.operand_bits);
  out.setOriginal(as_data(std::span<const uint8_t>(patch.original)));
}

void build_output_step(const OutputStep& step, log::OutputStep::Builder out) {
  out.setKind(static_cast<uint8_t>(step.kind));
  out.setStream(step.stream);
  out.setBefore(step.before);
  out.setOffset(step.offset);
  if (!step.bytes.empty()) out.setBytes(as_data(std::span(step.bytes)));
}

void build_extra(const Event& event, log::Extra::Builder out) {
  if (!event.memory.empty()) {
    auto memory = out.initMemory(static_cast<unsigned>(event.memory.size()));
    for (unsigned i = 0; i < memory.size(); i++) {
      memory[i].setAddress(event.memory[i].address);
      memory[i].setLength(event.memory[i].length);
      memory[i].setDigest(as_data(std::span<const uint8_t>(event.memory[i].digest)));
    }
  }
  out.setHasFpuDigest(event.fpu_digest.has_value());
  out.setFpuDigest(event.fpu_digest.value_or(0));
  if (event.branches) out.setBranchesPlusOne(*event.branches + 1);
  if (!event.fpu.empty()) out.setFpu(as_data(std::span(event.fpu)));
  if (!event.space_ops.empty()) {
    auto ops = out.initSpaceOps(static_cast<unsigned>(event.space_ops.size()));
    for (unsigned i = 0; i < ops.size(); i++) build_space_op(event.space_ops[i], ops[i]);
  }
  if (!event.patches.empty()) {
    auto patches = out.initPatches(static_cast<unsigned>(event.patches.size()));
    for (unsigned i = 0; i < patches.size(); i++) build_patch(event.patches[i], patches[i]);
  }
  if (!event.output_steps.empty()) {
    auto steps = out.initOutputSteps(static_cast<unsigned>(event.output_steps.size()));
    for (unsigned i = 0; i < steps.size(); i++) build_output_step(event.output_steps[i], steps[i]);
  }
}

}  // namespace

// Goes through the slots of one event: a mask bit for each, a delta for those that changed.
class ChunkBuilder::SlotWriter {
 public:
  SlotWriter(std::byte* masks, std::byte* deltas, uint64_t* last)
      : masks_(masks), deltas_(deltas), last_(last) {}

  void put(uint64_t value) {
    if (value != *last_) {
      mask_ |= bit_;
      deltas_ += put_varint(deltas_, zigzag(value - *last_));
      *last_ = value;
    }
    last_++;
    bit_ <<= 1;
    if (bit_ == 0x100) close_mask();
  }
  void finish() {
    if (bit_ != 1) close_mask();
  }
  std::byte* masks() const { return masks_; }
  std::byte* deltas() const { return deltas_; }

 private:
  void close_mask() {
    *masks_++ = static_cast<std::byte>(mask_);
    mask_ = 0;
    bit_ = 1;
  }

  std::byte* masks_;
  std::byte* deltas_;
  uint64_t* last_;
  unsigned mask_ = 0, bit_ = 1;
};

ChunkBuilder::ChunkBuilder() : table_(kFirstTableSize) {}

bool ChunkBuilder::full() const {
  // Half of the slots' limit stays free, so that a shape of any allowed size still fits.
  return raw_bytes() >= kChunkTargetBytes || shapes_.size() >= kMaxShapes || last_.size() >= kMaxSlots / 2;
}

uint64_t ChunkBuilder::raw_bytes() const {
  return shape_indexes_.size() + times_.size() + masks_.size() + deltas_.size() + small_.size() +
         bulk_.size() + digests_.size() * sizeof digests_[0] + short_digests_.size() * kShortDigestBytes +
         output_digests_.size() * sizeof output_digests_[0] + extra_bytes_ + shape_bytes_;
}

void ChunkBuilder::clear() {
  count_ = 0;
  base_time_ = last_time_ = extra_bytes_ = shape_bytes_ = 0;
  for (ByteBuffer* buffer : {&shape_indexes_, &times_, &masks_, &deltas_, &small_, &bulk_}) buffer->clear();
  digests_.clear();
  short_digests_.clear();
  output_digests_.clear();
  shapes_.clear();
  std::fill(table_.begin(), table_.end(), 0);
  last_.clear();
  extras_.clear();
}

void ChunkBuilder::check_limits(const Event& event) const {
  uint64_t slots = event.operands.size() + event.registers.size() + 2 * event.writes.size();
  for (const Output& output : event.outputs) slots += 2 * output.pieces.size();
  uint64_t bytes = 0;
  for (const MemoryWrite& write : event.writes) {
    if (write.bytes.size() > kMaxEventBytes) bytes = kMaxEventBytes;
    bytes += write.bytes.size();
  }
  const auto limit = [](const char* what, uint64_t value, uint64_t most) {
    if (value > most)
      fail(ErrorKind::internal, "an event has {} {}, an entry of the log holds {}: split it in continuations",
           value, what, most);
  };
  limit("bytes of memory writes", bytes, kMaxEventBytes);
  limit("operands, registers, writes and pieces of output", slots, kMaxEventSlots);
  limit("registers", event.registers.size(), 256);
  limit("outputs", event.outputs.size(), kMaxListEntries);
  limit("memory digests", event.memory.size(), kMaxListEntries);
  limit("changes of mappings", event.space_ops.size(), kMaxListEntries);
  limit("code patches", event.patches.size(), kMaxListEntries);
  limit("steps of output", event.output_steps.size(), kMaxListEntries);
  if (has_extra(event)) limit("bytes of mappings and digests", extra_size(event), kMaxExtraBytes);
  if (!event.fpu.empty() && event.fpu.size() != kFpuBytes && event.fpu.size() != kWideFpuBytes)
    fail(ErrorKind::internal, "an event has {} bytes of FPU state instead of {} or {}", event.fpu.size(),
         kFpuBytes, kWideFpuBytes);
}

// First step of append(), and the only one that can fail on the guest's account.
void ChunkBuilder::copy_writes(const Event& event) {
  const size_t small = small_.size(), bulk = bulk_.size();
  for (const MemoryWrite& write : event.writes) {
    if (write.bytes.empty()) continue;
    ByteBuffer& column = write.bytes.size() < kSmallWriteBytes ? small_ : bulk_;
    if (guarded_copy(column.reserve_more(write.bytes.size()), write.bytes.data(), write.bytes.size())) {
      column.grow(write.bytes.size());
      continue;
    }
    small_.shrink_to(small);
    bulk_.shrink_to(bulk);
    fail(ErrorKind::internal, "the {} bytes of a memory write at {:#x} can't be read for the log",
         write.bytes.size(), write.address);
  }
}

void ChunkBuilder::append_varint(ByteBuffer& buffer, uint64_t value) {
  buffer.grow(put_varint(buffer.reserve_more(kMaxVarintBytes), value));
}

void ChunkBuilder::rehash() {
  table_.assign(2 * table_.size(), 0);
  const size_t mask = table_.size() - 1;
  for (uint32_t i = 0; i < shapes_.size(); i++) {
    size_t at = shapes_[i].hash & mask;
    while (table_[at] != 0) at = (at + 1) & mask;
    table_[at] = i + 1;
  }
}

uint32_t ChunkBuilder::add_shape(const Event& event, uint64_t hash) {
  KnownShape known{shape_of(event), hash, static_cast<uint32_t>(last_.size()), 0};
  known.slot_count = static_cast<uint32_t>(known.shape.slot_count());
  last_.resize(last_.size() + known.slot_count);
  shape_bytes_ += kShapeBytes + known.shape.registers.size() + known.shape.outputs.size() * kOutputShapeBytes;
  shapes_.push_back(std::move(known));
  if (2 * shapes_.size() > table_.size()) rehash();
  return static_cast<uint32_t>(shapes_.size() - 1);
}

uint32_t ChunkBuilder::find_shape(const Event& event) {
  const uint64_t hash = shape_hash(event);
  const size_t mask = table_.size() - 1;
  for (size_t at = hash & mask;; at = (at + 1) & mask) {
    const uint32_t entry = table_[at];
    if (entry == 0) {
      table_[at] = static_cast<uint32_t>(shapes_.size() + 1);
      return add_shape(event, hash);
    }
    const KnownShape& known = shapes_[entry - 1];
    if (known.hash == hash && same_shape(known.shape, event)) return entry - 1;
  }
}

void ChunkBuilder::append_slots(const KnownShape& known, const Event& event) {
  std::byte* masks = masks_.reserve_more(known.slot_count / 8 + 1);
  std::byte* deltas = deltas_.reserve_more(known.slot_count * kMaxVarintBytes);
  SlotWriter slots(masks, deltas, last_.data() + known.first_slot);
  for (size_t i = known.shape.has_number() ? 1 : 0; i < event.operands.size(); i++)
    slots.put(event.operands[i]);
  for (const RegisterChange& change : event.registers) slots.put(change.value);
  for (const MemoryWrite& write : event.writes) {
    slots.put(write.address);
    slots.put(write.bytes.size());
  }
  for (const Output& output : event.outputs) {
    for (const Output::Piece& piece : output.pieces) {
      slots.put(piece.address);
      slots.put(piece.length);
    }
  }
  slots.finish();
  masks_.grow(static_cast<size_t>(slots.masks() - masks));
  deltas_.grow(static_cast<size_t>(slots.deltas() - deltas));
}

void ChunkBuilder::append_extra(const Event& event) {
  Extra extra;
  extra.event = count_;
  extra.parts.memory = event.memory;
  extra.parts.fpu_digest = event.fpu_digest;
  extra.parts.branches = event.branches;
  extra.parts.fpu = event.fpu;
  extra.parts.space_ops = event.space_ops;
  extra.parts.patches = event.patches;
  extra.parts.output_steps = event.output_steps;
  extra_bytes_ += extra_size(event);
  extras_.push_back(std::move(extra));
}

void ChunkBuilder::append(const Event& event) {
  check_limits(event);
  copy_writes(event);
  if (count_ == 0) base_time_ = last_time_ = event.time_ns;
  const uint32_t shape = find_shape(event);
  append_varint(shape_indexes_, shape);
  append_varint(times_, zigzag(event.time_ns - last_time_));
  last_time_ = event.time_ns;
  if (event.kind == EventKind::preempted)
    short_digests_.push_back(static_cast<uint16_t>(event.digest));
  else
    digests_.push_back(event.digest);
  append_slots(shapes_[shape], event);
  for (const Output& output : event.outputs) output_digests_.push_back(output.digest);
  if (has_extra(event)) append_extra(event);
  count_++;
}

uint64_t ChunkBuilder::write_to(ChunkFileWriter& file, uint64_t first_event) const {
  // One segment for all in the usual case: the estimate plus what the root and its columns' padding need.
  capnp::MallocMessageBuilder message(static_cast<unsigned>(raw_bytes() / sizeof(capnp::word) + 64));
  auto chunk = message.initRoot<log::Chunk>();
  chunk.setFirstEvent(first_event);
  chunk.setBaseTime(base_time_);
  chunk.setShapeIndexes(as_data(shape_indexes_.span()));
  chunk.setTimes(as_data(times_.span()));
  chunk.setDigests(kj::arrayPtr(digests_.data(), digests_.size()));
  if (!short_digests_.empty()) chunk.setShortDigests(as_data(std::as_bytes(std::span(short_digests_))));
  chunk.setMasks(as_data(masks_.span()));
  chunk.setDeltas(as_data(deltas_.span()));
  chunk.setOutputDigests(kj::arrayPtr(output_digests_.data(), output_digests_.size()));
  chunk.setSmallBytes(as_data(small_.span()));
  chunk.setBulkBytes(as_data(bulk_.span()));
  auto shapes = chunk.initShapes(static_cast<unsigned>(shapes_.size()));
  for (unsigned i = 0; i < shapes.size(); i++) build_shape(shapes_[i].shape, shapes[i]);
  auto extras = chunk.initExtras(static_cast<unsigned>(extras_.size()));
  for (unsigned i = 0; i < extras.size(); i++) {
    extras[i].setEvent(extras_[i].event);
    build_extra(extras_[i].parts, extras[i]);
  }

  ChunkHeader header;
  return write_message(file, header, message);
}

}  // namespace aftercheck::recording
