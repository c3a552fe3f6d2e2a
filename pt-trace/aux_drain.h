// Empties the rings of a trace into a sink, on a thread of its own, and puts marks between the bytes.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "pt-trace/aux_ring.h"

namespace aftercheck::pt {

class MarkedAuxSink : public AuxSink {
 public:
  // Stands behind exactly the data that AuxDrain::mark() was given the end of.
  virtual void mark(uint64_t value) = 0;
  // Called now and then: a moment to write out what has waited too long.
  virtual void tick() {}
};

class AuxDrain {
 public:
  struct Options {
    int poll_fd = -1;  // becomes readable when there is data (poll(2)); -1: looked for now and then
    // The kernel has switched the event off because the AUX area was full, which is empty now. On the drain's
    // thread.
    std::function<void()> stopped;
  };
  // Rings and sink must outlive the drain. All signals are blocked on its thread.
  AuxDrain(const AuxRings& rings, MarkedAuxSink& sink, Options options);
  AuxDrain(const AuxRings& rings, MarkedAuxSink& sink) : AuxDrain(rings, sink, Options{}) {}
  ~AuxDrain();  // as finish()
  AuxDrain(const AuxDrain&) = delete;
  AuxDrain& operator=(const AuxDrain&) = delete;

  // `offset`: how much of the trace has been published. Must be called before more is. Offsets and values
  // don't go back. Waits while very many marks are on their way.
  void mark(uint64_t offset, uint64_t value);
  // Wakes the drain and waits a moment for it: the producer has no room.
  void hurry();
  // Reads what is there and ends the thread; the producer has stopped.
  void finish();
  // Empty, or what the sink threw; the rest of the trace is dropped then. Any thread.
  std::string error() const;
  bool failed() const { return failed_; }

 private:
  struct Mark {
    uint64_t offset, value;
  };
  class Splitter;

  const AuxRings rings_;
  MarkedAuxSink& sink_;
  const Options options_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wake_, room_;
  std::deque<Mark> marks_;
  bool hurry_ = false, finish_ = false;
  std::string error_;
  std::atomic<bool> failed_ = false;
  std::thread thread_;

  void run();
  void fail_with(const std::string& why);
  void nap(std::chrono::milliseconds time);
};

}  // namespace aftercheck::pt
