#include "kvm-recorder/recording_session.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/version.h"
#include "kvm-recorder/recorded_thread.h"
#include "kvm-recorder/resource_limits.h"
#include "kvm-recorder/robust_locks.h"
#include "machine/dense_exits.h"

namespace aftercheck {
namespace {

namespace fs = std::filesystem;
using recording::Event;
using recording::EventKind;

// A run that is over by then keeps the files that it mapped uncompressed: libraries take tens of
// milliseconds. Not so in a store that recordings share, where each file is compressed once for all of them.
constexpr std::chrono::milliseconds kShortRun{100};

std::string host_cpu() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(std::min(line.find(':') + 2, line.size()));
  return "unknown";
}

recording::Meta make_meta(const RecordOptions& options, MachineKind machine, const std::string& why) {
  recording::Meta meta;
  meta.writer = std::string("aftercheck ") + kVersion;
  meta.command = options.command;
  std::error_code error;
  meta.working_directory = fs::current_path(error).string();
  meta.environment = options.environment;
  meta.machine = name(machine);
  meta.cpu_model = name(options.cpu);
  meta.host_cpu = host_cpu();
  utsname host{};
  if (uname(&host) == 0) {
    meta.host_kernel = std::string(host.sysname) + " " + host.release;
    meta.host_name = host.nodename;
  }
  meta.start_time_ns = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                                 std::chrono::system_clock::now().time_since_epoch())
                                                 .count());
  meta.capabilities["machine"] = why;
  if (options.chaos) meta.capabilities["chaos"] = std::to_string(*options.chaos);
  return meta;
}

// A trace by the encoder needs a machine that tells branches, one by the processor needs KVM.
MachineChoice machine_for(const RecordOptions& options) {
  if (options.pt == PtChoice::perf &&
      (options.machine == MachineChoice::soft || options.machine == MachineChoice::translated))
    fail(ErrorKind::usage,
         "--pt=perf is the processor's trace of guests on KVM and can't be had with --machine={}; "
         "leave --machine out",
         options.machine == MachineChoice::soft ? "soft" : "translated");
  if (options.pt == PtChoice::soft && options.machine == MachineChoice::kvm)
    fail(
        ErrorKind::usage,
        "--pt=soft is made of the branches that a machine tells, and KVM tells none: leave --machine out, or "
        "add a trace to the recording afterwards with `aftercheck pt synth`");
  return options.machine;
}

// Where the processor can trace a guest, that is worth dear exits. Found out only where there is a choice.
MachineNeeds needs_of(const RecordOptions& options) {
  const bool wanted =
      machine_for(options) == MachineChoice::automatic &&
      (options.pt == PtChoice::perf || (options.pt == PtChoice::automatic && options.write_log));
  return {.processor_trace = wanted && processor_traces(), .control_flow = options.pt == PtChoice::soft};
}

}  // namespace

RecordingSession::RecordingSession(const RecordOptions& options, const fs::path& directory)
    : options_(options),
      directory_(directory),
      tree_(directory),
      cpu_(options.cpu),
      machine_(create_machine(machine_for(options), space_, cpu_, needs_of(options), &why_this_machine_)),
      first_vcpu_(create_leaving_vcpu(*machine_, space_, cpu_)),
      store_(directory, true),
      memory_(space_, store_, options.cpu),
      process_{.memory = memory_, .signals = signals_, .descriptors = descriptors_, .cpu = cpu_},
      census_(space_),
      token_(options.chaos) {
  process_.threads = this;
  memory_.join(group_);
  process_.tree = &tree_;
  process_.children_unrecorded = options_.children == OnChildren::native;
  process_.refuses_children = options_.children == OnChildren::refuse;
  process_.message = options_.message;
  process_.unsupported.answer_them = options_.on_unsupported == OnUnsupported::answer;
  process_.unsupported.allow_kill_all = options_.allow_kill_all;
  process_.personality = static_cast<uint32_t>(personality(0xffff'ffff));
  if (!options_.randomize) process_.personality |= ADDR_NO_RANDOMIZE;
  take_over_limits(process_);
  result_.machine = machine_->kind();
  if (machine_for(options) == MachineChoice::automatic && result_.machine == MachineKind::soft &&
      options_.message)
    options_.message("recording on the soft vCPU, which is slow: " + why_this_machine_);
  meta_ = make_meta(options_, result_.machine, why_this_machine_);
  meta_.process_id = static_cast<uint32_t>(getpid());
  recording::write_meta(directory, meta_, false);
  process_.own_files.protect(directory);
  if (!options_.store.empty()) process_.own_files.protect(options_.store, false);
  if (options_.write_log) writer_ = std::make_unique<recording::Writer>(directory);
  if (options_.write_log) store_.compress(options_.store.empty() ? kShortRun : std::chrono::milliseconds(0));
  for (const fs::path& path : {directory / "meta", directory}) store_.bring_to_disk(path);
  if (options_.write_log) start_trace();
  if (writer_ && options_.checkpoint_every_ns)
    checkpoints_ =
        std::make_unique<RecordedCheckpoints>(directory, *options_.checkpoint_every_ns, memory_, *writer_);
}

RecordingSession::~RecordingSession() = default;

uint64_t RecordingSession::time_ns() const {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start_).count());
}

