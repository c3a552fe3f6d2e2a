#include "machine/translated/lent_memory.h"

#include <sys/mman.h>
#include <sys/random.h>

namespace aftercheck::translated {
namespace {

constexpr uint64_t kAligned = 64;
uint64_t aligned(uint64_t size) { return (size + kAligned - 1) & ~(kAligned - 1); }

}  // namespace

LentRange::LentRange(AddressSpace& space, uint64_t size, uint64_t wished)
    : space_(space),
      size_(aligned(size)),
      lent_(space.lend(page_up(size_ + 2 * kMark) + 2 * kPageSize, wished)) {
  for (const uint64_t page : {lent_.start, lent_.end - kPageSize})
    mprotect(reinterpret_cast<void*>(page), kPageSize, PROT_NONE);
  if (getrandom(&mark_, sizeof mark_, GRND_NONBLOCK) != static_cast<ssize_t>(sizeof mark_))
    mark_ = lent_.start * 0x9e37;
  for (const uint64_t at : {lent_.start + kPageSize, start() - sizeof mark_, start() + size_})
    word(at) = mark_;
}

LentRange::~LentRange() { space_.take_back(lent_); }

}  // namespace aftercheck::translated
