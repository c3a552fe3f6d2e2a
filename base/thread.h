// Threads of the recorder's own.
#pragma once

#include <pthread.h>

#include <csignal>
#include <thread>
#include <utility>

namespace aftercheck {

// Starts a thread with all signals blocked: they are the guest's business and must reach the threads that run
// it. Throws std::system_error as std::thread does; the caller's own mask is as before in any case.
template <typename Run>
std::thread start_without_signals(Run run) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread thread(std::move(run));
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return thread;
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
}

}  // namespace aftercheck