// --- what is written ---

// The guest stands still, all of the last event answered and appended.
void RecordingSession::take_checkpoint_if_due() {
  // No replay could go on from one, with the other processes as they were then.
  if (!checkpoints_ || ended_ || group_.joined()) return;
  if (const std::string error = checkpoints_->error(); !error.empty()) return drop_checkpoints(error);
  if (!checkpoints_->due(last_time_ns_)) return;
  try {
    std::vector<CheckpointThread> threads;
    for (RecordedThread* thread : threads_)
      if (thread->begun()) threads.push_back(thread->for_checkpoint());
    checkpoints_->take(entries_, last_time_ns_, threads);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::io && error.kind() != ErrorKind::bad_input) throw;
    drop_checkpoints(error.what());
  }
}

// The recording is as good without them.
void RecordingSession::drop_checkpoints(const std::string& why) {
  if (options_.warning) options_.warning("no more checkpoints: " + why + "; the recording goes on");
  checkpoints_.reset();
}

void RecordingSession::finish_log() {
  if (writer_ && result_.log_error.empty()) try {
      memory_.host_thread().run([&] {
        store_.sync();
        writer_->finish();
      });
    } catch (const Error& error) {
      result_.log_error = error.what();
      if (options_.on_log_error == OnLogError::stop) {
        result_.signaled = false;
        result_.status = exit_status(ErrorKind::io);
      }
    }
  if (checkpoints_) try {
      checkpoints_->finish();
    } catch (const Error& error) {
      if (options_.warning)
        options_.warning(std::string("not all checkpoints could be kept: ") + error.what());
    }
  checkpoints_.reset();
  try {
    memory_.host_thread().run([&] { store_.finish(); });
  } catch (const Error& error) {
    if (options_.warning)
      options_.warning(std::string("not all of the recording's files are compressed: ") + error.what());
  }
}

// What is known of unsupported calls goes into the recording: at each new one, so that it is there whatever
// becomes of us, and at the end.
void RecordingSession::note_unsupported() {
  const UnsupportedCalls& unsupported = process_.unsupported;
  result_.answered_calls = unsupported.answered();
  if (unsupported.answered().empty() && unsupported.stopped_at().empty()) return;
  meta_.answered_calls = unsupported.answered();
  meta_.stopped_at = unsupported.stopped_at();
  note_in_meta("which calls were not recorded", true);
}

void RecordingSession::note_in_meta(const char* what, bool synced) {
  try {
    memory_.host_thread().run([&] {
      if (synced)
        recording::write_meta(directory_, meta_);
      else
        recording::write_meta_over(directory_, meta_);
    });
  } catch (const Error& error) {
    if (options_.warning) options_.warning(fmt::format("{} can't be noted: {}", what, error.what()));
  }
}

