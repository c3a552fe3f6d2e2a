// Threads of the recorder's own.
#pragma once

#include <pthread.h>

#include <csignal>
#ifdef AFTERCHECK_SANITIZED
#include <latch>
#endif
#include <thread>
#include <utility>

#include "base/fork_gate.h"
#include "base/processor_pin.h"

namespace aftercheck {

// Blocks signals for the calling thread as long as it lives. Those that a thread raises itself by what it
// executes are not among them: a blocked one would end the process (signal(7), sigprocmask(2)).
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int own : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) sigdelset(&blocked, own);
    pthread_sigmask(SIG_BLOCK, &blocked, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

// Starts a thread with all signals blocked: they are the guest's business and must reach the threads that run
// it. Throws std::system_error as std::thread does; the caller's own mask is as before in any case. It may
// run on all processors that the caller may, whose pin is cleared.
template <typename Run>
std::thread start_without_signals(Run run) {
  ProcessorPin::clear_own();
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
#ifdef AFTERCHECK_SANITIZED
    // What a sanitizer does at a thread's start is over before the caller can fork.
    std::latch began(1);
    std::thread thread([run = std::move(run), &began]() mutable {
      began.count_down();
      run();
    });
    began.wait();
#else
    std::thread thread(std::move(run));
#endif
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return thread;
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
}

}  // namespace aftercheck
