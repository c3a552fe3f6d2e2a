// Code that a program wrote itself: no log has it, but the memory of a replay does. Fills an image up with it
// while the replay goes on.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "pt-trace/code_image.h"
#include "recording/event.h"
#include "replay-engine/guest.h"

namespace aftercheck {

// Code is taken as it is at the exit that ends a segment: what was executed and then overwritten in the same
// segment is not seen. Not thread-safe.
class WrittenCode {
 public:
  // `image` has the code of files as RecordedCode knows it. It and the guest must outlive this.
  WrittenCode(pt::CodeImage& image, Guest& guest);
  ~WrittenCode();
  WrittenCode(const WrittenCode&) = delete;
  WrittenCode& operator=(const WrittenCode&) = delete;

  // The guest stands at an exit: the image is now as its memory is. Code that is asked for is read when it
  // is.
  void update();
  // An event was answered, in the guest's memory and in the image's files.
  void answered(const recording::Event& event);

 private:
  using Page = std::shared_ptr<const std::vector<uint8_t>>;
  Page read(uint64_t page) const;
  void give(uint64_t address);
  void compare(uint64_t page);
  void compare_all(Range range);
  void compare_files(Range range);
  void forget(Range range);
  void look_at_mappings();

  pt::CodeImage& image_;
  Guest& guest_;
  std::map<uint64_t, Page> given_;  // by address
  // Code that the guest may change without an exit. Of files all pages are compared, else those given.
  std::vector<Range> writable_, writable_files_;
};

}  // namespace aftercheck
