// Values by disjoint ranges of addresses, as mmap(2) keeps them: a later range replaces what it overlaps, and
// what is left of a range keeps its part of the value.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <utility>

namespace aftercheck {

// `T` says how many bytes it is for, at least one, and what a part of it is:
//   uint64_t extent() const;
//   T part(uint64_t skip, uint64_t size) const;   // skip + size <= extent()
// Ranges are given as address and size: size 0 is nothing, and what would pass the end of the address space
// is cut there. Neighbours are never joined. Iterators are those of std::map. Not thread-safe.
template <typename T>
class IntervalMap {
 public:
  using Entries = std::map<uint64_t, T>;
  using Iterator = typename Entries::const_iterator;

  // By first address.
  const Entries& entries() const { return entries_; }
  Iterator begin() const { return entries_.begin(); }
  Iterator end() const { return entries_.end(); }
  void clear() { entries_.clear(); }

  // The entry that has `address`, or end().
  Iterator find(uint64_t address) const {
    const Iterator it = entries_.upper_bound(address);
    if (it == entries_.begin()) return end();
    const Iterator before = std::prev(it);
    return address - before->first < before->second.extent() ? before : end();
  }

  // Is there an entry at every address of the range?
  bool covers(uint64_t address, uint64_t size) const {
    if (size == 0) return true;
    const uint64_t last = last_of(address, size);
    for (Iterator it = find(address); it != end(); ++it) {
      if (it->first > address) return false;
      const uint64_t last_here = last_of(it->first, it->second.extent());
      if (last_here >= last) return true;
      address = last_here + 1;
    }
    return false;
  }

  // Calls visit(start, value, first, size) for every entry with bytes in the range, ascending: they are those
  // from `first` on, and `start` is the entry's own first address. `visit` must leave the map as it is.
  template <typename Visit>
  void visit(uint64_t address, uint64_t size, Visit visit) const {
    if (size == 0) return;
    const uint64_t last = last_of(address, size);
    for (auto it = first_in(entries_, address); it != end() && it->first <= last; ++it) {
      const uint64_t from = std::max(it->first, address);
      const uint64_t to = std::min(last_of(it->first, it->second.extent()), last);
      visit(it->first, it->second, from, to - from + 1);
    }
  }

  // An entry that `address` lies inside of becomes two, of which one starts there.
  void split_at(uint64_t address) {
    const auto it = first_in(entries_, address);
    if (it == entries_.end() || it->first >= address) return;
    const uint64_t left = address - it->first, right = it->second.extent() - left;
    entries_.emplace_hint(std::next(it), address, it->second.part(left, right));
    it->second = it->second.part(0, left);
  }

  // Takes the range out; gives what was there.
  Entries cut_out(uint64_t address, uint64_t size) {
    Entries taken;
    if (size == 0) return taken;
    const uint64_t last = last_of(address, size);
    split_at(address);
    if (last != UINT64_MAX) split_at(last + 1);
    for (auto it = entries_.lower_bound(address); it != entries_.end() && it->first <= last;)
      taken.insert(taken.end(), entries_.extract(it++));
    return taken;
  }
  void erase(uint64_t address, uint64_t size) { cut_out(address, size); }

  // Takes out what is there first. A value without extent changes nothing.
  void put(uint64_t address, T value) {
    if (value.extent() == 0) return;
    erase(address, value.extent());
    entries_.emplace(address, std::move(value));
  }

 private:
  Entries entries_;

  static uint64_t last_of(uint64_t address, uint64_t size) {
    const uint64_t last = address + (size - 1);
    return last < address ? UINT64_MAX : last;
  }

  // The entry that has `address`, else the first after it.
  template <typename Map>
  static auto first_in(Map& entries, uint64_t address) {
    auto it = entries.upper_bound(address);
    if (it == entries.begin()) return it;
    const auto before = std::prev(it);
    return address - before->first < before->second.extent() ? before : it;
  }
};

}  // namespace aftercheck
