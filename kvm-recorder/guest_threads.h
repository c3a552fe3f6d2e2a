// The threads of the guest, for the calls that make, find and end them.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "machine/registers.h"

namespace aftercheck {

struct GuestTask;

// What clone(2) says of a new thread.
struct NewThread {
  Registers registers;           // that it starts with
  FpuState fpu;                  // likewise
  bool own_folders = false;      // without CLONE_FS: working directory, root and umask are its own
  bool own_undoing = false;      // without CLONE_SYSVSEM: so is what semop(2) undoes at its end
  uint64_t clear_child_tid = 0;  // CLONE_CHILD_CLEARTID; 0: none
};

// Used by the holder of the token.
class GuestThreads {
 public:
  // The new thread's number in the system, or -errno. It runs when it gets the token.
  virtual long start(GuestTask& by, const NewThread& thread) = 0;
  // Null: no thread of the guest has this number.
  virtual GuestTask* find(pid_t number) = 0;
  virtual std::vector<GuestTask*> all() = 0;
  virtual size_t count() const = 0;
  // execve(2): when it comes back there is only `by`, and, if its call goes on, that has the process's
  // number.
  virtual void end_others(GuestTask& by) = 0;
  // Memory is about to be there that other processes of the recording have, too, or will have: from here on
  // the process runs in turns with them (memory_group.h).
  virtual void share_memory(GuestTask& by) = 0;
  // The processors that the threads may run on are as the guest has them, until a thread waits.
  virtual void clear_pins() = 0;

 protected:
  ~GuestThreads() = default;
};

}  // namespace aftercheck
