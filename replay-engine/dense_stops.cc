#include "replay-engine/dense_stops.h"

#include "machine/exit_time.h"

namespace aftercheck {
namespace {

constexpr uint64_t kBlock = 64;  // stops between two decisions
// The soft vCPU takes up to some fifty times as long for what lies between two stops: where that is most of
// the time the other is not even tried.
constexpr double kDenseSeconds = 200e-6;
// The loser is looked at again once in so many blocks, unless it is hopeless.
constexpr uint64_t kLookAgain = 64;
constexpr double kHopeless = 4;

}  // namespace

void DenseStops::begin() {
  stops_ = 0;
  block_start_ = thread_seconds();
}

void DenseStops::stopped() {
  if (gave_up_ || ++stops_ < kBlock) return;
  cost_[elsewhere_] = (thread_seconds() - block_start_) / static_cast<double>(stops_);
  ++blocks_;
  if (wants_other()) change();
  begin();
}

bool DenseStops::wants_other() {
  if (!elsewhere_ && !guest_.may_be_on_soft() && guest_.counting_vcpu() == nullptr) return false;
  const double here = cost_[elsewhere_], there = cost_[!elsewhere_];
  if (there == 0) return here < dense_seconds(kDenseSeconds);
  return there < here || (blocks_ % kLookAgain == 0 && there < kHopeless * here);
}

void DenseStops::change() {
  Vcpu* to = &guest_.own_vcpu();
  if (!elsewhere_) {
    Vcpu* const counting = guest_.counting_vcpu();
    to = counting != nullptr ? counting : &guest_.soft_vcpu();
  }
  elsewhere_ = !elsewhere_;
  guest_.move(*to);
}

void DenseStops::finish() {
  if (elsewhere_) change();
}

bool DenseStops::give_up() {
  if (!elsewhere_) return false;
  change();
  gave_up_ = true;
  return true;
}

}  // namespace aftercheck