void RecordingSession::start_trace() {
  if (options_.pt == PtChoice::soft) {
    AFTERCHECK_LOG_TO(LogTopic::pt, "traced by the encoder");
    pt_ = trace_by_encoder(*first_vcpu_, directory_);
  }
  const bool asked = options_.pt == PtChoice::perf;
  if (!asked && (options_.pt != PtChoice::automatic || machine_->kind() != MachineKind::kvm)) return;
  try {
    const std::optional<pt::PtPmu> pmu = pt::PtPmu::read();
    // Most hosts have none: nothing to tell at every recording.
    if (!pmu && !asked) return;
    if (!pmu)
      fail(ErrorKind::host_lacks,
           "Intel PT: this host has no intel_pt PMU ({} is missing); see `aftercheck doctor`",
           pt::PtPmu::kDevice);
    pt_ = trace_by_processor(pt::host_perf_kernel(), *pmu, directory_);
    first_vcpu_->stay_on_processor();
    AFTERCHECK_LOG_TO(LogTopic::pt, "traced by the processor");
  } catch (const Error& error) {
    if (asked || error.kind() != ErrorKind::host_lacks) throw;
    if (options_.message) options_.message(std::string("no PT trace: ") + error.what());
  }
}

// The recording goes on without it.
void RecordingSession::drop_trace(const std::string& why) {
  AFTERCHECK_LOG_TO(LogTopic::pt, "the trace ends before event {}: {}", entries_, why);
  if (options_.warning) options_.warning("the PT trace ends here: " + why + "; the recording goes on");
  pt_.reset();
}

// A trace that can't be written ends.
void RecordingSession::drop_trace_if_failed() {
  if (const std::string error = pt_->error(); !error.empty()) drop_trace(error);
}

void RecordingSession::trace_resumed(uint64_t rip) {
  if (pt_) pt_->resume(rip);
}

void RecordingSession::trace_exited(const Event& event) {
  if (!pt_) return;
  pt_->exited(event, entries_);
  drop_trace_if_failed();
}

void RecordingSession::finish_trace() {
  if (!pt_) return;
  try {
    memory_.host_thread().run([&] { pt_->finish(); });
  } catch (const Error& error) {
    if (options_.warning) options_.warning(std::string("the PT trace is incomplete: ") + error.what());
  }
}

void RecordingSession::append(Event& event) {
  if (ended_ && event.kind != EventKind::end) return;
  ++result_.events;
  last_time_ns_ = event.time_ns;
  AFTERCHECK_LOG_TO(
      LogTopic::record,
      "event {}: thread {}, kind {} at {:#x}; answer: {} registers, {} writes, {} mappings, {} patches",
      entries_, event.thread, static_cast<int>(event.kind), event.rip, event.registers.size(),
      event.writes.size(), event.space_ops.size(), event.patches.size());
  if (!writer_) return;
  if (!memory_.store_error().empty()) {
    log_failed(memory_.store_error());
    return;
  }
  uint64_t bytes = 0;
  for (const recording::MemoryWrite& write : event.writes) bytes += write.bytes.size();
  if (bytes <= recording::kMaxEventBytes) {
    writer_->append(event);
    ++entries_;
  } else {
    append_with_continuations(event);
  }
  if (writer_->failed()) log_failed(writer_->error());
}

// `event` has too many writes for one entry of the log.
void RecordingSession::append_with_continuations(Event& event) {
  const std::vector<recording::MemoryWrite> writes = std::move(event.writes);
  event.writes.clear();
  uint64_t room = recording::kMaxEventBytes;
  Event* target = &event;
  Event continuation;
  auto flush = [&] {
    writer_->append(*target);
    ++entries_;
    continuation = Event{};
    continuation.kind = EventKind::continuation;
    continuation.thread = event.thread;
    continuation.time_ns = event.time_ns;
    target = &continuation;
    room = recording::kMaxEventBytes;
  };
  // Patches come after all writes.
  std::vector<recording::CodePatch> patches = std::move(event.patches);
  event.patches.clear();
  for (recording::MemoryWrite write : writes) {
    while (!write.bytes.empty()) {
      if (room == 0) flush();
      const size_t size = std::min<uint64_t>(write.bytes.size(), room);
      target->writes.push_back({write.address, write.bytes.first(size)});
      write = {write.address + size, write.bytes.subspan(size)};
      room -= size;
    }
  }
  target->patches = std::move(patches);
  writer_->append(*target);
  ++entries_;
}

void RecordingSession::log_failed(const std::string& why) {
  result_.log_error = why;
  if (options_.on_log_error == OnLogError::stop) {
    if (options_.warning)
      options_.warning("the recording can't be continued: " + result_.log_error + "; stopping the program");
    ended_ = true;
    result_.status = exit_status(ErrorKind::io);
    return;
  }
  if (options_.warning)
    options_.warning("the recording ends here: " + result_.log_error + "; the program goes on unrecorded");
  checkpoints_.reset();  // it asks the writer
  writer_.reset();
}

