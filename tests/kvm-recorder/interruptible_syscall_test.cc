// A signal that comes right before a blocking call must not be lost.
#include <sys/time.h>
#include <ucontext.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "tests/kvm-recorder/signal_fixture.h"

using namespace aftercheck;
using namespace aftercheck::test;

namespace {

// A pipe that nobody writes to, except a watchdog that ends a read which waits in vain.
class WatchedPipe {
 public:
  WatchedPipe() {
    if (pipe(ends_) != 0) fail(ErrorKind::io, "pipe: {}", errno_text(errno));
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    watchdog_ = std::thread([this] { watch(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  ~WatchedPipe() {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    wake_.notify_all();
    watchdog_.join();
    close(ends_[0]);
    close(ends_[1]);
  }
  WatchedPipe(const WatchedPipe&) = delete;
  WatchedPipe& operator=(const WatchedPipe&) = delete;

  // interruptible_syscall(read): 1 when the watchdog had to end it.
  long read(const std::atomic<int>& waiting) {
    char byte = 0;
    const long result = interruptible_syscall(waiting, SYS_read, static_cast<uint64_t>(ends_[0]),
                                              reinterpret_cast<uint64_t>(&byte), 1, 0, 0, 0);
    ++reads_;
    return result;
  }

 private:
  void watch() {
    std::unique_lock lock(mutex_);
    for (uint64_t seen = reads_; !done_; seen = reads_) {
      wake_.wait_for(lock, std::chrono::seconds(1), [this] { return done_; });
      if (!done_ && seen == reads_ && write(ends_[1], "x", 1) != 1) return;
    }
  }

  int ends_[2] = {-1, -1};
  std::atomic<uint64_t> reads_{0};
  bool done_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::thread watchdog_;
};

int steps_left = 0;
bool at_call = false;     // the signal came with RIP on SYSCALL
bool after_call = false;  // it came later than that

// Counts instructions down by single-stepping; then makes SIGUSR1 pending, which hits the stepped code once
// this handler (which blocks it) has returned.
void on_step(int, siginfo_t*, void* context) {
  auto& flags = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL];
  const auto* next =
      reinterpret_cast<const uint8_t*>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
  const bool on_syscall = next[0] == 0x0f && next[1] == 0x05;
  if (--steps_left > 0) {
    after_call = after_call || on_syscall;
    return;
  }
  at_call = at_call || on_syscall;
  flags &= ~static_cast<greg_t>(rflags::kTrap);
  ::raise(SIGUSR1);
}

}  // namespace

TEST_CASE("interruptible_syscall: results are the kernel's") {
  std::atomic<int> waiting{0};
  CHECK(interruptible_syscall(waiting, SYS_getpid, 0, 0, 0, 0, 0, 0) == getpid());
  CHECK(interruptible_syscall(waiting, SYS_read, static_cast<uint64_t>(-1), 0, 0, 0, 0, 0) == -EBADF);
  // All six arguments arrive.
  const long mapped = interruptible_syscall(waiting, SYS_mmap, 0, kPageSize, PROT_READ,
                                            MAP_PRIVATE | MAP_ANONYMOUS, static_cast<uint64_t>(-1), 0);
  REQUIRE(mapped > 0);
  CHECK(interruptible_syscall(waiting, SYS_munmap, static_cast<uint64_t>(mapped), kPageSize, 0, 0, 0, 0) ==
        0);
  CHECK(interruptible_syscall(waiting, SYS_mmap, 0, kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS,
                              static_cast<uint64_t>(-1), 1) == -EINVAL);
}

TEST_CASE("interruptible_syscall: a signal at any instruction before SYSCALL interrupts the call") {
  SignalFixture guest;
  WatchedPipe pipe;
  guest.handle(SIGUSR1);
  struct sigaction action {};
  action.sa_sigaction = on_step;
  action.sa_flags = SA_SIGINFO;
  sigaddset(&action.sa_mask, SIGUSR1);
  REQUIRE(sigaction(SIGTRAP, &action, nullptr) == 0);  // ProcessSignals puts it back in the end
  int lost = 0, tried = 0;
  for (int steps = 1; steps < 200; ++steps) {
    steps_left = steps;
    asm volatile("pushf; orq %0, (%%rsp); popf" ::"i"(rflags::kTrap) : "memory", "cc");
    const long result = pipe.read(guest.signals.waiting());
    asm volatile("pushf; andq %0, (%%rsp); popf" ::"i"(~static_cast<int>(rflags::kTrap)) : "memory", "cc");
    CHECK(guest.signals.deliverable());
    CHECK(guest.deliver().kind == Kind::handler);
    guest.return_from_handler();
    if (after_call) break;  // the signal came when the watchdog had ended the call
    ++tried;
    if (result != -EINTR) ++lost;
  }
  CHECK(lost == 0);
  CHECK(tried >= 10);  // the moves and the check
  CHECK(at_call);
}

TEST_CASE("interruptible_syscall: no signal is lost under a hail of timers") {
  SignalFixture guest;
  WatchedPipe pipe;
  guest.handle(SIGALRM);
  constexpr int kRounds = 20'000;
  int interrupted = 0, undeliverable = 0;
  for (int round = 0; round < kRounds; ++round) {
    itimerval timer{};
    timer.it_value.tv_usec = 1 + round % 40;  // about as long as it takes to get into the call
    setitimer(ITIMER_REAL, &timer, nullptr);
    for (int delay = 0; delay < round % 97 * 20; ++delay) asm volatile("");
    if (pipe.read(guest.signals.waiting()) != -EINTR) break;
    ++interrupted;
    if (!guest.signals.deliverable() || guest.deliver().kind != Kind::handler) ++undeliverable;
    guest.return_from_handler();
  }
  CHECK(interrupted == kRounds);
  CHECK(undeliverable == 0);
}
