#include "soft-pt/soft_tracer.h"

#include <utility>

namespace aftercheck {
namespace {
constexpr size_t kMuch = 8 << 10;
}

SoftTracer::SoftTracer(Output output, const pt::EncoderOptions& options)
    : output_(std::move(output)), encoder_(options) {}

// Not before something is told: a guest that never runs again leaves no trace of it.
void SoftTracer::turn_on() {
  // Behind a gap a decoder needs PSB+ to go on.
  if (std::exchange(dropped_, false)) encoder_.synchronise();
  encoder_.enable(resume_);
  on_ = true;
}

void SoftTracer::hand_over() {
  if (encoder_.bytes().empty()) return;
  if (!output_(encoder_.bytes())) dropped_ = true;
  encoder_.discard();
}

void SoftTracer::hand_over_if_much() {
  if (encoder_.size() < kMuch) return;
  hand_over();
  if (std::exchange(dropped_, false)) encoder_.synchronise();
}

void SoftTracer::branches(std::span<const BranchRun> runs) {
  if (!on_) turn_on();
  for (const BranchRun& run : runs) totals_.branches += run.count + (run.indirect ? 1U : 0U);
  encoder_.branches(runs);
  hand_over_if_much();
}

void SoftTracer::lost(uint64_t next) {
  if (!on_) turn_on();
  ++totals_.losses;
  encoder_.overflow(next);
}

void SoftTracer::exited(const recording::Event& event) {
  if (event.kind == recording::EventKind::syscall)
    exit_by_system_call();
  else
    exit_before(event.rip);
}

void SoftTracer::exit_by_system_call() {
  if (!on_) turn_on();
  encoder_.disable();
  on_ = false;
  hand_over();
}

void SoftTracer::exit_before(uint64_t rip) {
  if (!on_) turn_on();
  encoder_.disable_asynchronous(rip);
  on_ = false;
  hand_over();
}

void SoftTracer::flush() {
  encoder_.flush();
  hand_over();
}

}  // namespace aftercheck