// --- the end ---

void RecordingSession::end(uint32_t thread, recording::EndReason reason, int status) {
  if (ended_) return;  // the log failed at this very exit
  if (group_.joined() && reason != recording::EndReason::recording_stopped)
    for (RecordedThread* other : threads_)
      if (other->begun()) other->leave_locks();
  ended_ = true;
  result_.signaled = reason == recording::EndReason::killed_by_signal;
  result_.status = status;
  if (reason == recording::EndReason::recording_stopped) {
    result_.status = kUnsupportedStatus;
    result_.unsupported = process_.unsupported.why();
  }
  Event event;
  event.kind = EventKind::end;
  event.thread = thread;
  event.time_ns = time_ns();
  event.operands = {static_cast<uint64_t>(reason), static_cast<uint64_t>(status)};
  append(event);
}

// --- threads ---

// What a new thread's host thread is given, and gives back before it waits for the token.
struct RecordingSession::Start {
  ThreadState state;
  int unshared = 0;  // what of the process it is to have for itself, as unshare(2) takes it
  uint32_t by = 0;
  std::list<std::thread>::iterator host;
  // Told to the thread that starts it.
  std::mutex mutex;
  std::condition_variable changed;
  bool ready = false;
  pid_t number = 0;
  std::exception_ptr thrown;
};

RecordedThread& RecordingSession::recorded(const GuestTask& task) {
  const auto found = std::ranges::find_if(threads_, [&](RecordedThread* t) { return &t->task() == &task; });
  AFTERCHECK_INVARIANT(found != threads_.end(), "a call by a thread that is not recorded");
  return **found;
}

GuestTask* RecordingSession::find(pid_t number) {
  for (RecordedThread* thread : threads_)
    if (thread->task().signals.host_thread() == number) return &thread->task();
  return nullptr;
}

std::vector<GuestTask*> RecordingSession::all() {
  std::vector<GuestTask*> tasks;
  for (RecordedThread* thread : threads_) tasks.push_back(&thread->task());
  return tasks;
}

// The guest's second thread comes, or it shares memory with another process.
void RecordingSession::share(RecordedThread& first) {
  if (pt_) {
    finish_trace();
    drop_trace(
        "the program has several threads, or shares memory with other processes, which can't be traced yet");
  }
  if (!first.vcpu().count_branches(true)) try {
      if (counting_machine_ == nullptr) counting_machine_ = create_translated_machine(space_, cpu_);
      code_changed_elsewhere(*counting_machine_, space_);
      first.move_to(counting_machine_->create_vcpu());
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::host_lacks) throw;
      AFTERCHECK_LOG_TO(LogTopic::record, "branches can't be counted here: {}", error.what());
    }
  first.others_come();
  token_.share(first);
}

void RecordingSession::share_memory(GuestTask& by) {
  if (group_.joined()) return;
  group_.join();
  enter_group(recorded(by));
}

void RecordingSession::enter_group(RecordedThread& thread) {
  if (!token_.shared()) share(thread);
  token_.join_group(group_, thread);
  if (meta_.capabilities.contains(recording::kSharesMemory)) return;
  meta_.capabilities[recording::kSharesMemory] = "yes";
  if (writer_) note_in_meta("that memory is shared", false);
}

// For another thread than the one that the recording began with, where threads are preempted.
std::unique_ptr<Vcpu> RecordingSession::create_vcpu_beside_others() {
  Machine& machine = counting_machine_ != nullptr ? *counting_machine_ : *machine_;
  std::unique_ptr<Vcpu> vcpu = create_leaving_vcpu(machine, space_, cpu_);
  vcpu->count_branches(true);
  return vcpu;
}

// Those host threads that have said that they are over.
void RecordingSession::join_ended() {
  std::vector<std::list<std::thread>::iterator> over;
  {
    const std::lock_guard lock(ends_mutex_);
    over.swap(over_);
  }
  for (const auto host : over) {
    host->join();
    hosts_.erase(host);
  }
}

