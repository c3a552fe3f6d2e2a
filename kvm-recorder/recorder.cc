#include "kvm-recorder/recorder.h"

#include <sys/personality.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <optional>
#include <system_error>

#include "base/error.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/version.h"
#include "kvm-recorder/async_position.h"
#include "kvm-recorder/descriptors.h"
#include "kvm-recorder/guest_task.h"
#include "kvm-recorder/loader.h"
#include "kvm-recorder/memory_census.h"
#include "kvm-recorder/memory_limits.h"
#include "kvm-recorder/process_signals.h"
#include "kvm-recorder/pt_trace.h"
#include "kvm-recorder/recorded_checkpoints.h"
#include "kvm-recorder/resource_limits.h"
#include "kvm-recorder/system_call.h"
#include "kvm-recorder/trapped_answers.h"
#include "kvm-recorder/vsyscall.h"
#include "machine/dense_exits.h"
#include "recording/digest.h"
#include "recording/meta.h"
#include "recording/store.h"
#include "recording/writer.h"

namespace aftercheck {
namespace {

namespace fs = std::filesystem;
using recording::Event;
using recording::EventKind;
using Clock = std::chrono::steady_clock;

// A run that is over by then keeps the files that it mapped uncompressed: libraries take tens of
// milliseconds. Not so in a store that recordings share, where each file is compressed once for all of them.
constexpr std::chrono::milliseconds kShortRun{100};

fs::path prepare_directory(const fs::path& directory) {
  std::error_code error;
  if (fs::exists(directory, error) && !(fs::is_directory(directory, error) && fs::is_empty(directory, error)))
    fail(ErrorKind::usage, "{}: exists already; choose another directory with -o, or remove it",
         directory.string());
  fs::create_directories(directory, error);
  if (error) fail(ErrorKind::io, "{}: can't be created: {}", directory.string(), error.message());
  // The guest may change its working directory, and where links lead.
  const fs::path found = fs::canonical(directory, error);
  return error ? fs::absolute(directory) : found;
}

// The recording's store becomes a link to a folder that others use too. Relative, so that they can be moved
// together. Nothing else may be in it: all of it is kept from the guest.
void share_store(const fs::path& directory, const fs::path& store) {
  std::error_code error;
  fs::create_directories(store, error);
  const fs::path target = error ? fs::path() : fs::canonical(store, error);
  if (!error)
    for (auto entry = fs::directory_iterator(target, error); !error && entry != fs::directory_iterator();
         entry.increment(error))
      if (!recording::may_be_in_store(entry->path().filename().string()))
        fail(ErrorKind::usage,
             "{}: a store for recordings has nothing else in it, and there is {}: name a folder of its own",
             store.string(), entry->path().filename().string());
  const fs::path place = error ? fs::path() : fs::canonical(directory, error);
  if (!error) fs::create_directory_symlink(target.lexically_relative(place), directory / "store", error);
  if (error)
    fail(ErrorKind::io, "{}: can't be the store of {}: {}", store.string(), directory.string(),
         error.message());
}

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

// prctl(PR_SET_TSC): CR4.TSD makes both instructions #GP(0).
bool reads_counter(TrappedKind kind) { return kind == TrappedKind::rdtsc || kind == TrappedKind::rdtscp; }

std::optional<Exit> forbidden_counter() {
  Exit fault;
  fault.kind = ExitKind::exception;
  fault.vector = vector::kGeneralProtection;
  return fault;
}

uint64_t operand_of(Access access) { return static_cast<uint64_t>(access); }

// Records one guest from its first instruction to its end.
class Session {
 public:
  Session(const RecordOptions& options, const fs::path& directory);
  RecordResult run(const Program& program);

 private:
  const RecordOptions& options_;
  const fs::path directory_;
  recording::Meta meta_;
  const CpuModel cpu_;
  AddressSpace space_;
  std::string why_this_machine_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<Vcpu> vcpu_;
  recording::Store store_;
  LoggedSpace memory_;
  ProcessSignals signals_;
  Descriptors descriptors_;
  GuestProcess process_;
  GuestTask task_;
  MemoryCensus census_;
  std::unique_ptr<recording::Writer> writer_;
  std::unique_ptr<RecordedCheckpoints> checkpoints_;
  std::unique_ptr<PtTrace> pt_;  // outlived by vcpu_
  recording::RunningDigest digest_;
  Clock::time_point start_ = Clock::now();
  RecordResult result_;
  uint64_t entries_ = 0;  // of the log: events and continuations
  Event event_;           // the exit under way; kept between exits for its buffers
  Registers before_;      // registers at that exit
  bool ended_ = false;

