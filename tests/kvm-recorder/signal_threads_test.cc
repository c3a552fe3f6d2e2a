// Signals where the guest has more than one thread, and the host's signal that stands for none of the
// guest's.
#include <catch2/catch.hpp>
#include <cerrno>
#include <future>

#include "base/kick_signal.h"
#include "base/thread.h"
#include "tests/kvm-recorder/signal_fixture.h"

using namespace aftercheck;
using namespace aftercheck::test;

namespace {

// A second thread of the guest, in a call that blocks until a signal comes. What the two threads share is
// used by the fixture's while this one is in its call, and by this one after.
class PausedThread {
 public:
  PausedThread(SignalFixture& guest, uint64_t mask) {
    std::promise<GuestTask*> started;
    thread_ = start_without_signals([&, mask] {
      GuestTask task{guest.process, vcpu, mask};
      started.set_value(&task);
      result_ = interruptible_syscall(task.signals.waiting(), SYS_pause, 0, 0, 0, 0, 0, 0);
      task.signals.update();
      deliverable_ = task.signals.deliverable();
      if (deliverable_)
        delivery_ = task.signals.deliver(task, registers_, FpuState::initial(), -EINTR, SYS_pause);
      ended_.set_value();
      left_.get_future().wait();
    });
    task_ = started.get_future().get();
  }
  ~PausedThread() {
    if (!left_called_) leave();
  }
  GuestTask& task() { return *task_; }
  // Waits for the call's end.
  void wait() { ended_.get_future().wait(); }
  void leave() {
    left_called_ = true;
    left_.set_value();
    thread_.join();
  }

  IdleVcpu vcpu;
  long result() const { return result_; }
  bool deliverable() const { return deliverable_; }
  ThreadSignals::Delivery delivery() const { return delivery_; }

 private:
  GuestTask* task_ = nullptr;
  Registers registers_;
  long result_ = 0;
  bool deliverable_ = false, left_called_ = false;
  ThreadSignals::Delivery delivery_;
  std::promise<void> ended_, left_;
  std::thread thread_;
};

siginfo_t info_of(int signal, int code) {
  siginfo_t info{};
  info.si_signo = signal;
  info.si_code = code;
  return info;
}

}  // namespace

TEST_CASE("threads: a signal for one thread interrupts its call and is no other's") {
  SignalFixture guest;
  guest.mask(SIG_SETMASK, 0);
  PausedThread other(guest, bit(SIGUSR2));
  other.task().signals.raise(SIGUSR2, info_of(SIGUSR2, SI_TKILL));  // blocked there
  CHECK_FALSE(other.task().signals.deliverable());
  CHECK(guest.pending() == 0);
  other.task().signals.raise(SIGTERM, info_of(SIGTERM, SI_TKILL));
  other.wait();
  CHECK(other.result() == -EINTR);
  CHECK(other.vcpu.kicks == 1);
  CHECK(other.delivery().kind == Kind::terminate);
  CHECK(other.delivery().signal == SIGTERM);
  CHECK_FALSE(guest.signals.deliverable());
  CHECK(guest.vcpu.kicks == 0);
}

TEST_CASE("threads: a signal for the process goes to a thread that takes it") {
  SignalFixture guest;
  guest.mask(SIG_SETMASK, bit(SIGTERM));
  PausedThread other(guest, 0);
  SECTION("sent by the guest") {
    guest.process_signals.raise(guest.signals, SIGTERM, info_of(SIGTERM, SI_USER));
  }
  SECTION("sent by another process, which the host's kernel decides") { ::kill(getpid(), SIGTERM); }
  other.wait();
  CHECK(other.result() == -EINTR);
  CHECK(other.delivery().signal == SIGTERM);
  CHECK(guest.pending() == 0);
}

TEST_CASE("threads: what is pending for the process outlives the thread that saw it arrive") {
  SignalFixture guest;
  guest.mask(SIG_SETMASK, ~uint64_t{0});
  PausedThread other(guest, bit(SIGUSR1));
  guest.process_signals.raise(guest.signals, SIGUSR1, info_of(SIGUSR1, SI_USER));  // nobody takes it
  other.task().signals.raise(SIGUSR2, info_of(SIGUSR2, SI_TKILL));
  other.wait();
  CHECK(other.delivery().signal == SIGUSR2);
  other.leave();
  CHECK(guest.pending() == bit(SIGUSR1));
  guest.mask(SIG_SETMASK, 0);
  CHECK(guest.deliver().signal == SIGUSR1);
}

TEST_CASE("threads: private signals come before the process's, as dequeue_signal() has it") {
  SignalFixture guest;
  for (const int signal : {SIGHUP, SIGUSR2}) guest.handle(signal, SA_NODEFER);
  guest.process_signals.raise(guest.signals, SIGHUP, info_of(SIGHUP, SI_USER));
  guest.signals.raise(SIGUSR2, info_of(SIGUSR2, SI_TKILL));
  CHECK(guest.deliver().signal == SIGUSR2);
  CHECK(guest.deliver().signal == SIGHUP);
}

TEST_CASE("threads: no number is taken from the guest for kicks") {
  SignalFixture guest;
  for (const int signal : {32, 33, 34, 64}) guest.handle(signal, SA_SIGINFO | SA_NODEFER);
  const auto tid = static_cast<pid_t>(syscall(SYS_gettid));
  kick_thread(tid);
  CHECK_FALSE(guest.signals.deliverable());
  // 33 comes from the guest's own libc only, and never reaches the host.
  for (const int signal : {32, 34, 64}) {
    INFO(signal);
    ::kill(getpid(), signal);
    REQUIRE(guest.signals.deliverable());
    CHECK(guest.deliver().signal == signal);
    CHECK(guest.info().si_code == SI_USER);
  }
  for (const int signal : {32, 33, 34, 64}) {
    guest.raise(signal, SI_TKILL);
    CHECK(guest.deliver().signal == signal);
  }
}
