// What the replays of processes that share memory are to each other.
#pragma once

#include <cstdint>

#include "base/fd.h"

namespace aftercheck {

// Each process of a recording is replayed by a process of its own. Those that share memory run in the
// recorded turns (recording/event.h), on the same memory: what is mapped shared when the replay is forked,
// and files by their numbers. Used on the thread that replays.
class SharingReplays {
 public:
  virtual ~SharingReplays() = default;
  // This process's turn is over, if it has one, and that with this number is wanted: comes back when all
  // before are over. 0: none is, any more. Throws Error where it can't come.
  virtual void turn(uint64_t number) = 0;
  // The file with this number as another process has it, or none: then this process's own is shown to the
  // others, open until this process ends. In a turn only.
  virtual UniqueFd file_of_others(uint64_t number) = 0;
  virtual void show_file(uint64_t number, int fd) = 0;
};

}  // namespace aftercheck