  void begin_event(EventKind kind);
  void add_memory_digests();
  void finish_event(const Registers& base);
  void append();
  void append_with_continuations();
  void end(recording::EndReason reason, int status);
  void handle(const Exit& exit);
  void handle_system_call();
  void handle_fault(const Exit& exit);
  void handle_kick();
  void settle(const ThreadSignals::Delivery& delivery);
  void deliver_and_finish();
  void set_fpu(const FpuState& fpu);
  void log_failed(const std::string& why);
  void start_trace(const fs::path& directory);
  void trace_exit();
  void drop_trace_if_failed();
  void finish_trace();
  void take_checkpoint_if_due();
  void drop_checkpoints(const std::string& why);
  void finish_log();
  void note_unsupported();
};

Session::Session(const RecordOptions& options, const fs::path& directory)
    : options_(options),
      directory_(directory),
      cpu_(options.cpu),
      machine_(create_machine(machine_for(options), space_, cpu_, needs_of(options), &why_this_machine_)),
      vcpu_(create_leaving_vcpu(*machine_, space_, cpu_)),
      store_(directory, true),
      memory_(space_, store_, options.cpu),
      process_{.memory = memory_, .signals = signals_, .descriptors = descriptors_, .cpu = cpu_},
      task_(process_, *vcpu_, signals_.inherited_mask()),
      census_(space_) {
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
  recording::write_meta(directory, meta_, false);
  process_.own_files.protect(directory);
  if (!options_.store.empty()) process_.own_files.protect(options_.store, false);
  if (options_.write_log) writer_ = std::make_unique<recording::Writer>(directory);
  if (options_.write_log) store_.compress(options_.store.empty() ? kShortRun : std::chrono::milliseconds(0));
  for (const fs::path& path : {directory / "meta", directory}) store_.bring_to_disk(path);
  if (options_.write_log) start_trace(directory);
  if (writer_ && options_.checkpoint_every_ns)
    checkpoints_ =
        std::make_unique<RecordedCheckpoints>(directory, *options_.checkpoint_every_ns, memory_, *writer_);
}

// The guest stands still, all of the last event answered and appended.
void Session::take_checkpoint_if_due() {
  if (!checkpoints_ || ended_) return;
  if (const std::string error = checkpoints_->error(); !error.empty()) return drop_checkpoints(error);
  if (!checkpoints_->due(event_.time_ns)) return;
  try {
    checkpoints_->take(entries_, event_.time_ns, *vcpu_, digest_);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::io && error.kind() != ErrorKind::bad_input) throw;
    drop_checkpoints(error.what());
  }
}

// The recording is as good without them.
void Session::drop_checkpoints(const std::string& why) {
  if (options_.warning) options_.warning("no more checkpoints: " + why + "; the recording goes on");
  checkpoints_.reset();
}

void Session::finish_log() {
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
void Session::note_unsupported() {
  const UnsupportedCalls& unsupported = process_.unsupported;
  result_.answered_calls = unsupported.answered();
  if (unsupported.answered().empty() && unsupported.stopped_at().empty()) return;
  meta_.answered_calls = unsupported.answered();
  meta_.stopped_at = unsupported.stopped_at();
  try {
    memory_.host_thread().run([&] { recording::write_meta(directory_, meta_); });
  } catch (const Error& error) {
    if (options_.warning)
      options_.warning(std::string("which calls were not recorded can't be noted: ") + error.what());
  }
}

void Session::start_trace(const fs::path& directory) {
  if (options_.pt == PtChoice::soft) {
    AFTERCHECK_LOG_TO(LogTopic::pt, "traced by the encoder");
    pt_ = trace_by_encoder(*vcpu_, directory);
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
    pt_ = trace_by_processor(pt::host_perf_kernel(), *pmu, directory);
    vcpu_->stay_on_processor();
    AFTERCHECK_LOG_TO(LogTopic::pt, "traced by the processor");
  } catch (const Error& error) {
    if (asked || error.kind() != ErrorKind::host_lacks) throw;
    if (options_.message) options_.message(std::string("no PT trace: ") + error.what());
  }
}

// A trace that can't be written ends; the recording goes on without it.
void Session::drop_trace_if_failed() {
  const std::string error = pt_->error();
  if (error.empty()) return;
  AFTERCHECK_LOG_TO(LogTopic::pt, "the trace ends before event {}: {}", entries_, error);
  if (options_.warning) options_.warning("the PT trace ends here: " + error + "; the recording goes on");
  pt_.reset();
}

// The guest is at the exit of the event under way.
void Session::trace_exit() {
  if (!pt_) return;
  pt_->exited(event_, entries_);
  drop_trace_if_failed();
}

void Session::finish_trace() {
  if (!pt_) return;
  try {
    memory_.host_thread().run([&] { pt_->finish(); });
  } catch (const Error& error) {
    if (options_.warning) options_.warning(std::string("the PT trace is incomplete: ") + error.what());
  }
}

void Session::begin_event(EventKind kind) {
  event_.kind = kind;
  event_.time_ns = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start_).count());
  event_.operands.clear();
  event_.memory.clear();
  event_.fpu_digest.reset();
  event_.branches.reset();
  event_.registers.clear();
  event_.fpu.clear();
  before_ = vcpu_->registers();
  event_.rip = before_.rip;
  event_.digest = digest_.update(canonical_state(before_));
  if (kind != EventKind::start) trace_exit();
}

