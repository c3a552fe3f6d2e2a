#include "kvm-recorder/host_thread.h"

#include <sched.h>

#include <exception>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/thread.h"

namespace aftercheck {

HostThread::~HostThread() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void HostThread::keep_apart() {
  if (thread_.joinable()) return;
  try {
    thread_ = start_without_signals([this] { loop(); });
  } catch (const std::system_error& error) {
    fail(ErrorKind::io, "can't start a thread for the recording's files: {}", error.what());
  }
  hand_over([] {});  // what the thread unshares must be unshared before the guest changes it
}

void HostThread::run(const std::function<void()>& work) {
  if (thread_.joinable()) {
    hand_over(work);
    return;
  }
  const SignalsBlocked blocked;
  work();
}

void HostThread::hand_over(const std::function<void()>& work) {
  std::unique_lock lock(mutex_);
  work_ = &work;
  changed_.notify_all();
  changed_.wait(lock, [this] { return work_ == nullptr; });
  if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
}

void HostThread::loop() {
  unshare(CLONE_FS);  // where a sandbox forbids it, a guest's chroot is the recorder's too
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || work_ != nullptr; });
    if (work_ == nullptr) return;
    try {
      (*work_)();
    } catch (...) {
      thrown_ = std::current_exception();
    }
    work_ = nullptr;
    changed_.notify_all();
  }
}

}  // namespace aftercheck
