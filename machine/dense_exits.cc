#include "machine/dense_exits.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "machine/exit_time.h"

namespace aftercheck {
namespace {

// Exits between two decisions. More than a program makes when it starts: its libc asks CPUID some fifty
// times.
constexpr uint64_t kBlock = 256;
constexpr uint64_t kMostOthers = 32;  // of them at most so many are no trapped instructions
// The soft vCPU takes up to some fifty times as long for what lies between two exits: where that is most of
// the time it is not even tried.
constexpr double kDenseSeconds = 400e-6;
// Code that is executed without an exit before the own vCPU goes on: some milliseconds.
constexpr uint64_t kCodeBytes = 1 << 20;
constexpr uint64_t kNowhere = UINT64_MAX;
constexpr uint64_t kLongestWait = 1 << 20;

}  // namespace

DenseExits::DenseExits(Machine& machine, AddressSpace& space, const CpuModel& cpu)
    : own_machine_(machine),
      space_(space),
      cpu_(cpu),
      own_(machine.create_vcpu()),
      block_start_(thread_seconds()) {
  own_->leave_untrapped(true);
}

DenseExits::~DenseExits() {
  soft_to_kick_.store(nullptr);
  if (own_machine_.last_run().vcpu == this) own_machine_.last_run().vcpu = nullptr;
}

void DenseExits::stay_on_processor() {
  stays_ = true;
  own_->leave_untrapped(false);
}

// Others of the machine may have changed code since, and not each machine knows what another has done.
void DenseExits::take_turn() {
  const Machine::LastRun last = own_machine_.last_run();
  if (last.vcpu == this) return;
  if (last.elsewhere) code_changed_elsewhere(own_machine_, space_);
  if (on_soft_) code_changed_elsewhere(*soft_machine_, space_);  // else it is told when it goes on
}

Exit DenseExits::run() {
  take_turn();
  const Exit exit = run_on();
  end_turn();
  return exit;
}

Exit DenseExits::step() {
  take_turn();
  const Exit exit = step_on();
  end_turn();
  return exit;
}

Exit DenseExits::run_on() {
  for (;;) {
    if (!on_soft_) {
      const Exit exit = own_->run();
      if (exit.kind == ExitKind::untrapped) {
        visit_soft();
        continue;
      }
      // Of two kicked vCPUs the one that did not run then has another to tell of.
      if (exit.kind == ExitKind::kick && !kicked_.exchange(false)) continue;
      if (!stays_) count(exit);
      return exit;
    }
    try {
      const Exit exit = run_soft();
      if (!on_soft_) continue;
      if (exit.kind == ExitKind::kick && !kicked_.exchange(false)) continue;
      if (visits_ && exit.kind != ExitKind::trapped_instruction) change();
      if (!visits_) count(exit);
      return exit;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::unsupported) throw;
      const bool visited = visits_;
      lose();
      if (!visited) continue;
      const Exit exit = step_unwatched();
      if (exit.kind != ExitKind::step) return exit;
    }
  }
}

Exit DenseExits::step_on() {
  if (on_soft_) try {
      const Exit exit = soft_->step();
      if (visits_ || exit.kind != ExitKind::exception || exit.vector != vector::kInvalidOpcode) return exit;
      lose();
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::unsupported) throw;
      const bool visited = visits_;
      lose();
      if (visited) return step_unwatched();
    }
  const Exit exit = own_->step();
  if (exit.kind != ExitKind::untrapped) return exit;
  visit_soft();
  return step_on();
}

// What neither can: an instruction that the soft one lacks is none that must be trapped.
Exit DenseExits::step_unwatched() {
  own_->leave_untrapped(false);
  const Exit exit = own_->step();
  own_->leave_untrapped(true);
  return exit;
}

void DenseExits::visit_soft() {
  change();
  visits_ = on_soft_;
}

// On the own vCPU afterwards: that one is to go on, with the same instruction.
Exit DenseExits::run_soft() {
  soft_->set_bounds(kNowhere, kCodeBytes);
  const Exit exit = soft_->run();
  const bool invalid = exit.kind == ExitKind::exception && exit.vector == vector::kInvalidOpcode;
  const bool long_way = exit.kind == ExitKind::kick && soft_->code_left() == 0;
  if ((invalid && !visits_) || long_way) lose();
  return exit;
}

void DenseExits::count(const Exit& exit) {
  ++exits_;
  if (exit.kind == ExitKind::trapped_instruction) ++trapped_;
  if (exits_ < kBlock) return;
  const double seconds = (thread_seconds() - block_start_) / static_cast<double>(exits_);
  const bool dense = exits_ - trapped_ <= kMostOthers && seconds < dense_seconds(kDenseSeconds);
  if (on_soft_) {
    if (!dense || seconds > own_seconds_) return lose();
  } else {
    own_seconds_ = seconds;
    if (wait_ != 0)
      --wait_;
    else if (dense)
      change();
  }
  begin_block();
}

void DenseExits::begin_block() {
  exits_ = trapped_ = 0;
  block_start_ = thread_seconds();
}

void DenseExits::lose() {
  const bool visited = visits_;
  change();
  if (visited) return;
  wait_ = waits_;
  waits_ = std::min(waits_ * 2, kLongestWait);
  begin_block();
}

void DenseExits::change() {
  AFTERCHECK_LOG_TO(LogTopic::machine, "at {:#x} on to the {} vCPU", registers().rip,
                    on_soft_ ? "own" : "soft");
  if (soft_ == nullptr) try {
      soft_machine_ = create_soft_machine(space_, cpu_);
      soft_ = soft_machine_->create_vcpu();
      soft_to_kick_.store(soft_.get());
    } catch (const Error& error) {  // no memory for it, say: the own vCPU can do everything
      AFTERCHECK_LOG_TO(LogTopic::machine, "no soft vCPU: {}", error.what());
      soft_machine_.reset();
      return stay_on_processor();
    }
  code_changed_elsewhere(on_soft_ ? own_machine_ : *soft_machine_, space_);
  Vcpu &from = now(), &to = on_soft_ ? *own_ : *soft_;
  to.registers() = from.registers();
  to.set_fpu(from.fpu());
  on_soft_ = !on_soft_;
  visits_ = false;
}

void DenseExits::kick() noexcept {
  kicked_.store(true);
  own_->kick();
  if (Vcpu* soft = soft_to_kick_.load()) soft->kick();
}

void DenseExits::clear_kick() noexcept {
  kicked_.store(false);
  own_->clear_kick();
  if (Vcpu* soft = soft_to_kick_.load()) soft->clear_kick();
}

std::unique_ptr<Vcpu> create_leaving_vcpu(Machine& machine, AddressSpace& space, const CpuModel& cpu) {
  if (machine.kind() != MachineKind::kvm || cpu.kind() != CpuModelKind::portable)
    return machine.create_vcpu();
  return std::make_unique<DenseExits>(machine, space, cpu);
}

}  // namespace aftercheck
