#include "kvm-recorder/recorded_thread.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "kvm-recorder/async_position.h"
#include "kvm-recorder/loader.h"
#include "kvm-recorder/memory_limits.h"
#include "kvm-recorder/process_numbers.h"
#include "kvm-recorder/robust_locks.h"
#include "kvm-recorder/system_call.h"
#include "kvm-recorder/trapped_answers.h"
#include "kvm-recorder/vsyscall.h"

namespace aftercheck {
namespace {

using recording::EndReason;
using recording::EventKind;
using Clock = std::chrono::steady_clock;

// Where a thread was preempted the log has the time in whole such steps since the event before, in ns. A
// power of two, of which nearly all bytes of a varint are the same.
constexpr uint64_t kPreemptedTime = 1 << 20;

// prctl(PR_SET_TSC): CR4.TSD makes both instructions #GP(0).
bool reads_counter(TrappedKind kind) { return kind == TrappedKind::rdtsc || kind == TrappedKind::rdtscp; }

std::optional<Exit> forbidden_counter() {
  Exit fault;
  fault.kind = ExitKind::exception;
  fault.vector = vector::kGeneralProtection;
  return fault;
}

uint64_t operand_of(Access access) { return static_cast<uint64_t>(access); }

// All registers are the answer: nothing of the vCPU's own start is taken for granted.
Registers unlike(const Registers& registers) {
  RegisterWords words = to_words(registers);
  for (uint64_t& word : words) word = ~word;
  return from_words(words);
}

}  // namespace

RecordedThread::RecordedThread(RecordingSession& session, Vcpu& vcpu, const ThreadState& state)
    : session_(session),
      number_(state.number),
      vcpu_(&vcpu),
      task_(session.process(), vcpu, state.signal_mask),
      digest_(state.digest) {
  vcpu_->registers() = state.registers;
  vcpu_->set_fpu(state.fpu);
  task_.seccomp = state.seccomp;
  task_.clear_child_tid = state.clear_child_tid;
  task_.signals.set_alternate_stack(state.alternate_stack);
  begun_ = state.begun;
  note_guest_thread();
  event_.thread = number_;
}

RecordedThread::~RecordedThread() { forget_guest_thread(); }

std::string RecordedThread::describe_event() const {
  return fmt::format("recording event {} (kind {}) of thread {}: {}", session_.entries(),
                     static_cast<int>(event_.kind), number_, describe(vcpu_->registers()));
}

CheckpointThread RecordedThread::for_checkpoint() {
  return {number_, vcpu_->registers(), vcpu_->fpu(), digest_.value()};
}

ThreadState RecordedThread::state() {
  return {.number = number_,
          .registers = vcpu_->registers(),
          .fpu = vcpu_->fpu(),
          .digest = digest_,
          .signal_mask = task_.signals.blocked(),
          .seccomp = task_.seccomp,
          .clear_child_tid = task_.clear_child_tid,
          .begun = begun_};
}

// --- events ---

void RecordedThread::clear_event(EventKind kind) {
  event_.kind = kind;
  event_.thread = number_;
  event_.time_ns = session_.time_ns();
  event_.rip = 0;
  event_.digest = 0;
  event_.operands.clear();
  event_.memory.clear();
  event_.fpu_digest.reset();
  event_.branches.reset();
  event_.registers.clear();
  event_.fpu.clear();
}

void RecordedThread::begin_event(EventKind kind) {
  clear_event(kind);
  before_ = vcpu_->registers();
  event_.rip = before_.rip;
  event_.digest = digest_.update(canonical_state(before_));
  task_.suspended = false;
  if (kind != EventKind::start) session_.trace_exited(event_);
}

void RecordedThread::add_memory_digests() {
  if (!session_.options().write_log) return;
  event_.memory = session_.census().take();
  event_.fpu_digest = recording::digest64(canonical_fpu(vcpu_->fpu()));
}

// Notes what changed since `base` and appends the event.
void RecordedThread::finish_event(const Registers& base) {
  const RegisterWords old = to_words(base), now = to_words(vcpu_->registers());
  for (size_t i = 0; i < kRegisterCount; ++i)
    if (old[i] != now[i]) event_.registers.push_back({static_cast<uint8_t>(i), now[i]});
  task_.answer.move_to(event_);
  append();
}

void RecordedThread::append() {
  if (vcpu_->counts_branches()) vcpu_->reset_branches();
  session_.append(event_);
}

void RecordedThread::set_fpu(const FpuState& fpu) {
  vcpu_->set_fpu(fpu);
  event_.fpu = fpu.bytes();
}

void RecordedThread::end_recording(EndReason reason, int status) { session_.end(number_, reason, status); }

// --- beginning ---

void RecordedThread::load(const Program& program, const std::vector<std::string>& environment,
                          bool randomize) {
  begin_event(EventKind::start);
  event_.rip = 0;
  load_program(task_, program, environment, {.randomize = randomize});
  const Registers& entry = session_.process().entry;
  vcpu_->registers() = entry;
  set_fpu(FpuState::initial());
  digest_ = recording::RunningDigest();
  event_.digest = 0;
  begun_ = true;
  finish_event(unlike(entry));
}

void RecordedThread::begin_thread(uint32_t number, uint32_t by) {
  number_ = number;
  clear_event(EventKind::thread_start);
  event_.operands = {by, static_cast<uint64_t>(task_.signals.host_thread())};
  event_.fpu = vcpu_->fpu().bytes();
  begun_ = true;
  finish_event(unlike(vcpu_->registers()));
}

// --- the token ---

void RecordedThread::stop() {
  stopping_ = true;
  task_.signals.interrupt();
}

void RecordedThread::others_come() {
  task_.buffers.others_run();
  task_.waits = this;
}

void RecordedThread::suspended() {
  task_.answer.move_to(event_);
  const bool says_something = event_.kind != EventKind::answer || !event_.writes.empty() ||
                              !event_.space_ops.empty() || !event_.patches.empty() ||
                              !event_.outputs.empty() || !event_.output_steps.empty();
  if (says_something) session_.append(event_);
}

// One of this thread's while that under way stays as it is.
recording::Event RecordedThread::event_beside(EventKind kind) const {
  recording::Event event;
  event.kind = kind;
  event.thread = number_;
  event.time_ns = session_.time_ns();
  return event;
}

void RecordedThread::leave_locks() {
  leave_robust_locks(task_);
  recording::Event event = event_beside(EventKind::answer);
  task_.answer.move_to(event);
  if (!event.writes.empty()) session_.append(event);
}

void RecordedThread::resume() {
  clear_event(EventKind::answer);
  task_.suspended = true;
  if (stopping_) throw ThreadGone{};
}

void RecordedThread::end() {
  if (session_.token().end_wait(*this)) resume();
}

void RecordedThread::hurry() noexcept { task_.signals.kick(); }

void RecordedThread::turn(uint64_t number) {
  recording::Event event = event_beside(EventKind::turn);
  event.operands = {number};
  session_.append(event);
}

void RecordedThread::let_others_run() {
  task_.yields = false;
  if (session_.token().pass(*this) && stopping_) throw ThreadGone{};
}

// --- exits ---

// All signals that wait, each handler's frame on top of the one before (exit_to_user_mode_loop()): the last
// one's handler is the first to run. For `result` and `number` see ThreadSignals::deliver(). What is given
// back is no handler's: either nothing more waits, or the guest dies.
ThreadSignals::Delivery RecordedThread::deliver_all(std::optional<long> result, uint64_t number) {
  const bool restart = result && (*result == kRestartSys || *result == kRestartNoHand);
  if (!restart && !task_.signals.deliverable()) return {};
  for (;; result.reset()) {
    const ThreadSignals::Delivery delivery =
        task_.signals.deliver(task_, vcpu_->registers(), vcpu_->fpu(), result, number);
    if (delivery.kind != ThreadSignals::Delivery::Kind::handler) return delivery;
    if (delivery.reset_fpu) set_fpu(FpuState::initial());
  }
}

void RecordedThread::handle_system_call() {
  begin_event(EventKind::syscall);
  Registers& registers = vcpu_->registers();
  const uint64_t number = registers.rax;
  event_.operands = {number,        registers.rdi, registers.rsi, registers.rdx,
                     registers.r10, registers.r8,  registers.r9};
  if (session_.census().due(Clock::now())) add_memory_digests();

  const CallOutcome outcome = make_system_call(task_, registers);
  AFTERCHECK_LOG_TO(LogTopic::calls,
                    "thread {}: call {}({:#x}, {:#x}, {:#x}, {:#x}, {:#x}, {:#x}): outcome {}, value {}",
                    number_, number, before_.rdi, before_.rsi, before_.rdx, before_.r10, before_.r8,
                    before_.r9, static_cast<int>(outcome.kind), outcome.value);
  if (outcome.kind == CallOutcome::Kind::thread_exited) return end_alone(outcome.value);
  // Digests are of memory before the answer; exiting leaves that as it was.
  const bool digests = event_.memory.empty() && event_.kind == EventKind::syscall;
  if (outcome.kind == CallOutcome::Kind::exited) {
    if (digests) add_memory_digests();
    finish_event(before_);
    end_recording(EndReason::exited, static_cast<int>(outcome.value & 0xff));
    return;
  }
  if (outcome.kind == CallOutcome::Kind::refused) {
    // Of a program that found no room (execve) nothing is left of that.
    const bool replaced = outcome.fpu_changed;
    if (digests && !replaced) add_memory_digests();
    finish_event(before_);
    end_recording(EndReason::recording_stopped, static_cast<int>(number));
    return;
  }
  if (session_.process().unsupported.take_news()) session_.note_unsupported();
  std::optional<long> result;
  if (outcome.kind == CallOutcome::Kind::new_process) {
    result = make_process(outcome.new_process);
    registers.rax = static_cast<uint64_t>(*result);
  }
  if (outcome.kind == CallOutcome::Kind::result) {
    registers.rax = static_cast<uint64_t>(outcome.value);
    result = outcome.value;
  }
  if (outcome.fpu_changed) set_fpu(outcome.fpu);
  const bool executes = outcome.fpu_changed && (number == SYS_execve || number == SYS_execveat);
  if (executes) session_.image_replaced();
  const ThreadSignals::Delivery delivery = deliver_all(result, number);
  task_.signals.restore_mask();
  finish_event(before_);
  if (executes) session_.memory_replaced(*this);
  if (delivery.kind == ThreadSignals::Delivery::Kind::terminate)
    end_recording(EndReason::killed_by_signal, delivery.signal);
}

// The event under way was the thread's last; its process may go on.
void RecordedThread::end_alone(long status) {
  finish_event(before_);
  gone_ = true;
  status_ = static_cast<int>(status);
}

// The result of the call in the parent. The child goes on elsewhere.
long RecordedThread::make_process(const NewProcess& wanted) {
  // A copied vCPU answers nothing.
  ThreadState of_child{.registers = vcpu_->registers(),
                       .fpu = vcpu_->fpu(),
                       .signal_mask = task_.signals.blocked(),
                       .alternate_stack = task_.signals.alternate_stack(),
                       .seccomp = task_.seccomp};
  recording::Parent parent;
  const long child = session_.make_process(*this, wanted, parent);
  if (child == 0) begin_process(wanted, std::move(of_child), parent);
  return child;
}

// The first event of a child process, in which this is all that is left of the parent's threads. The vCPU is
// still the parent's.
void RecordedThread::begin_process(const NewProcess& wanted, ThreadState state,
                                   const recording::Parent& parent) {
  GuestProcess& process = session_.process();
  process.signals.forked(task_.signals);
  if ((wanted.flags & kCloneClearSighand) != 0) process.signals.clear_handlers();
  process.timers.clear();
  state.registers.rax = 0;
  if (wanted.stack != 0) state.registers.rsp = wanted.stack;
  if ((wanted.flags & CLONE_SETTLS) != 0) state.registers.fs_base = wanted.tls;
  if ((wanted.flags & CLONE_CHILD_CLEARTID) != 0) state.clear_child_tid = wanted.child_tid;
  if ((wanted.flags & CLONE_CHILD_SETTID) != 0) task_.answer.write_object(wanted.child_tid, getpid());
  clear_event(EventKind::start);
  event_.thread = 0;
  event_.operands = {parent.process, parent.event};
  const RegisterWords words = to_words(state.registers);
  for (size_t i = 0; i < kRegisterCount; ++i) event_.registers.push_back({static_cast<uint8_t>(i), words[i]});
  event_.fpu = state.fpu.bytes();
  task_.answer.move_to(event_);
  session_.append(event_);
  state.begun = true;
  session_.start_over(std::move(state));
}

// dup_mmap() of kernel/fork.c.
void RecordedThread::drop_uncopied() {
  LoggedSpace& memory = session_.process().memory;
  std::vector<Range> gone, wiped;
  for (const auto& [start, mapping] : memory.space().mappings()) {
    if (mapping.left_out_of_forks)
      gone.push_back({start, mapping.end});
    else if (mapping.wiped_in_forks)
      wiped.push_back({start, mapping.end});
  }
  if (gone.empty() && wiped.empty()) return;
  clear_event(EventKind::continuation);
  for (const Range& range : gone) memory.unmap(task_.answer, range);
  for (const Range& range : wiped) memory.discard(task_.answer, range);
  task_.answer.move_to(event_);
  session_.append(event_);
}

void RecordedThread::handle_trapped(const Exit& exit) {
  begin_event(EventKind::trapped_instruction);
  event_.operands = {static_cast<uint64_t>(exit.instruction.kind), before_.rax, before_.rcx};
  if (const std::optional<Exit> fault =
          session_.process().forbids_tsc && reads_counter(exit.instruction.kind)
              ? forbidden_counter()
              : answer_trapped_instruction(exit.instruction, session_.cpu(), task_.answer, *vcpu_))
    task_.signals.raise_fault(*fault, vcpu_->registers(), session_.space());
  else if (exit.instruction.kind == TrappedKind::xrstor)
    set_fpu(vcpu_->fpu());
  deliver_and_finish();
}

void RecordedThread::handle_fault(const Exit& exit) {
  begin_event(exit.kind == ExitKind::memory_fault ? EventKind::memory_fault : EventKind::exception);
  if (exit.kind == ExitKind::memory_fault)
    event_.operands = {exit.address, operand_of(exit.access)};
  else
    event_.operands = {exit.kind == ExitKind::breakpoint ? vector::kBreakpoint : exit.vector,
                       exit.error_code};
  // What the kernel settles without the program's knowledge: a stack that grows.
  if (exit.kind == ExitKind::memory_fault && session_.space().find(exit.address) == nullptr &&
      grow_down(session_.process(), task_.answer, exit.address)) {
    finish_event(before_);
    return;
  }
  Registers& registers = vcpu_->registers();
  if (exit.kind == ExitKind::memory_fault)
    if (const std::optional<CallOutcome> outcome = answer_vsyscall(exit, task_, registers)) {
      if (outcome->kind == CallOutcome::Kind::thread_exited) return end_alone(outcome->value);
      return deliver_and_finish();
    }
  task_.signals.raise_fault(exit, registers, session_.space());
  if (exit.kind == ExitKind::breakpoint) ++registers.rip;  // SIGTRAP's RIP is after the INT3
  deliver_and_finish();
}

// Ends the event under way, a waiting signal included.
void RecordedThread::deliver_and_finish() {
  const ThreadSignals::Delivery delivery = deliver_all(std::nullopt, 0);
  finish_event(before_);
  if (delivery.kind == ThreadSignals::Delivery::Kind::terminate)
    end_recording(EndReason::killed_by_signal, delivery.signal);
}

// A signal came while the guest computes, or others want to run. A signal that kills ends the recording
// within this segment. One with a handler is delivered at the next exit if that comes soon; else at a
// position of its own, which the replay finds by its count of branches, if it has one, and the guest's whole
// state.
void RecordedThread::handle_kick() {
  if (const std::optional<int> fatal = task_.signals.fatal_pending()) return die(*fatal);
  const bool delivers = task_.signals.deliverable();
  if (!delivers && !session_.token().wanted() && !slice_over_) return;
  if (!delivers && vcpu_->counts_branches()) {
    preempt();
    return;
  }
  const Approach approach = step_to_position(*vcpu_, session_.space());
  if (approach.exit)
    handle(*approach.exit);
  else
    stop_at_full_state(approach.stored);
}

void RecordedThread::stop_at_full_state(const std::vector<uint64_t>& stored) {
  begin_event(EventKind::asynchronous);
  if (vcpu_->counts_branches() && !comes_again_uncounted(before_.rip, session_.space()))
    event_.branches = vcpu_->branches();
  const RegisterWords state = canonical_state(before_);
  event_.operands.assign(state.begin(), state.end());
  add_memory_digests();
  Registers& registers = vcpu_->registers();
  if (session_.options().write_log) {
    const auto samples = sample_memory(session_.space(), registers, stored);
    event_.memory.insert(event_.memory.begin(), samples.begin(), samples.end());
  }
  // Flags that instructions leave undefined, and the sticky ones of the FPU, are no part of the state that is
  // compared: from here on the replay has those of the recording.
  set_fpu(vcpu_->fpu());
  const ThreadSignals::Delivery delivery = deliver_all(std::nullopt, 0);
  Registers base = before_;
  base.rflags = ~registers.rflags;
  finish_event(base);
  if (delivery.kind == ThreadSignals::Delivery::Kind::terminate)
    end_recording(EndReason::killed_by_signal, delivery.signal);
}

// The others' turn, at a place that is known by its count of branches.
bool RecordedThread::preempt() {
  bool found = false;
  const unsigned further = session_.token().chaotic() ? session_.token().chaotic_steps() : 0;
  const Approach approach = step_to_counted_position(*vcpu_, session_.space(), further, &found);
  if (approach.exit) {
    handle(*approach.exit);
    return true;
  }
  if (!found) return false;  // and it will be kicked again
  if (comes_again_uncounted(vcpu_->registers().rip, session_.space())) {
    task_.yields = true;
    stop_at_full_state(approach.stored);
    return true;
  }
  begin_event(EventKind::preempted);
  event_.operands = {event_.rip, vcpu_->branches()};
  event_.rip = 0;
  // There are hundreds of these a second, and each is to be small.
  if (event_.time_ns > session_.last_time_ns())
    event_.time_ns -= (event_.time_ns - session_.last_time_ns()) % kPreemptedTime;
  task_.yields = true;
  finish_event(before_);
  return true;
}

// By a signal without a handler. What the thread has done since its last event nobody will know, unless it
// did that to memory that others have.
void RecordedThread::die(int signal) {
  if (session_.shares_memory()) {
    if (!vcpu_->counts_branches()) {
      const Approach approach = step_to_position(*vcpu_, session_.space());
      if (approach.exit) return handle(*approach.exit);
      return stop_at_full_state(approach.stored);  // delivers it
    }
    if (!preempt()) return vcpu_->kick();
    if (session_.ended()) return;
  }
  end_recording(EndReason::killed_by_signal, signal);
}

void RecordedThread::handle(const Exit& exit) {
  switch (exit.kind) {
    case ExitKind::syscall:
      return handle_system_call();
    case ExitKind::trapped_instruction:
      return handle_trapped(exit);
    case ExitKind::exception:
    case ExitKind::memory_fault:
    case ExitKind::breakpoint:
      return handle_fault(exit);
    case ExitKind::kick:
      return handle_kick();
    case ExitKind::step:
    case ExitKind::untrapped:
      break;
  }
  fail(ErrorKind::internal, "unexpected exit: {}", describe(exit));
}

void RecordedThread::change_vcpu() {
  next_vcpu_->registers() = vcpu_->registers();
  next_vcpu_->set_fpu(vcpu_->fpu());
  vcpu_ = next_vcpu_.get();
  vcpu_->reset_branches();
  own_vcpus_.push_back(std::move(next_vcpu_));
  task_.signals.set_vcpu(*vcpu_);
  task_.signals.update();
  if (task_.signals.deliverable()) vcpu_->kick();  // what came meanwhile kicked the one before
}

Exit RecordedThread::run_guest() {
  Token& token = session_.token();
  slice_over_ = false;
  if (!token.chaotic() || !token.contended() || !vcpu_->counts_branches()) return vcpu_->run();
  if (slice_left_ == 0) slice_left_ = token.chaotic_slice();
  constexpr uint64_t kNowhere = 1;  // only the count ends the run
  const uint64_t before = vcpu_->branches();
  const Exit exit = vcpu_->run_until(before + slice_left_, kNowhere);
  const uint64_t executed = vcpu_->branches() - before;
  slice_over_ = executed > slice_left_;
  slice_left_ = slice_over_ ? 0 : slice_left_ - executed;
  return exit;
}

void RecordedThread::run() {
  const Token& token = session_.token();
  if (next_vcpu_) change_vcpu();
  while (!session_.ended() && !gone_ && !moves_) {
    session_.trace_resumed(vcpu_->registers().rip);
    handle(run_guest());
    session_.between_events();
    if (next_vcpu_) change_vcpu();
    if ((task_.yields || token.wanted()) && !session_.ended() && !gone_ && !moves_) let_others_run();
  }
}

}  // namespace aftercheck
