// The guest shares the recorder's descriptor table; this keeps the two apart and remembers which of the
// guest's descriptors are the streams that a replay reproduces.
#pragma once

#include <cstdint>
#include <map>

namespace aftercheck {

class Descriptors {
 public:
  Descriptors() : streams_{{1, 1}, {2, 2}} {}

  // False for the recorder's own descriptors: to the guest they are not open (EBADF).
  bool allowed(int fd) const;
  // 1 or 2 if `fd` leads to the recorder's standard output or error (followed through dup, dup2, dup3,
  // fcntl), else 0.
  uint8_t stream(int fd) const;
  void duplicated(int from, int to);  // dup and its kin succeeded
  void closed(int fd);
  void closed_range(unsigned first, unsigned last);

 private:
  std::map<int, uint8_t> streams_;
};

}  // namespace aftercheck
