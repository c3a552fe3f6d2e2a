// A recording under way: the guest's memory and machine, the log and what is written beside it, the threads.
// Inside of the recorder.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "kvm-recorder/descriptors.h"
#include "kvm-recorder/guest_process.h"
#include "kvm-recorder/guest_threads.h"
#include "kvm-recorder/loader.h"
#include "kvm-recorder/memory_census.h"
#include "kvm-recorder/memory_group.h"
#include "kvm-recorder/process_signals.h"
#include "kvm-recorder/process_tree.h"
#include "kvm-recorder/pt_trace.h"
#include "kvm-recorder/recorded_checkpoints.h"
#include "kvm-recorder/recorder.h"
#include "kvm-recorder/token.h"
#include "machine/vcpu.h"
#include "recording/event.h"
#include "recording/meta.h"
#include "recording/store.h"
#include "recording/writer.h"

namespace aftercheck {

class RecordedThread;
struct ThreadState;

// Records one guest from its first instruction to its end. Made and run on the process's first thread, which
// runs the guest's first. Used by the holder of the token, where not told otherwise.
class RecordingSession final : public GuestThreads {
 public:
  // `directory` is there; nothing is in it yet. Throws Error.
  RecordingSession(const RecordOptions& options, const std::filesystem::path& directory);
  ~RecordingSession();
  RecordingSession(const RecordingSession&) = delete;
  RecordingSession& operator=(const RecordingSession&) = delete;

  RecordResult run(const Program& program);

  // For its threads.
  const RecordOptions& options() const { return options_; }
  const CpuModel& cpu() const { return cpu_; }
  AddressSpace& space() { return space_; }
  GuestProcess& process() { return process_; }
  MemoryCensus& census() { return census_; }
  Token& token() { return token_; }
  bool ended() const { return ended_; }
  // With other processes.
  bool shares_memory() const { return group_.joined(); }
  // Entries of the log so far.
  uint64_t entries() const { return entries_; }
  // Host time since the recording began.
  uint64_t time_ns() const;
  // Of the last event.
  uint64_t last_time_ns() const { return last_time_ns_; }
  // An exit, an answer or both. Where the log fails, the recording ends, or goes on without it.
  void append(recording::Event& event);
  // The guest is gone, by what `thread` has done. Its other threads end as they get the token.
  void end(uint32_t thread, recording::EndReason reason, int status);
  // The guest is about to run from `rip` on; it is at the exit of `event`.
  void trace_resumed(uint64_t rip);
  void trace_exited(const recording::Event& event);
  // The guest stands still, all of the last event answered and appended.
  void between_events() { take_checkpoint_if_due(); }
  // What is known of unsupported calls goes into the recording: at each new one, so that it is there whatever
  // becomes of us, and at the end.
  void note_unsupported();

  // fork(2) and its kin, by `by`, whose log's next entry is the call. In the parent the call's result. In the
  // child 0: the log of the new process has begun, and is to get its start event; then start_over() comes.
  long make_process(RecordedThread& by, const NewProcess& wanted, recording::Parent& parent);
  // execve(2) was made: what `info` shows of a child process is what it runs.
  void image_replaced();
  // After its event: of the memory that the process had nothing is left.
  void memory_replaced(RecordedThread& by);
  // In the child: the thread goes on from this state, in a new process. Throws ProcessForked.
  [[noreturn]] void start_over(ThreadState state);

  // GuestThreads
  long start(GuestTask& by, const NewThread& thread) override;
  GuestTask* find(pid_t number) override;
  std::vector<GuestTask*> all() override;
  size_t count() const override { return threads_.size(); }
  void end_others(GuestTask& by) override;
  void share_memory(GuestTask& by) override;
  void clear_pins() override { token_.clear_pins(); }

 private:
  struct Start;
  using Clock = std::chrono::steady_clock;

  const RecordOptions& options_;
  std::filesystem::path directory_;  // of this process's part of the recording
  ProcessTree tree_;
  MemoryGroup group_;
  recording::Meta meta_;
  const CpuModel cpu_;
  AddressSpace space_;
  std::string why_this_machine_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<Vcpu> first_vcpu_;
  // Where machine_ can't count branches, one that does, for a guest with several threads.
  std::unique_ptr<Machine> counting_machine_;
  recording::Store store_;
  LoggedSpace memory_;
  ProcessSignals signals_;
  Descriptors descriptors_;
  GuestProcess process_;
  MemoryCensus census_;
  std::unique_ptr<recording::Writer> writer_;
  std::unique_ptr<RecordedCheckpoints> checkpoints_;
  std::unique_ptr<PtTrace> pt_;
  Token token_;
  Clock::time_point start_ = Clock::now();
  uint64_t last_time_ns_ = 0;  // of the last event
  RecordResult result_;
  uint64_t entries_ = 0;
  bool ended_ = false;

  std::vector<RecordedThread*> threads_;
  uint32_t threads_begun_ = 1;  // the log has them in this order
  // Without the token: who has ended, and what the process's first thread waits for.
  std::mutex ends_mutex_;
  std::condition_variable ends_changed_;
  size_t running_ = 0;                      // threads of the guest that are not gone
  std::unique_ptr<ThreadState> to_leader_;  // execve(2) in another thread: the first goes on with it
  std::unique_ptr<ThreadState> moving_;     // on its way there; who has the token
  std::list<std::thread> hosts_;
  std::vector<std::list<std::thread>::iterator> over_;
  std::exception_ptr failure_;           // of another thread than the first
  bool shares_memory_ = false;           // with a parent that waits
  std::unique_ptr<ThreadState> forked_;  // this is a child, in which its parent's stack is still to be left

  // The process's first thread, from this state on until the guest is gone; `program` is to be loaded first,
  // if any.
  void lead(std::unique_ptr<ThreadState> state, const Program* program);
  void program_begins();
  std::unique_ptr<ThreadState> become_child();
  void begin_log_of_child(const recording::Parent& parent);
  void link_store() const;
  void finish();
  [[noreturn]] void end_child();
  // Writes `meta` anew; what fails is said as "WHAT can't be noted". `synced`: it is on the disk then.
  void note_in_meta(const char* what, bool synced);
  void wait_for_others();
  RecordedThread& recorded(const GuestTask& task);
  void share(RecordedThread& first);
  void enter_group(RecordedThread& thread);
  std::unique_ptr<Vcpu> create_vcpu_beside_others();
  void run_other(Start& start);
  bool run_to_end(RecordedThread& thread, const std::function<void()>& begin);
  void note_end(RecordedThread& thread);
  void join_ended();
  static bool is_leader();
  void hand_to_leader();
  std::unique_ptr<ThreadState> wait_as_leader();
  void append_with_continuations(recording::Event& event);
  void log_failed(const std::string& why);
  void start_trace();
  void drop_trace(const std::string& why);
  void drop_trace_if_failed();
  void finish_trace();
  void take_checkpoint_if_due();
  void drop_checkpoints(const std::string& why);
  void finish_log();
};

}  // namespace aftercheck
