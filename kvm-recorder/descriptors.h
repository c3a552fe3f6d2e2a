// The guest shares the recorder's descriptor table; this keeps the two apart and remembers which of the
// guest's descriptors are the streams that a replay reproduces.
#pragma once

#include <sys/stat.h>

#include <array>
#include <cstdint>
#include <map>

namespace aftercheck {

// What one of the recorder's standard streams leads to, and where in it a replay would be. Positions are
// those of a regular file, in bytes; others have none.
struct OutputPlace {
  // Nothing else leads there if it was closed, or is a device that many use (/dev/null).
  bool known = false;
  dev_t device = 0, rdev = 0;
  ino_t inode = 0;
  bool regular = false;
  int64_t base = 0;  // where the stream stood when the recording began
  int64_t at = 0;    // where the next byte goes in a replay
  // The guest has moved in its output, so that bytes need not go where the last ones ended. Before, nobody
  // asks: other processes may write to the same file, and a replay has none of what they wrote.
  bool positioned = false;

  bool leads_to(const struct stat& status) const {
    return known && status.st_dev == device && status.st_ino == inode;
  }
};

class Descriptors {
 public:
  // The streams are what 1 and 2 lead to now; other descriptors that lead there are theirs, too.
  Descriptors();

  // False for the recorder's own descriptors: to the guest they are not open (EBADF).
  bool allowed(int fd) const;
  // 1 or 2 if `fd` leads to the recorder's standard output or error, else 0.
  uint8_t stream(int fd) const;
  void duplicated(int from, int to);  // dup and its kin succeeded
  void closed(int fd);
  void closed_range(unsigned first, unsigned last);
  // A descriptor that is no duplicate of another one: opened by name, or received in a message. Decided by
  // what it leads to. `likely`: the stream if it could be either.
  void arrived(int fd, uint8_t likely = 1);

  // Of stream 1 or 2.
  OutputPlace& place(uint8_t stream) { return places_.at(stream - 1U); }

 private:
  std::map<int, uint8_t> streams_;
  std::array<OutputPlace, 2> places_;

  uint8_t stream_of(int fd, uint8_t likely) const;
  bool shares_description(int fd, uint8_t stream) const;
};

}  // namespace aftercheck
