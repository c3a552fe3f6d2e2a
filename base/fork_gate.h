// Keeps fork(2) and the work of the recorder's other threads apart, in builds with a sanitizer.
//
// A child of fork(2) has each lock as some thread of its parent's held it, and not the thread that would give
// it back. libc sees to its own locks, and objects of ours that other threads use are left alone or made anew
// in the child. The locks of AddressSanitizer's allocator are neither (LLVM 14; its own remedy, in later
// versions, leaves a lock in the child on which somebody seems to wait): the child would hang where it next
// needs memory. Without a sanitizer all of this is nothing, and a fork waits for nobody.
#pragma once

#ifdef AFTERCHECK_SANITIZED
#include <unistd.h>

#include <new>
#include <shared_mutex>
#endif

namespace aftercheck {

#ifdef AFTERCHECK_SANITIZED

namespace detail {
inline std::shared_mutex fork_gate;
}

// While a thread has one, no other forks. Not to be had while it waits for others, and once only.
class NoForkMeanwhile {
 public:
  NoForkMeanwhile() { detail::fork_gate.lock_shared(); }
  ~NoForkMeanwhile() { detail::fork_gate.unlock_shared(); }
  NoForkMeanwhile(const NoForkMeanwhile&) = delete;
  NoForkMeanwhile& operator=(const NoForkMeanwhile&) = delete;
};

// Around fork(2): waits until none of those is there. Ends in parent and child.
class ForkAlone {
 public:
  ForkAlone() { detail::fork_gate.lock(); }
  ~ForkAlone() {
    if (getpid() == process_)
      detail::fork_gate.unlock();
    else
      new (&detail::fork_gate) std::shared_mutex;  // it knows its owner by the thread's number
  }
  ForkAlone(const ForkAlone&) = delete;
  ForkAlone& operator=(const ForkAlone&) = delete;

 private:
  const pid_t process_ = getpid();
};

#else

struct NoForkMeanwhile {
  NoForkMeanwhile() {}  // so that a variable of it is not unused
};
struct ForkAlone {
  ForkAlone() {}
};

#endif

}  // namespace aftercheck
