#include "kvm-recorder/answer.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "base/guarded_copy.h"
#include "checkpoint/space_description.h"
#include "recording/writer.h"

namespace aftercheck {
namespace {

std::span<const std::byte> guest_bytes(uint64_t address, uint64_t size) {
  return {reinterpret_cast<const std::byte*>(address), size};
}

// How much of the range can be read, from its start on.
uint64_t readable_size(uint64_t address, uint64_t size) {
  const uint64_t end = address + size;
  std::byte probe;
  for (uint64_t at = address; at < end; at = page_down(at) + kPageSize)
    if (!guarded_copy(&probe, reinterpret_cast<const void*>(at), 1)) return at - address;
  return size;
}

}  // namespace

void Answer::note(uint64_t address, uint64_t size, const void* bytes) {
  if (std::exchange(moved_, false)) bytes_.clear();
  if (size > recording::kMaxEventBytes - bytes_.size()) {
    size = readable_size(address, size);
    if (size != 0) writes_.push_back({address, size, kInGuest});
    return;
  }
  std::byte* copy = bytes_.reserve_more(size);
  if (!guarded_copy(copy, bytes, size)) {
    size = readable_size(address, size);
    if (size == 0 || !guarded_copy(copy, bytes, size)) return;
  }
  writes_.push_back({address, size, bytes_.size()});
  bytes_.grow(size);
}

void Answer::written(uint64_t address, uint64_t size) {
  if (size == 0) return;
  if (!space_.accessible(address, size, 0)) return;  // the kernel wrote less than it was allowed to
  note(address, size, reinterpret_cast<const void*>(address));
  space_.host_wrote({address, address + size});
}

bool Answer::write(uint64_t address, const void* data, uint64_t size) {
  if (!space_.accessible(address, size, PROT_WRITE)) return false;
  return poke(address, data, size);
}

bool Answer::poke(uint64_t address, const void* data, uint64_t size) {
  if (!space_.write(address, data, size)) return false;
  if (size != 0) note(address, size, data);
  return true;
}

void Answer::add(recording::Output output) { outputs_.push_back(std::move(output)); }

void Answer::add(recording::OutputStep step) {
  step.before = static_cast<uint32_t>(outputs_.size());
  output_steps_.push_back(std::move(step));
}

void Answer::add(recording::SpaceOp op) { ops_.push_back(std::move(op)); }

void Answer::add(const CodePatch& patch) { patches_.push_back(to_log(patch)); }

void Answer::forget(Range range) {
  if (!writes_.empty()) {
    std::vector<Noted> kept;
    for (const Noted& noted : writes_) {
      const uint64_t end = noted.address + noted.size;
      if (end <= range.start || noted.address >= range.end) {
        kept.push_back(noted);
        continue;
      }
      if (noted.address < range.start)
        kept.push_back({noted.address, range.start - noted.address, noted.offset});
      if (end > range.end) {
        const uint64_t skipped = range.end - noted.address;
        kept.push_back(
            {range.end, end - range.end, noted.offset == kInGuest ? kInGuest : noted.offset + skipped});
      }
    }
    writes_ = std::move(kept);
  }
  std::erase_if(patches_, [&](const recording::CodePatch& patch) { return range.contains(patch.address); });
}

void Answer::forget_everything() {
  ops_.clear();
  writes_.clear();
  patches_.clear();
}

void Answer::move_to(recording::Event& event) {
  event.space_ops = std::move(ops_);
  event.patches = std::move(patches_);
  event.outputs = std::move(outputs_);
  event.output_steps = std::move(output_steps_);
  event.writes.clear();  // its room is used again
  for (const Noted& noted : writes_)
    event.writes.push_back({noted.address, noted.offset == kInGuest
                                               ? guest_bytes(noted.address, noted.size)
                                               : bytes_.span().subspan(noted.offset, noted.size)});
  ops_.clear();
  patches_.clear();
  outputs_.clear();
  output_steps_.clear();
  writes_.clear();
  moved_ = true;
}

}  // namespace aftercheck
