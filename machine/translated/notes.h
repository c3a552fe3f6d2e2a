// What translated code notes of its own execution: the paths that it has taken, in the order of execution.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "machine/translated/accesses.h"

namespace aftercheck::translated {

// How a path ends.
enum class PathEnd : uint8_t {
  behind,  // goes on behind its last instruction, or leaves translated code there
  taken,   // its last conditional branch is taken
  jump,    // direct
  call,    // direct
  indirect_jump,
  indirect_call,
  ret,
};

// A way through a block from its start, by number: of its conditional branches only the last may be taken. A
// contiguous stretch of code.
struct Path {
  uint64_t start = 0, end = 0;  // what is executed
  uint64_t next = 0;            // where the guest goes on, unless an indirect branch says it
  uint64_t last = 0;            // the branch that ends it, unless `behind`
  // Of Paths: so many from there on.
  uint32_t first_conditional = 0, first_access = 0;
  uint8_t conditionals = 0, accesses = 0;
  PathEnd how = PathEnd::behind;

  bool taken() const { return how == PathEnd::taken; }
  bool indirect() const { return how >= PathEnd::indirect_jump; }
};
constexpr unsigned kMostConditionals = 4;  // of a path

// A path by its number, with what is looked at each time it is taken.
class PathNote {
 public:
  PathNote() = default;
  PathNote(uint32_t number, const Path& path)
      : word_(number << kNumberShift | (path.indirect() ? kIndirect : 0) | (path.taken() ? kTaken : 0) |
              path.conditionals) {}
  explicit PathNote(uint32_t word) : word_(word) {}

  uint32_t word() const { return word_; }
  uint32_t number() const { return word_ >> kNumberShift; }
  uint32_t conditionals() const { return word_ & kConditionals; }
  uint32_t taken() const { return word_ / kTaken & 1; }        // 0 or 1
  uint32_t indirect() const { return word_ / kIndirect & 1; }  // 0 or 1

  static constexpr uint32_t kMostPaths = uint32_t{1} << 27;

 private:
  static constexpr uint32_t kConditionals = 7, kTaken = 8, kIndirect = 16, kNumberShift = 5;
  static_assert(kMostConditionals <= kConditionals && kMostPaths << kNumberShift == 0);
  uint32_t word_ = 0;
};

struct ConditionalSite {
  uint64_t address = 0, next = 0;  // the next instruction
};

// All of one translator, by number.
struct Paths {
  std::vector<Path> paths;
  std::vector<ConditionalSite> conditionals;
  std::vector<AccessSite> accesses;

  const Path& operator[](uint32_t number) const { return paths[number]; }
  // Where the guest was when the path's conditional branches had been executed, and nothing else.
  uint64_t behind_conditionals(const Path& path) const {
    if (path.conditionals == 0) return path.start;
    return path.taken() ? path.next : conditionals[path.first_conditional + path.conditionals - 1U].next;
  }
  void clear() {
    paths.clear();
    conditionals.clear();
    accesses.clear();
  }
};
constexpr uint32_t kNoPath = 0xffff'ffff;

// Where translated code writes them: notes, and apart from these the targets of indirect branches and the
// addresses of accesses, so that where a note is does not depend on those before it. Behind each are pages
// that can't be written to, where writing faults when there is no more room.
class NoteBuffer {
 public:
  // Where the next of each goes; they must outlive the buffer. Throws Error(host_lacks).
  NoteBuffer(uint64_t& next_note, uint64_t& next_target, uint64_t& next_address);
  ~NoteBuffer();
  NoteBuffer(const NoteBuffer&) = delete;
  NoteBuffer& operator=(const NoteBuffer&) = delete;

  const uint32_t* notes() const { return first_note(); }
  const uint32_t* notes_end() const { return reinterpret_cast<const uint32_t*>(next_note_); }
  const uint64_t* targets() const { return first_target(); }
  const uint64_t* addresses() const { return first_address(); }
  void clear();
  // Is this where a note would go for which there is no room?
  bool is_overrun(uint64_t address) const;
  // The newest is an indirect branch's, and did not come true.
  void take_back_indirect();

 private:
  // Small enough for a second-level cache; a fault at its end costs some 10 us, and telling what is in it
  // more than that.
  static constexpr size_t kNotes = 256 << 10, kTargets = 256 << 10, kAddresses = 512 << 10,
                          kGuard = 4096;  // bytes
  static constexpr size_t kSize = kNotes + kTargets + kAddresses + 3 * kGuard;
  uint64_t& next_note_;
  uint64_t& next_target_;
  uint64_t& next_address_;
  std::byte* memory_ = nullptr;

  uint32_t* first_note() const { return reinterpret_cast<uint32_t*>(memory_); }
  uint64_t* first_target() const { return reinterpret_cast<uint64_t*>(memory_ + kNotes + kGuard); }
  uint64_t* first_address() const {
    return reinterpret_cast<uint64_t*>(memory_ + kNotes + kTargets + 2 * kGuard);
  }
};

}  // namespace aftercheck::translated
