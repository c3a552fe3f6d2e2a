// Memory below 2 GiB that translated code addresses, lent from the guest's window: at a place that differs
// from run to run, between pages that nobody may touch, and with a mark before and behind it that tells when
// a guest has written there.
#pragma once

#include <cstdint>
#include <new>

#include "machine/address_space.h"

namespace aftercheck::translated {

class LentRange {
 public:
  // At `wished`, a place() of before, if that is free. Throws Error(host_lacks).
  LentRange(AddressSpace& space, uint64_t size, uint64_t wished = 0);
  ~LentRange();
  LentRange(const LentRange&) = delete;
  LentRange& operator=(const LentRange&) = delete;

  // What may be used: `size` bytes, all zeros, aligned to 64.
  uint64_t start() const { return lent_.start + kPageSize + kMark; }
  uint64_t place() const { return lent_.start; }
  // False when what lies around it was written to.
  bool intact() const {
    return word(lent_.start + kPageSize) == mark_ && word(start() - sizeof mark_) == mark_ &&
           word(start() + size_) == mark_;
  }

 private:
  static constexpr uint64_t kMark = 64;
  AddressSpace& space_;
  const uint64_t size_;
  Range lent_;
  uint64_t mark_ = 0;

  static uint64_t& word(uint64_t address) { return *reinterpret_cast<uint64_t*>(address); }
};

// One object in it.
template <typename T>
class Lent {
 public:
  explicit Lent(AddressSpace& space, uint64_t wished = 0)
      : range_(space, sizeof(T), wished), object_(new (reinterpret_cast<void*>(range_.start())) T) {}
  T& operator*() const { return *object_; }
  T* operator->() const { return object_; }
  bool intact() const { return range_.intact(); }
  uint64_t place() const { return range_.place(); }

 private:
  LentRange range_;
  T* const object_;
};

}  // namespace aftercheck::translated
