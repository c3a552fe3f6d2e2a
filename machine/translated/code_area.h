// Memory for translated code: one mapping of it can be executed and not written, the other, elsewhere,
// written and not executed.
#pragma once

#include <cstdint>

#include "machine/address_space.h"

namespace aftercheck::translated {

class CodeArea {
 public:
  // Takes `size` bytes (a multiple of the page size) that are free in `window`. Throws Error(host_lacks).
  CodeArea(Range window, uint64_t size);
  ~CodeArea();
  CodeArea(const CodeArea&) = delete;
  CodeArea& operator=(const CodeArea&) = delete;

  // Where it is executed.
  Range executed() const { return executed_; }
  // Where its bytes are written.
  uint8_t* written() const { return written_; }
  // executed().start - written()
  int64_t shift() const {
    return static_cast<int64_t>(executed_.start - reinterpret_cast<uint64_t>(written_));
  }

 private:
  Range executed_;
  uint8_t* written_ = nullptr;
};

}  // namespace aftercheck::translated