long RecordingSession::start(GuestTask& by, const NewThread& thread) {
  RecordedThread& parent = recorded(by);
  if (!token_.shared()) share(parent);
  join_ended();
  const auto start = std::make_shared<Start>();
  start->state = parent.state();
  start->state.registers = thread.registers;
  start->state.digest = {};
  start->state.begun = false;
  start->state.clear_child_tid = thread.clear_child_tid;
  start->unshared = (thread.own_folders ? CLONE_FS : 0) | (thread.own_undoing ? CLONE_SYSVSEM : 0);
  start->by = parent.number();
  start->host = hosts_.emplace(hosts_.end());
  try {
    *start->host = start_without_signals([this, start] { run_other(*start); });
  } catch (const std::system_error& error) {
    hosts_.erase(start->host);
    return -error.code().value();
  }
  std::unique_lock lock(start->mutex);
  start->changed.wait(lock, [&] { return start->ready; });
  if (start->thrown) std::rethrow_exception(start->thrown);
  return start->number;
}

// The body of a host thread for one of the guest's. The thread that starts it has the token, until `ready`.
void RecordingSession::run_other(Start& start) {
  const auto ready = [&] {
    const std::lock_guard lock(start.mutex);
    start.ready = true;
    start.changed.notify_all();
  };
  const auto over = [&] {
    const std::lock_guard lock(ends_mutex_);
    over_.push_back(start.host);
    ends_changed_.notify_all();
  };
  std::unique_ptr<Vcpu> vcpu;
  std::optional<RecordedThread> thread;
  try {
    if (start.unshared != 0 && unshare(start.unshared) != 0)
      fail(ErrorKind::io, "unshare({:#x}): {}", start.unshared, errno_text(errno));
    vcpu = create_vcpu_beside_others();
    thread.emplace(*this, *vcpu, start.state);
    thread->others_come();
    threads_.push_back(&*thread);
    {
      const std::lock_guard lock(ends_mutex_);
      ++running_;
    }
    start.number = thread->task().signals.host_thread();
  } catch (...) {
    thread.reset();
    start.thrown = std::current_exception();
    over();
    ready();
    return;
  }
  ready();
  token_.acquire(*thread);
  const bool moved = run_to_end(*thread, [&] { thread->begin_thread(threads_begun_++, start.by); });
  if (forked_) {
    thread.reset();
    vcpu.reset();
    try {
      lead(become_child(), nullptr);
    } catch (...) {
      failure_ = std::current_exception();
    }
    end_child();
  }
  token_.leave(*thread);
  thread.reset();
  vcpu.reset();
  if (moved) hand_to_leader();
  over();  // joined by who has the token, after the next line
  token_.release();
}

// Runs the thread until it is gone, or the recording has ended, or another host thread is to go on with it:
// true. Whatever happens, it is not among the guest's threads any more, and the caller has the token.
bool RecordingSession::run_to_end(RecordedThread& thread, const std::function<void()>& begin) {
  const InvariantContext context([&] { return thread.describe_event(); });
  try {
    if (thread.stopping()) throw ThreadGone{};
    begin();
    thread.run();
  } catch (const ThreadGone&) {
  } catch (const ProcessForked&) {
    return false;
  } catch (...) {
    if (!failure_) failure_ = std::current_exception();
    ended_ = true;
  }
  std::erase(threads_, &thread);
  const bool moves = thread.moved() && !ended_;
  if (!moves) note_end(thread);
  if (ended_) {
    token_.leave_group();  // a turn that the others take to end is in no log
    for (RecordedThread* other : threads_) other->stop();
  }
  if (moves) {
    moving_ = std::make_unique<ThreadState>(thread.state());
    return true;
  }
  {
    const std::lock_guard lock(ends_mutex_);
    --running_;
  }
  ends_changed_.notify_all();
  return false;
}

// The thread is gone; the process is, too, if it was the last.
void RecordingSession::note_end(RecordedThread& thread) {
  if (ended_ || !thread.begun()) return;
  Event event;
  event.kind = EventKind::thread_end;
  event.thread = thread.number();
  event.time_ns = time_ns();
  event.operands = {static_cast<uint64_t>(thread.status())};
  append(event);
  if (!threads_.empty()) return;
  // kernel/exit.c, synchronize_group_exit(): the status of a process that no exit_group ended is that of its
  // last thread (before Linux 6.0 that of its first).
  constexpr auto kKilled = static_cast<int>(recording::kThreadKilled);
  if (thread.status() < kKilled)
    end(thread.number(), recording::EndReason::exited, thread.status());
  else
    end(thread.number(), recording::EndReason::killed_by_signal, thread.status() - kKilled);
}