void Session::add_memory_digests() {
  if (!options_.write_log) return;
  event_.memory = census_.take();
  event_.fpu_digest = recording::digest64(canonical_fpu(vcpu_->fpu()));
}

// Notes what changed since `base` and appends the event.
void Session::finish_event(const Registers& base) {
  const RegisterWords old = to_words(base), now = to_words(vcpu_->registers());
  for (size_t i = 0; i < kRegisterCount; ++i)
    if (old[i] != now[i]) event_.registers.push_back({static_cast<uint8_t>(i), now[i]});
  task_.answer.move_to(event_);
  append();
}

void Session::append() {
  ++result_.events;
  if (vcpu_->counts_branches()) vcpu_->reset_branches();
  AFTERCHECK_LOG_TO(LogTopic::record,
                    "event {}: kind {} at {:#x}; answer: {} registers, {} writes, {} mappings, {} patches",
                    entries_, static_cast<int>(event_.kind), event_.rip, event_.registers.size(),
                    event_.writes.size(), event_.space_ops.size(), event_.patches.size());
  if (!writer_) return;
  if (!memory_.store_error().empty()) {
    log_failed(memory_.store_error());
    return;
  }
  uint64_t bytes = 0;
  for (const recording::MemoryWrite& write : event_.writes) bytes += write.bytes.size();
  if (bytes <= recording::kMaxEventBytes) {
    writer_->append(event_);
    ++entries_;
  } else {
    append_with_continuations();
  }
  if (writer_->failed()) log_failed(writer_->error());
}

// event_ has too many writes for one entry of the log.
void Session::append_with_continuations() {
  const std::vector<recording::MemoryWrite> writes = std::move(event_.writes);
  event_.writes.clear();
  uint64_t room = recording::kMaxEventBytes;
  Event* target = &event_;
  Event continuation;
  auto flush = [&] {
    writer_->append(*target);
    ++entries_;
    continuation = Event{};
    continuation.kind = EventKind::continuation;
    continuation.time_ns = event_.time_ns;
    target = &continuation;
    room = recording::kMaxEventBytes;
  };
  // Patches come after all writes.
  std::vector<recording::CodePatch> patches = std::move(event_.patches);
  event_.patches.clear();
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

void Session::log_failed(const std::string& why) {
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

void Session::end(recording::EndReason reason, int status) {
  if (ended_) return;  // the log failed at this very exit
  ended_ = true;
  result_.signaled = reason == recording::EndReason::killed_by_signal;
  result_.status = status;
  if (reason == recording::EndReason::recording_stopped) {
    result_.status = kUnsupportedStatus;
    result_.unsupported = process_.unsupported.why();
  }
  event_ = Event{};
  event_.kind = EventKind::end;
  event_.time_ns = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start_).count());
  event_.operands = {static_cast<uint64_t>(reason), static_cast<uint64_t>(status)};
  append();
}

void Session::set_fpu(const FpuState& fpu) {
  vcpu_->set_fpu(fpu);
  event_.fpu = fpu.bytes();
}

// What a delivery asks for beyond registers and memory.
void Session::settle(const ThreadSignals::Delivery& delivery) {
  if (delivery.kind == ThreadSignals::Delivery::Kind::handler && delivery.reset_fpu)
    set_fpu(FpuState::initial());
}

