// A guest may give up rights (setuid), change its root directory or its umask, and the recorder's thread that
// makes these calls for it gives them up too. What the recorder still has to open or create afterwards, it
// does here.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

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

  // Runs `work` and waits for it; what it throws is thrown here. One caller at a time.
  void run(const std::function<void()>& work);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* work_ = nullptr;
  std::exception_ptr thrown_;
  bool stopping_ = false;
  std::thread thread_;

  void hand_over(const std::function<void()>& work);
  void loop();
};

}  // namespace aftercheck
