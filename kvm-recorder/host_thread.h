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

// A thread with the credentials, root directory, working directory and umask that the process had when this
// was created: credentials belong to a thread (credentials(7)), the rest is unshared from the other threads.
// It takes no signals.
class HostThread {
 public:
  // Throws Error(io) when no thread can be started.
  HostThread();
  ~HostThread();
  HostThread(const HostThread&) = delete;
  HostThread& operator=(const HostThread&) = delete;

  // Runs `work` there and waits for it; what it throws is thrown here. One caller at a time.
  void run(const std::function<void()>& work);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* work_ = nullptr;
  std::exception_ptr thrown_;
  bool stopping_ = false;
  std::thread thread_;

  void loop();
};

}  // namespace aftercheck