void Session::handle_system_call() {
  begin_event(EventKind::syscall);
  Registers& registers = vcpu_->registers();
  const uint64_t number = registers.rax;
  event_.operands = {number,        registers.rdi, registers.rsi, registers.rdx,
                     registers.r10, registers.r8,  registers.r9};
  if (census_.due(Clock::now())) add_memory_digests();

  const CallOutcome outcome = make_system_call(task_, registers);
  AFTERCHECK_LOG_TO(LogTopic::calls,
                    "call {}({:#x}, {:#x}, {:#x}, {:#x}, {:#x}, {:#x}): outcome {}, value {}", number,
                    before_.rdi, before_.rsi, before_.rdx, before_.r10, before_.r8, before_.r9,
                    static_cast<int>(outcome.kind), outcome.value);
  if (outcome.kind == CallOutcome::Kind::exited) {
    if (event_.memory.empty()) add_memory_digests();  // after the call: exiting leaves memory as it was
    finish_event(before_);
    end(recording::EndReason::exited, static_cast<int>(outcome.value & 0xff));
    return;
  }
  if (outcome.kind == CallOutcome::Kind::refused) {
    // Digests are of memory before the answer: of a program that found no room (execve) nothing is left of
    // that.
    const bool replaced = outcome.fpu_changed;
    if (event_.memory.empty() && !replaced) add_memory_digests();
    finish_event(before_);
    end(recording::EndReason::recording_stopped, static_cast<int>(number));
    return;
  }
  if (process_.unsupported.take_news()) note_unsupported();
  std::optional<long> result;
  if (outcome.kind == CallOutcome::Kind::result) {
    registers.rax = static_cast<uint64_t>(outcome.value);
    result = outcome.value;
  }
  if (outcome.fpu_changed) set_fpu(outcome.fpu);
  const bool restart = result && (*result == kRestartSys || *result == kRestartNoHand);
  ThreadSignals::Delivery delivery;
  if (restart || task_.signals.deliverable()) {
    delivery = task_.signals.deliver(task_, registers, vcpu_->fpu(), result, number);
    settle(delivery);
  }
  task_.signals.restore_mask();
  finish_event(before_);
  if (delivery.kind == ThreadSignals::Delivery::Kind::terminate)
    end(recording::EndReason::killed_by_signal, delivery.signal);
}

void Session::handle_fault(const Exit& exit) {
  begin_event(exit.kind == ExitKind::memory_fault ? EventKind::memory_fault : EventKind::exception);
  if (exit.kind == ExitKind::memory_fault)
    event_.operands = {exit.address, operand_of(exit.access)};
  else
    event_.operands = {exit.kind == ExitKind::breakpoint ? vector::kBreakpoint : exit.vector,
                       exit.error_code};
  // What the kernel settles without the program's knowledge: a stack that grows.
  if (exit.kind == ExitKind::memory_fault && space_.find(exit.address) == nullptr &&
      grow_down(process_, task_.answer, exit.address)) {
    finish_event(before_);
    return;
  }
  Registers& registers = vcpu_->registers();
  if (exit.kind == ExitKind::memory_fault && answer_vsyscall(exit, task_, registers)) {
    deliver_and_finish();
    return;
  }
  task_.signals.raise_fault(exit, registers, space_);
  if (exit.kind == ExitKind::breakpoint) ++registers.rip;  // SIGTRAP's RIP is after the INT3
  deliver_and_finish();
}

// Ends the event under way, a waiting signal included.
void Session::deliver_and_finish() {
  ThreadSignals::Delivery delivery;
  if (task_.signals.deliverable())
    delivery = task_.signals.deliver(task_, vcpu_->registers(), vcpu_->fpu(), std::nullopt, 0);
  settle(delivery);
  finish_event(before_);
  if (delivery.kind == ThreadSignals::Delivery::Kind::terminate)
    end(recording::EndReason::killed_by_signal, delivery.signal);
}

