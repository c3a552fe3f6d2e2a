#include "kvm-recorder/host_thread.h"

#include <sched.h>

#include <exception>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/thread.h"

namespace aftercheck {

HostThread::HostThread() {
  try {
    thread_ = start_without_signals([this] { loop(); });
  } catch (const std::system_error& error) {
    fail(ErrorKind::io, "can't start a thread for the recording's files: {}", error.what());
  }
  run([] {});  // what the thread unshares must be unshared before the guest changes it
}

HostThread::~HostThread() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void HostThread::run(const std::function<void()>& work) {
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
