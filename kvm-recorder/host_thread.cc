#include "kvm-recorder/host_thread.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <exception>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/thread.h"

namespace aftercheck {

HostThread::~HostThread() {
  if (!apart_) return;
  {
    const std::lock_guard lock(apart_->mutex);
    apart_->stopping = true;
  }
  apart_->changed.notify_all();
  apart_->thread.join();
}

void HostThread::keep_apart() {
  if (apart_) return;
  start();
  hand_over([this] {
    umask_ = umask(0);
    umask(umask_);
    UniqueFd root(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (root) root_ = move_out_of_guest_reach(std::move(root));
  });
}

// When it returns the thread has unshared what the guest may change next.
void HostThread::start() {
  auto apart = std::make_unique<Apart>();
  try {
    apart->thread = start_without_signals([&of = *apart] { loop(of); });
  } catch (const std::system_error& error) {
    fail(ErrorKind::io, "can't start a thread for the recording's files: {}", error.what());
  }
  apart_ = std::move(apart);
  hand_over([] {});
}

void HostThread::forked() {
  if (!apart_) return;
  static_cast<void>(apart_.release());  // it has a thread that never ends
  start();
  hand_over([this] {
    umask(umask_);
    struct stat root {
    }, here{};
    if (!root_ || fstat(root_.get(), &root) != 0 || stat("/", &here) != 0 ||
        (root.st_dev == here.st_dev && root.st_ino == here.st_ino))
      return;
    if (fchdir(root_.get()) != 0 || chroot(".") != 0) return;
  });
}

void HostThread::run(const std::function<void()>& work) {
  if (apart_) {
    hand_over(work);
    return;
  }
  const SignalsBlocked blocked;
  work();
}

void HostThread::hand_over(const std::function<void()>& work) {
  Apart& to = *apart_;
  std::unique_lock lock(to.mutex);
  to.work = &work;
  to.changed.notify_all();
  to.changed.wait(lock, [&to] { return to.work == nullptr; });
  if (to.thrown) std::rethrow_exception(std::exchange(to.thrown, nullptr));
}

void HostThread::loop(Apart& apart) {
  unshare(CLONE_FS);  // where a sandbox forbids it, a guest's chroot is the recorder's too
  std::unique_lock lock(apart.mutex);
  for (;;) {
    apart.changed.wait(lock, [&apart] { return apart.stopping || apart.work != nullptr; });
    if (apart.work == nullptr) return;
    try {
      (*apart.work)();
    } catch (...) {
      apart.thrown = std::current_exception();
    }
    apart.work = nullptr;
    apart.changed.notify_all();
  }
}

}  // namespace aftercheck
