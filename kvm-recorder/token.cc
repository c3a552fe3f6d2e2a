#include "kvm-recorder/token.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "base/thread.h"

namespace aftercheck {
namespace {

// As long as a time slice of the kernel's own scheduler at its default (kernel/sched/fair.c,
// sysctl_sched_base_slice, a few milliseconds): long beside what a change of threads costs.
constexpr std::chrono::microseconds kSlice{3000};
// A thread whose slice is over may still come to an exit by itself, which costs nothing; then it is
// interrupted, and again where that was lost.
constexpr std::chrono::microseconds kGrace{100}, kAgain{2000};
// For so long threads that hand the token to each other stay on one processor. Short beside what the kernel
// balances its load by (some ten milliseconds), long beside the few microseconds that a move costs.
constexpr std::chrono::milliseconds kStay{5};
// Of random slices. The shortest is what the host's timers can do.
constexpr double kShortest = 20, kLongest = 5000;  // us
constexpr unsigned kMostSteps = 12;                // most blocks of code are shorter
constexpr double kFewest = 1, kMost = 300'000;     // branches, some 0.3 ms

}  // namespace

class Token::Nobody final : public TokenUser {
 public:
  void suspended() override {}
  void hurry() noexcept override {}
  void turn(uint64_t) override {}
};

Token::Token(std::optional<uint64_t> chaos) : nobody_(std::make_unique<Nobody>()) {
  if (chaos) chaos_.emplace(*chaos);
}

Token::~Token() {
  if (!clock_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  clock_changed_.notify_all();
  clock_.join();
}

void Token::share(TokenUser& holder) {
  if (shared_) return;
  clock_ = start_without_signals([this] { run_clock(); });
  const std::lock_guard lock(mutex_);
  shared_ = true;
  grant(holder);
}

void Token::forked() {
  // What belongs to threads that do not exist here is not to be touched, least of all ended.
  new (&clock_) std::thread;
  new (&mutex_) std::mutex;
  new (&clock_changed_) std::condition_variable;
  queue_.clear();
  pinned_.clear();
  contended_ = false;
  group_ = nullptr;
  holder_ = nullptr;
  shared_ = waits_ = clock_idle_ = watches_pin_ = false;
  wanted_ = false;
}

void Token::join_group(MemoryGroup& group, TokenUser& holder) {
  std::unique_lock lock(mutex_);
  group_ = &group;
  enter_group(lock, holder);
}

void Token::leave_group() {
  const std::lock_guard lock(mutex_);
  if (group_ != nullptr) group_->leave();
  group_ = nullptr;
}

bool Token::begin_wait_for_process(TokenUser& user) {
  const std::lock_guard lock(mutex_);
  if (group_ == nullptr) return false;
  user.suspended();
  group_->give();
  return true;
}

bool Token::end_wait_for_process(TokenUser& user) {
  std::unique_lock lock(mutex_);
  if (group_ == nullptr) return false;
  enter_group(lock, user);
  return true;
}

void Token::enter_group(std::unique_lock<std::mutex>& lock, TokenUser& user) {
  if (group_ == nullptr || group_->holds()) return;
  MemoryGroup& group = *group_;
  lock.unlock();
  const uint64_t turn = group.take();
  lock.lock();
  slice_end_ = Clock::now() + slice();
  if (clock_idle_ || chaos_) clock_changed_.notify_one();
  if (turn != 0) user.turn(turn);
}

// Each order of magnitude is as likely as any other.
int64_t Token::random_between(double least, double most) {
  std::uniform_real_distribution<double> logarithm(std::log(least), std::log(most));
  return static_cast<int64_t>(std::exp(logarithm(*chaos_)));
}

Token::Clock::duration Token::slice() {
  return chaos_ ? std::chrono::microseconds(random_between(kShortest, kLongest)) : kSlice;
}

unsigned Token::chaotic_steps() {
  const std::lock_guard lock(mutex_);
  return std::uniform_int_distribution<unsigned>(0, kMostSteps)(*chaos_);
}

uint64_t Token::chaotic_slice() {
  const std::lock_guard lock(mutex_);
  return static_cast<uint64_t>(random_between(kFewest, kMost));
}

void Token::grant(TokenUser& user) {
  holder_ = &user;
  waits_ = false;
  wanted_.store(false, std::memory_order_relaxed);
  granted_ = Clock::now();
  slice_end_ = granted_ + slice();
  // A random slice may be over before the one that the clock waits for.
  if (!queue_.empty() && (clock_idle_ || chaos_))
    clock_changed_.notify_one();
  else
    watch_pin(user);
}

void Token::grant_next() {
  holder_ = nullptr;
  waits_ = false;
  if (group_ != nullptr && (queue_.empty() || group_->contended())) group_->give();
  if (queue_.empty()) return;
  auto next = queue_.begin();
  if (chaos_ && queue_.size() > 1)
    next += static_cast<ptrdiff_t>(std::uniform_int_distribution<size_t>(0, queue_.size() - 1)(*chaos_));
  TokenUser& user = **next;
  queue_.erase(next);
  contended_.store(!queue_.empty(), std::memory_order_relaxed);
  grant(user);
  pin(user);
  user.granted_.notify_one();
}

// The user waits, and the calling thread is about to.
void Token::pin(TokenUser& user) {
  if (granted_ - unpinned_ >= kStay) {
    unpinned_ = granted_;
    unpin(user);
    return;
  }
  const bool before = user.pin_.is_set();
  user.pin_.set(sched_getcpu());
  if (before || !user.pin_.is_set()) return;
  pinned_.push_back(&user);
  watch_pin(user);
}

// It may run on alone.
void Token::watch_pin(const TokenUser& user) {
  if (user.pin_.is_set() && clock_idle_ && !watches_pin_) clock_changed_.notify_one();
}

void Token::unpin(TokenUser& user) {
  user.pin_.clear();
  std::erase(pinned_, &user);
}

void Token::clear_pins() {
  const std::lock_guard lock(mutex_);
  for (TokenUser* user : pinned_) user->pin_.clear();
  pinned_.clear();
}

void Token::queue_for_it(std::unique_lock<std::mutex>& lock, TokenUser& user) {
  queue_.push_back(&user);
  contended_.store(true, std::memory_order_relaxed);
  if (holder_ == nullptr)
    grant_next();
  else if (clock_idle_)
    clock_changed_.notify_one();
  user.granted_.wait(lock, [&] { return holder_ == &user; });
  enter_group(lock, user);
}

void Token::get(std::unique_lock<std::mutex>& lock, TokenUser& user) {
  if (!waits_) return queue_for_it(lock, user);
  TokenUser& other = *holder_;
  grant(user);
  other.suspended();
}

void Token::acquire(TokenUser& user) {
  std::unique_lock lock(mutex_);
  get(lock, user);
}

void Token::leave(TokenUser& user) {
  const std::lock_guard lock(mutex_);
  unpin(user);
  if (holder_ == &user) holder_ = nobody_.get();
}

void Token::release() {
  if (!shared_) return;
  const std::lock_guard lock(mutex_);
  grant_next();
}

bool Token::pass(TokenUser& user) {
  if (!shared_) return false;
  std::unique_lock lock(mutex_);
  wanted_.store(false, std::memory_order_relaxed);
  if (queue_.empty() && !group_contended()) return false;
  holder_ = nullptr;
  if (group_contended()) group_->give();
  queue_for_it(lock, user);
  return true;
}

void Token::begin_wait(TokenUser& user) {
  if (!shared_) return;
  const std::lock_guard lock(mutex_);
  // Another process can't log what this one waits in, so it does that itself.
  if (queue_.empty() && group_ == nullptr) {
    waits_ = true;
    return;
  }
  user.suspended();
  grant_next();
}

bool Token::end_wait(TokenUser& user) {
  if (!shared_) return false;
  std::unique_lock lock(mutex_);
  if (holder_ == &user && waits_) {
    waits_ = false;
    return false;
  }
  get(lock, user);
  return true;
}

void Token::run_clock() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    // Who waits for the group's token has no slice yet.
    const bool others_may_come = group_ != nullptr && group_->holds();
    const bool waits_for_group = group_ != nullptr && !others_may_come;
    if ((queue_.empty() && !others_may_come) || waits_for_group || holder_ == nullptr) {
      clock_idle_ = true;
      watches_pin_ = holder_ != nullptr && holder_->pin_.is_set();
      if (!watches_pin_)
        clock_changed_.wait(lock);
      else if (Clock::now() < granted_ + kStay)
        clock_changed_.wait_until(lock, granted_ + kStay);
      else
        unpin(*holder_);  // it runs on alone
      clock_idle_ = watches_pin_ = false;
      continue;
    }
    const Clock::time_point end = slice_end_;
    if (Clock::now() < end) {
      clock_changed_.wait_until(lock, end);
      continue;
    }
    if (queue_.empty() && !group_contended()) {
      slice_end_ = Clock::now() + slice();
    } else if (!wanted_.exchange(true)) {
      slice_end_ = Clock::now() + kGrace;
    } else {
      holder_->hurry();
      slice_end_ = Clock::now() + kAgain;
    }
  }
}

}  // namespace aftercheck