// A signal came while the guest computes. One that kills ends the recording within this segment. One with a
// handler is delivered at the next exit if that comes soon; else at a position of its own, which the replay
// finds by its count of branches, if it has one, and the guest's whole state.
void Session::handle_kick() {
  if (const std::optional<int> fatal = task_.signals.fatal_pending()) {
    end(recording::EndReason::killed_by_signal, *fatal);
    return;
  }
  if (!task_.signals.deliverable()) return;
  const Approach approach = step_to_position(*vcpu_, space_);
  if (approach.exit) {
    handle(*approach.exit);
    return;
  }
  begin_event(EventKind::asynchronous);
  if (vcpu_->counts_branches()) event_.branches = vcpu_->branches();
  const RegisterWords state = canonical_state(before_);
  event_.operands.assign(state.begin(), state.end());
  add_memory_digests();
  Registers& registers = vcpu_->registers();
  if (options_.write_log) {
    const auto samples = sample_memory(space_, registers, approach.stored);
    event_.memory.insert(event_.memory.begin(), samples.begin(), samples.end());
  }
  const FpuState fpu = vcpu_->fpu();
  const ThreadSignals::Delivery delivery = task_.signals.deliver(task_, registers, fpu, std::nullopt, 0);
  // Flags that instructions leave undefined, and the sticky ones of the FPU, are no part of the state that is
  // compared: from here on the replay has those of the recording.
  set_fpu(fpu);
  settle(delivery);
  Registers base = before_;
  base.rflags = ~registers.rflags;
  finish_event(base);
  if (delivery.kind == ThreadSignals::Delivery::Kind::terminate)
    end(recording::EndReason::killed_by_signal, delivery.signal);
}

void Session::handle(const Exit& exit) {
  switch (exit.kind) {
    case ExitKind::syscall:
      handle_system_call();
      return;
    case ExitKind::trapped_instruction:
      begin_event(EventKind::trapped_instruction);
      event_.operands = {static_cast<uint64_t>(exit.instruction.kind), before_.rax, before_.rcx};
      if (const std::optional<Exit> fault =
              process_.forbids_tsc && reads_counter(exit.instruction.kind)
                  ? forbidden_counter()
                  : answer_trapped_instruction(exit.instruction, cpu_, task_.answer, *vcpu_))
        task_.signals.raise_fault(*fault, vcpu_->registers(), space_);
      else if (exit.instruction.kind == TrappedKind::xrstor)
        set_fpu(vcpu_->fpu());
      deliver_and_finish();
      return;
    case ExitKind::exception:
    case ExitKind::memory_fault:
    case ExitKind::breakpoint:
      handle_fault(exit);
      return;
    case ExitKind::kick:
      handle_kick();
      return;
    case ExitKind::step:
    case ExitKind::untrapped:
      break;
  }
  fail(ErrorKind::internal, "unexpected exit: {}", describe(exit));
}

RecordResult Session::run(const Program& program) {
  const InvariantContext context([this] {
    return fmt::format("recording event {} (kind {}): {}", entries_, static_cast<int>(event_.kind),
                       describe(vcpu_->registers()));
  });
  begin_event(EventKind::start);
  event_.rip = 0;
  LoaderOptions loader;
  loader.randomize = (process_.personality & ADDR_NO_RANDOMIZE) == 0;
  load_program(task_, program, options_.environment, loader);
  vcpu_->registers() = process_.entry;
  // All registers are the answer: nothing of the vCPU's own start is taken for granted.
  RegisterWords unlike = to_words(process_.entry);
  for (uint64_t& word : unlike) word = ~word;
  set_fpu(FpuState::initial());
  digest_ = recording::RunningDigest();
  event_.digest = 0;
  finish_event(from_words(unlike));
  // However early it ends, there is a recording.
  if (writer_) writer_->flush();
  while (!ended_) {
    if (pt_) pt_->resume(vcpu_->registers().rip);
    handle(vcpu_->run());
    take_checkpoint_if_due();
  }
  finish_trace();
  finish_log();
  note_unsupported();
  return result_;
}

}  // namespace

RecordResult record(const RecordOptions& options) {
  if (options.command.empty()) fail(ErrorKind::usage, "no program to record");
  const Program program = find_program(options.command[0], options.command, options.environment);
  std::error_code ignored;
  const bool was_there = fs::exists(options.directory, ignored);
  const fs::path directory = prepare_directory(options.directory);
  std::optional<Session> session;
  try {
    if (!options.store.empty()) share_store(directory, options.store);
    session.emplace(options, directory);
  } catch (...) {  // nothing was recorded
    for (const char* name : {"meta", "events", "store", "pt", "checkpoints"})
      fs::remove_all(directory / name, ignored);
    if (!was_there) fs::remove(directory, ignored);
    throw;
  }
  return session->run(program);
}

}  // namespace aftercheck
