// One thread of a guest that is recorded: runs it from exit to exit and answers them. Inside of the recorder.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "kvm-recorder/guest_task.h"
#include "kvm-recorder/loader.h"
#include "kvm-recorder/recording_session.h"
#include "kvm-recorder/token.h"
#include "machine/vcpu.h"
#include "recording/digest.h"
#include "recording/event.h"

namespace aftercheck {

// Thrown through a thread's call when the thread is to end.
struct ThreadGone {};
// Thrown in a child of fork(2), whose copy of its parent's stack ends so.
struct ProcessForked {};

// What goes from one host thread to another with a guest's.
struct ThreadState {
  uint32_t number = 0;
  Registers registers{};
  FpuState fpu{};
  recording::RunningDigest digest{};
  uint64_t signal_mask = 0;
  KernelStack alternate_stack{};
  Seccomp seccomp{};
  uint64_t clear_child_tid = 0;
  bool begun = false;  // its beginning is in the log
};

// Made, used and destroyed on the host thread that runs it, while that has the token, where not told
// otherwise.
class RecordedThread final : public TokenUser, private CallWaits {
 public:
  // `session` and `vcpu` must outlive this. The state's registers and FPU go to the vCPU.
  RecordedThread(RecordingSession& session, Vcpu& vcpu, const ThreadState& state);
  ~RecordedThread() override;
  RecordedThread(const RecordedThread&) = delete;
  RecordedThread& operator=(const RecordedThread&) = delete;

  // The first event of a recording: the program's image.
  void load(const Program& program, const std::vector<std::string>& environment, bool randomize);
  // The first event of this thread, which thread `by` has made. Its number is `number` from now on.
  void begin_thread(uint32_t number, uint32_t by);
  // In a child process, on its own vCPU: memory that is not to be copied goes.
  void drop_uncopied();
  // Runs the guest's code until the thread is gone, moves to another host thread, or the recording ends.
  // Throws ThreadGone where it was stopped.
  void run();

  uint32_t number() const { return number_; }
  // Is its beginning in the log?
  bool begun() const { return begun_; }
  // As in EventKind::thread_end.
  int status() const { return status_; }
  bool moved() const { return moves_; }
  bool stopping() const { return stopping_; }
  GuestTask& task() { return task_; }
  Vcpu& vcpu() { return *vcpu_; }
  std::string describe_event() const;
  CheckpointThread for_checkpoint();
  ThreadState state();

  // Called by another thread, which has the token: this one ends when it gets it.
  void stop();
  // More threads will be there.
  void others_come();
  // The process ends, and shares memory: what others are to know of the thread's locks. As
  // leave_robust_locks().
  void leave_locks();
  // In a call that suspended() was called in, and which has the token again: goes on with it. Throws
  // ThreadGone where the thread was stopped meanwhile.
  void resume();
  // This vCPU goes on with the thread after the event under way.
  void move_to(std::unique_ptr<Vcpu> vcpu) { next_vcpu_ = std::move(vcpu); }
  // Another host thread does.
  void move_away() { moves_ = true; }

  // TokenUser
  void suspended() override;
  void hurry() noexcept override;
  // Also 0: the process shares no memory any more.
  void turn(uint64_t number) override;

 private:
  RecordingSession& session_;
  uint32_t number_;
  Vcpu* vcpu_;
  std::unique_ptr<Vcpu> next_vcpu_;
  std::vector<std::unique_ptr<Vcpu>> own_vcpus_;  // signal handlers may have any of them still
  GuestTask task_;
  recording::RunningDigest digest_;
  recording::Event event_;  // the exit under way; kept between exits for its buffers
  Registers before_;        // registers at that exit
  bool begun_ = false, gone_ = false, stopping_ = false, moves_ = false;
  uint64_t slice_left_ = 0;  // branches, where slices are random; 0: a new one begins
  bool slice_over_ = false;
  int status_ = 0;

  // CallWaits
  void begin() override { session_.token().begin_wait(*this); }
  void end() override;

  void begin_event(recording::EventKind kind);
  void clear_event(recording::EventKind kind);
  void add_memory_digests();
  void finish_event(const Registers& base);
  void append();
  void end_recording(recording::EndReason reason, int status);
  Exit run_guest();
  void handle(const Exit& exit);
  void handle_system_call();
  void end_alone(long status);
  long make_process(const NewProcess& wanted);
  [[noreturn]] void begin_process(const NewProcess& wanted, ThreadState state,
                                  const recording::Parent& parent);
  void handle_trapped(const Exit& exit);
  void handle_fault(const Exit& exit);
  void handle_kick();
  void stop_at_full_state(const std::vector<uint64_t>& stored);
  // False: there was no place to stop at.
  bool preempt();
  void die(int signal);
  recording::Event event_beside(recording::EventKind kind) const;
  ThreadSignals::Delivery deliver_all(std::optional<long> result, uint64_t number);
  void deliver_and_finish();
  void set_fpu(const FpuState& fpu);
  void change_vcpu();
  void let_others_run();
};

}  // namespace aftercheck