void RecordingSession::end_others(GuestTask& by) {
  RecordedThread& thread = recorded(by);
  if (threads_.size() > 1) {
    for (RecordedThread* other : threads_)
      if (other != &thread) other->stop();
    thread.suspended();
    token_.leave(thread);
    token_.release();
    {
      std::unique_lock lock(ends_mutex_);
      ends_changed_.wait(lock, [&] { return running_ == 1; });
    }
    token_.acquire(thread);
    thread.resume();
  }
  // kernel/fork.c, exec_mm_release(). Memory that others have will not be this process's any more.
  if (leave_robust_locks_in_exec(by)) {
    thread.suspended();
    thread.resume();
  }
  // The one that is left has the process's number, whichever it was.
  if (!is_leader()) thread.move_away();
}

// --- the process's first thread ---

bool RecordingSession::is_leader() { return getpid() == gettid(); }

// The calling thread has the token, and nothing of the guest's thread is left on it: the first thread makes
// that anew meanwhile. It keeps the token until that is done.
void RecordingSession::hand_to_leader() {
  std::unique_lock lock(ends_mutex_);
  to_leader_ = std::move(moving_);
  --running_;
  ends_changed_.notify_all();
  ends_changed_.wait(lock, [&] { return to_leader_ == nullptr; });
}

// Null: all threads are gone.
std::unique_ptr<ThreadState> RecordingSession::wait_as_leader() {
  std::unique_lock lock(ends_mutex_);
  ends_changed_.wait(lock, [&] { return running_ == 0 || to_leader_ != nullptr; });
  return to_leader_ == nullptr ? nullptr : std::make_unique<ThreadState>(*to_leader_);
}

void RecordingSession::lead(std::unique_ptr<ThreadState> state, const Program* program) {
  bool alone = true;
  while (state != nullptr) {
    std::unique_ptr<Vcpu> other;
    if (!alone) other = create_vcpu_beside_others();
    std::optional<RecordedThread> thread;
    thread.emplace(*this, alone ? *first_vcpu_ : *other, *state);
    threads_.push_back(&*thread);
    {
      const std::lock_guard lock(ends_mutex_);
      ++running_;
      to_leader_.reset();
    }
    ends_changed_.notify_all();
    if (!alone) {
      thread->others_come();
      token_.acquire(*thread);
    }
    run_to_end(*thread, [&] {
      if (alone && group_.joined()) enter_group(*thread);
      if (const Program* image = std::exchange(program, nullptr)) {
        thread->load(*image, options_.environment, (process_.personality & ADDR_NO_RANDOMIZE) == 0);
        program_begins();
        // However early it ends, there is a recording.
        if (writer_) writer_->flush();
      } else if (alone && tree_.number() != 0 && !shares_memory_) {
        thread->drop_uncopied();
      }
    });
    alone = forked_ != nullptr;
    if (alone) {
      thread.reset();
      other.reset();
      state = become_child();
      continue;
    }
    token_.leave(*thread);
    thread.reset();
    tree_.first_thread_ends(true);
    token_.release();
    state = wait_as_leader();
    if (state != nullptr) tree_.first_thread_ends(false);
  }
  for (std::thread& host : hosts_) host.join();
  hosts_.clear();
  if (failure_) std::rethrow_exception(failure_);
}

void RecordingSession::finish() {
  tree_.let_parent_go(space_);
  if (tree_.has_others()) machine_->tell_prepared();
  finish_trace();
  pt_.reset();
  finish_log();
  note_unsupported();
  if (process_.dumpable == 0) prctl(PR_SET_DUMPABLE, 0);  // no core file is part of how it ends
}

RecordResult RecordingSession::run(const Program& program) {
  auto state = std::make_unique<ThreadState>();
  state->signal_mask = signals_.inherited_mask();
  try {
    lead(std::move(state), &program);
  } catch (...) {
    if (tree_.number() == 0) throw;
    failure_ = std::current_exception();
  }
  if (tree_.number() != 0) end_child();
  finish();
  wait_for_others();
  return result_;
}

}  // namespace aftercheck
