// A guest may give up rights (setuid), change its root directory or its umask, and the recorder's thread that
// makes these calls for it gives them up too. What the recorder still has to open or create afterwards, it
// does here.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "base/fd.h"

namespace aftercheck {

// Work that is done with the credentials, root directory and umask that the process had when this was
// created. Until keep_apart() these are the caller's own, and the caller does the work: most programs never
// change theirs, and handing work over costs two switches of threads. From then on it is a thread's that has
// them still: credentials belong to a thread (credentials(7)), the rest is unshared from the other threads
// (unshare(2), CLONE_FS). Its working directory is the one of that moment, so `work` uses absolute paths.
// Signals don't interrupt the work.
class HostThread {
 public:
  HostThread() = default;
  ~HostThread();
  HostThread(const HostThread&) = delete;
  HostThread& operator=(const HostThread&) = delete;

  // To be called before anything changes the caller's credentials, root directory, umask or namespaces
  // (SystemCall::changes_rights says which calls do). Throws Error(io) when no thread can be started.
  void keep_apart();

  // In a child of fork(2), which has no other thread: a new one gets the root directory and the umask of the
  // parent's, as far as the caller's rights allow; credentials are the caller's.
  void forked();

  // Runs `work` and waits for it; what it throws is thrown here. One caller at a time.
  void run(const std::function<void()>& work);

 private:
  struct Apart {
    std::mutex mutex;
    std::condition_variable changed;
    const std::function<void()>* work = nullptr;
    std::exception_ptr thrown;
    bool stopping = false;
    std::thread thread;
  };
  std::unique_ptr<Apart> apart_;  // null: the caller does the work
  mode_t umask_ = 0;              // the thread's,
  UniqueFd root_;                 // and its root directory

  void start();
  void hand_over(const std::function<void()>& work);
  static void loop(Apart& apart);
};

}  // namespace aftercheck
