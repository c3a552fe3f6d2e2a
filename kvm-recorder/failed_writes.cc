#include "kvm-recorder/failed_writes.h"

#include <algorithm>
#include <span>

#include "base/guarded_copy.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {

void FailedWrites::watch(uint64_t address, uint64_t size) {
  if (address == 0 || address == kBadPointer || size == 0 || count_ == pieces_.size()) return;
  const size_t room = kKept - used_;
  const size_t kept = size <= room ? static_cast<size_t>(size) : std::min(room, kKeptOfLarge);
  if (kept == 0) return;
  // Where it can't be read, the kernel can't write.
  if (!guarded_copy(before_.data() + used_, reinterpret_cast<const void*>(address), kept)) return;
  pieces_[count_++] = {address, size, used_, kept};
  used_ += kept;
}

void FailedWrites::note(Call& call) const {
  std::array<std::byte, kKept> now;
  for (const Piece& piece : std::span(pieces_).first(count_)) {
    if (!guarded_copy(now.data(), reinterpret_cast<const void*>(piece.address), piece.kept)) continue;
    const std::byte* old = before_.data() + piece.offset;
    if (std::equal(old, old + piece.kept, now.data())) continue;
    if (piece.kept == piece.size)
      note_written(call, piece.address, piece.size);
    else
      note_reachable(call, piece.address, piece.size);
  }
}

}  // namespace aftercheck
