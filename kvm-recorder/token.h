// Which thread of the guest runs.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "base/processor_pin.h"
#include "kvm-recorder/memory_group.h"

namespace aftercheck {

// One thread's side of the token. Made and destroyed on that thread.
class TokenUser {
 public:
  virtual ~TokenUser() = default;
  // The thread is in a call that waits, and another runs from now on: what has happened up to here is to be
  // logged. Called on whichever thread has the token now; the thread itself is in the host's kernel.
  virtual void suspended() = 0;
  // Others want the token: the thread is to leave the guest's code. Any thread.
  virtual void hurry() noexcept = 0;
  // The process shares memory, and has the group's token: the turn with this number begins, which is to be
  // logged before anything else. Called on the thread, which has the token.
  virtual void turn(uint64_t number) = 0;

 private:
  friend class Token;
  std::condition_variable granted_;
  ProcessorPin pin_;
};

// Guest code runs, and what the recorder does for the guest is done, in the holder of the token only, so that
// all that threads do to shared memory has one order: that of the log. A thread that waits in the host's
// kernel lets others have it; one that computes has it for a slice of time while others want it. Those who
// want it get it in the order in which they came. In a process that shares memory with others the holder has
// their token, too.
//
// Threads that hand it to each other are kept on one processor, since only one of them runs: waking one up on
// another processor takes longer than what most of them do then. That processor is chosen anew every few
// milliseconds, by the kernel, and where they may run is theirs again when they run on alone.
class Token {
 public:
  // Slices and order are random where there is a seed, to bring rare interleavings out.
  explicit Token(std::optional<uint64_t> chaos = {});
  ~Token();
  Token(const Token&) = delete;
  Token& operator=(const Token&) = delete;

  // There is more than one thread from now on. Before, its only thread holds the token, and nothing below
  // costs anything. Throws std::system_error when no thread can be started.
  void share(TokenUser& holder);
  bool shared() const { return shared_; }

  // Memory is shared with other processes from now on (after share()), `group` being joined; it must outlive
  // this. Waits for the group's token. No more of that after leave_group().
  void join_group(MemoryGroup& group, TokenUser& holder);
  void leave_group();
  // The holder waits for another process, and keeps this token meanwhile, but not the group's: suspended() is
  // called in between. False, both: the process is in no group.
  bool begin_wait_for_process(TokenUser& user);
  bool end_wait_for_process(TokenUser& user);

  void acquire(TokenUser& user);
  // The holder is no more, but the calling thread has the token until it releases it.
  void leave(TokenUser& user);
  void release();

  // Order and slices are random. Threads are to stop by themselves then, after so many branches, since no
  // timer is fine enough for what can go wrong between a few instructions.
  bool chaotic() const { return chaos_.has_value(); }
  uint64_t chaotic_slice();
  unsigned chaotic_steps();  // and instructions behind the last of them
  // Others wait for the token.
  bool contended() const { return contended_.load(std::memory_order_relaxed) || group_contended(); }

  // The holder's slice is over and others wait.
  bool wanted() const { return wanted_.load(std::memory_order_relaxed); }
  // The holder lets the others go first. False: there are none.
  bool pass(TokenUser& user);

  // The holder begins a call that may wait, and ends it. In between others may have had the token:
  // suspended() was called then, and the end waits for it. True: that was so.
  void begin_wait(TokenUser& user);
  bool end_wait(TokenUser& user);

  // Where the threads may run is as the guest has it: it wants to see or to change that. For the holder.
  void clear_pins();

  // While it is held the other threads leave the token as it is. For the holder, around fork(2).
  [[nodiscard]] std::unique_lock<std::mutex> still() { return std::unique_lock(mutex_); }
  // After fork(2), in the child: nobody but the caller is there, and the lock is a new one.
  void forked();

 private:
  using Clock = std::chrono::steady_clock;

  class Nobody;

  const std::unique_ptr<TokenUser> nobody_;
  bool shared_ = false;
  std::mutex mutex_;
  TokenUser* holder_ = nullptr;  // may be nobody_
  bool waits_ = false;           // the holder is in a call
  std::deque<TokenUser*> queue_;
  std::atomic<bool> wanted_{false}, contended_{false};
  std::optional<std::mt19937_64> chaos_;
  MemoryGroup* group_ = nullptr;

  // Ends slices.
  std::condition_variable clock_changed_;
  Clock::time_point granted_, slice_end_;
  bool clock_idle_ = false, stopping_ = false;
  bool watches_pin_ = false;  // while idle: the holder's, if that runs on alone
  std::thread clock_;

  // The processor was left to the kernel last.
  Clock::time_point unpinned_;
  std::vector<TokenUser*> pinned_;

  void grant(TokenUser& user);
  void grant_next();
  void pin(TokenUser& user);
  void unpin(TokenUser& user);
  void watch_pin(const TokenUser& user);
  bool group_contended() const { return group_ != nullptr && group_->contended(); }
  // The holder gets the group's token, too.
  void enter_group(std::unique_lock<std::mutex>& lock, TokenUser& user);
  // Takes it, or waits for it.
  void get(std::unique_lock<std::mutex>& lock, TokenUser& user);
  void queue_for_it(std::unique_lock<std::mutex>& lock, TokenUser& user);
  int64_t random_between(double least, double most);
  Clock::duration slice();
  void run_clock();
};

}  // namespace aftercheck
