// Memory for translated code: one mapping of it can be executed and not written, the other, elsewhere,
// written and not executed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/fd.h"
#include "machine/address_space.h"

namespace aftercheck::translated {

class CodeArea {
 public:
  // Takes `size` bytes (a multiple of the page size) that are free in `window`. Throws Error(host_lacks).
  CodeArea(Range window, uint64_t size);
  ~CodeArea();
  CodeArea(const CodeArea&) = delete;
  CodeArea& operator=(const CodeArea&) = delete;

  // Where it is executed, and can be read.
  Range executed() const { return executed_; }
  // Where its bytes are written, but for those of a file.
  uint8_t* written() const { return written_; }
  // executed().start - written()
  int64_t shift() const {
    return static_cast<int64_t>(executed_.start - reinterpret_cast<uint64_t>(written_));
  }

  // What is executed from `at` on (a multiple of kPart behind the start) are these bytes, which `file` has at
  // `offset`, where a page begins. The file does not change.
  void show(uint64_t at, std::span<const std::byte> bytes, int file, uint64_t offset);
  // No file is shown any more.
  void show_none();
  // Where `size` bytes that are executed at `at` can be written, whatever they were before. Valid up to the
  // next call of this class.
  uint8_t* writable(uint64_t at, size_t size);

  // What is shown of a file and then written becomes memory of its own in parts of so many bytes.
  static constexpr uint64_t kPart = uint64_t{64} << 10;

 private:
  UniqueFd memory_;
  Range executed_;
  uint8_t* written_ = nullptr;
  std::vector<bool> of_file_;  // by part

  void map_executed(uint64_t at, int file, uint64_t offset, uint64_t size) const;
};

}  // namespace aftercheck::translated
