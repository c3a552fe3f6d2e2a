// What one event of one guest thread does to the guest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "machine/address_space.h"
#include "recording/byte_buffer.h"
#include "recording/event.h"

namespace aftercheck {

// Writes to guest memory go through the answer of the thread that they are made for, so that a change and its
// note are one call and nothing can miss the log; changes of mappings go through LoggedSpace, which notes
// them here. Bytes are copied when they are noted: other threads of the guest may run between then and the
// end of the event. One thread's, used by the holder of the token.
class Answer {
 public:
  // `space` must outlive this.
  explicit Answer(AddressSpace& space) : space_(space) {}
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;

  // The kernel (or we) just wrote these guest bytes. Empty ranges are fine; of what can't be read (a file's
  // mapping beyond the file's end) nothing can have been written, and it is left out. More bytes than one
  // entry of the log holds (recording::kMaxEventBytes) stay where they are until the event is appended:
  // whoever notes so many holds the token until then.
  void written(uint64_t address, uint64_t size);
  // Writes and notes; false (nothing noted) when the guest's mapping there isn't writable, as the kernel's
  // EFAULT.
  bool write(uint64_t address, const void* data, uint64_t size);
  template <typename T>
  bool write_object(uint64_t address, const T& object) {
    return write(address, &object, sizeof object);
  }
  // As write, whatever the protection: for the loader.
  bool poke(uint64_t address, const void* data, uint64_t size);

  // Bytes leave the guest.
  void add(recording::Output output);
  // Something else happened to a standard stream, after the outputs so far.
  void add(recording::OutputStep step);

  const AddressSpace& space() const { return space_; }

  // LoggedSpace's: a change of mappings has been made, code has been patched.
  void add(recording::SpaceOp op);
  void add(const CodePatch& patch);
  // What was in this range is no more. A replay makes the changes of mappings first and the writes after
  // them, so bytes noted there before must not come again.
  void forget(Range range);
  void forget_everything();

  // Moves what was noted since the last call into `event` (space_ops, writes, patches, outputs, steps of
  // output). Its writes are spans of this object's and of guest memory: append it before anything else is
  // noted here and before the guest runs.
  void move_to(recording::Event& event);

 private:
  struct Noted {
    uint64_t address, size;
    uint64_t offset;  // in bytes_, or kInGuest
  };
  static constexpr uint64_t kInGuest = UINT64_MAX;

  AddressSpace& space_;
  std::vector<recording::SpaceOp> ops_;
  std::vector<Noted> writes_;
  recording::ByteBuffer bytes_;
  bool moved_ = false;  // bytes_ belong to an event that was appended
  std::vector<recording::CodePatch> patches_;
  std::vector<recording::Output> outputs_;
  std::vector<recording::OutputStep> output_steps_;

  void note(uint64_t address, uint64_t size, const void* bytes);
};

}  // namespace aftercheck
