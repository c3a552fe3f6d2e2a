#include "pt-trace/aux_drain.h"

#include <poll.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "base/fork_gate.h"
#include "base/thread.h"

namespace aftercheck::pt {
namespace {

constexpr size_t kMostMarks = 1 << 16;
constexpr std::chrono::milliseconds kShortNap{2}, kLongNap{100};

class Nothing : public AuxSink {
  void data(std::span<const uint8_t>) override {}
  void loss(uint8_t, uint64_t) override {}
};

}  // namespace

// Hands data on in pieces that end at marks. Bytes beyond a mark are published after it was set, so whoever
// sees them finds it.
class AuxDrain::Splitter : public AuxSink {
 public:
  explicit Splitter(AuxDrain& drain) : drain_(drain) {}

  void data(std::span<const uint8_t> bytes) override {
    for (;;) {
      const std::optional<Mark> mark = next();
      if (!mark || mark->offset >= position_ + bytes.size()) break;
      const size_t size = mark->offset > position_ ? mark->offset - position_ : 0;
      if (size > 0) drain_.sink_.data(bytes.first(size));
      bytes = bytes.subspan(size);
      position_ += size;
      give(*mark);
    }
    drain_.sink_.data(bytes);
    position_ += bytes.size();
  }

  void loss(uint8_t flags, uint64_t lost_bytes) override {
    give_passed();
    drain_.sink_.loss(flags, lost_bytes);
  }

  // The marks at the place that has been come to.
  bool give_passed() {
    bool any = false;
    for (;;) {
      const std::optional<Mark> mark = next();
      if (!mark || mark->offset > position_) return any;
      give(*mark);
      any = true;
    }
  }

 private:
  AuxDrain& drain_;
  std::deque<Mark> marks_;  // taken over from the drain's
  uint64_t position_ = 0;

  std::optional<Mark> next() {
    if (marks_.empty()) {
      const std::lock_guard lock(drain_.mutex_);
      marks_.swap(drain_.marks_);
    }
    return marks_.empty() ? std::nullopt : std::optional(marks_.front());
  }
  void give(const Mark& mark) {
    marks_.pop_front();
    drain_.sink_.mark(mark.value);
  }
};

AuxDrain::AuxDrain(const AuxRings& rings, MarkedAuxSink& sink, Options options)
    : rings_(rings), sink_(sink), options_(std::move(options)) {
  thread_ = start_without_signals([this] { run(); });
}

AuxDrain::~AuxDrain() { finish(); }

void AuxDrain::mark(uint64_t offset, uint64_t value) {
  std::unique_lock lock(mutex_);
  if (marks_.size() >= kMostMarks) {
    hurry_ = true;
    wake_.notify_one();
    room_.wait(lock, [this] { return marks_.size() < kMostMarks || failed_; });
  }
  if (!failed_) marks_.push_back({offset, value});
}

void AuxDrain::hurry() {
  std::unique_lock lock(mutex_);
  hurry_ = true;
  wake_.notify_one();
  room_.wait_for(lock, std::chrono::milliseconds(1));
}

void AuxDrain::finish() {
  {
    const std::lock_guard lock(mutex_);
    finish_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

std::string AuxDrain::error() const {
  const std::lock_guard lock(mutex_);
  return error_;
}

void AuxDrain::fail_with(const std::string& why) {
  const std::lock_guard lock(mutex_);
  error_ = why;
  marks_.clear();
  failed_ = true;
}

void AuxDrain::nap(std::chrono::milliseconds time) {
  if (options_.poll_fd >= 0) {
    pollfd event{options_.poll_fd, POLLIN, 0};
    poll(&event, 1, static_cast<int>(time.count()));
    return;
  }
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, time, [this] { return hurry_ || finish_; });
  hurry_ = false;
}

void AuxDrain::run() {
  AuxReader reader(rings_);
  Splitter splitter(*this);
  Nothing nothing;
  std::chrono::milliseconds pause = kShortNap;
  for (;;) {
    bool last = false;
    {
      const std::lock_guard lock(mutex_);
      last = finish_;
    }
    AuxReader::Drained drained;
    bool marks = false;
    if (failed_) {
      drained = reader.drain(nothing);
    } else {
      const NoForkMeanwhile works;
      try {
        drained = reader.drain(splitter);
        if (drained.stopped && options_.stopped) options_.stopped();
        marks = splitter.give_passed();
        sink_.tick();
      } catch (const std::exception& problem) {
        fail_with(problem.what());
      }
    }
    room_.notify_all();
    const bool any = drained.bytes != 0 || marks;
    if (last && !any) return;
    if (last) continue;
    // Too short naps take the guest's processor time. Who writes the ring by software cuts a long one short
    // by hurry() when it is full; a processor doesn't wait.
    const bool short_nap = options_.poll_fd >= 0 ? any : drained.bytes > rings_.aux.size() / 16;
    pause = short_nap ? kShortNap : std::min(pause * 2, kLongNap);
    nap(pause);
  }
}

}  // namespace aftercheck::pt
