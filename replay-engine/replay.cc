#include "replay-engine/replay.h"

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "base/fd.h"
#include "base/invariant.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "recording/reader.h"
#include "recording/store.h"
#include "replay-engine/restore.h"
#include "replay-engine/segment.h"
#include "replay-engine/untrapped_code.h"

namespace aftercheck {
namespace {

using recording::Event;
using recording::EventKind;
using recording::Position;

// Progress is reported once in so many events: often enough for a terminal, too seldom to cost anything.
constexpr uint64_t kProgressEvery = 1024;

// And within a segment that ends asynchronously.
constexpr std::chrono::milliseconds kTellLanding{200};
constexpr std::chrono::seconds kLogLanding{3};

CpuModel cpu_of(const recording::Meta& meta, const std::filesystem::path& directory) {
  if (const auto kind = cpu_model_named(meta.cpu_model)) return CpuModel(*kind);
  fail(ErrorKind::unsupported, "{}: cpu_model \"{}\" is not known to this version",
       (directory / "meta").string(), meta.cpu_model);
}

std::optional<Instant> instant_of(const Position& position) {
  if (const auto* arrival = std::get_if<recording::Arrival>(&position.instant)) return *arrival;
  if (const auto* state = std::get_if<recording::FullState>(&position.instant)) return *state;
  return std::nullopt;
}

// Has it no segment before it?
bool between_segments(EventKind kind) {
  return !recording::ends_segment(kind) && kind != EventKind::start && kind != EventKind::end;
}

}  // namespace

class Replay::Impl {
 public:
  Impl(Replay& owner, const ReplayOptions& options);
  ~Impl();

  Stop advance(const Limit& limit);
  void attach(Participant& participant);
  void detach(Participant& participant) {
    if (std::erase(attached_, &participant) != 0) participant.detach();
  }
  pid_t fork(bool shares);
  Position position();

  void stop(Participant& participant) {
    if (stop_wanted_ == nullptr) stop_wanted_ = &participant;
  }
  Segment& segment() { return segment_; }
  Guest& guest() { return guest_; }
  void enter(const std::filesystem::path& directory);
  const std::filesystem::path& directory() const { return directory_; }
  const recording::Meta& meta() const { return meta_; }
  const ReplayResult& result() const { return result_; }
  recording::LogPlace log_place() const { return reader_->place(); }
  uint64_t time_ns() const { return time_ns_; }
  uint64_t next_time_ns() const {
    if (phase_ == Phase::ended) return UINT64_MAX;
    if (event_ != nullptr) return event_->time_ns;  // of a process's first turn, too, which begins nothing
    return phase_ == Phase::not_begun ? 0 : UINT64_MAX;
  }

 private:
  enum class Phase : uint8_t {
    not_begun,
    segment,  // event_ will end it
    at_exit,  // event_'s, verified, not answered
    ended,
  };

  Replay& owner_;
  const ReplayOptions options_;
  std::filesystem::path directory_;  // of the process that is replayed
  recording::Meta meta_;
  std::optional<recording::Reader> reader_;
  recording::Store store_;
  Guest guest_;
  Segment segment_;
  ReplayResult result_;
  Phase phase_ = Phase::not_begun;
  const Event* event_ = nullptr;  // the log's next, or the one under way
  bool told_running_ = false;     // participants know of the segment
  uint64_t answered_ = 0;         // number of the last entry that was applied
  uint64_t answer_begins_ = 0;    // of the event that it belongs to
  uint64_t time_ns_ = 0;          // of that event
  std::chrono::steady_clock::time_point landing_told_, landing_logged_;
  Participant* stop_wanted_ = nullptr;
  std::vector<std::byte> buffer_;
  std::vector<Participant*> attached_;

  [[noreturn]] void bad(const std::string& what) const {
    fail(ErrorKind::bad_input, "{}: {}", where(), what);
  }
  std::string where() const {
    return fmt::format("{}: event {} (in the chunk at offset {})", (directory_ / "events").string(),
                       reader_->number(), reader_->chunk_offset());
  }
  template <typename Visit>
  void each(Visit visit) {
    for (Participant* participant : attached_) visit(*participant);
  }

  void begin();
  bool begin_from_checkpoint();
  void begin_with(const Checkpoint& checkpoint);
  void end_without_start();
  void load_next();
  void go_on();
  void apply(const Event& event);
  void take_turn(const Event& event);
  void finish(const Event& event);
  std::optional<Stop> run_segment(const Limit& limit);
  SegmentStop run_guest();
  void tell_landing(uint64_t arrivals);
  void verify(const SegmentStop& stop);
  void replay_outputs(const Event& event);
  void replay_step(const recording::OutputStep& step);
  void replay_output(const recording::Output& output);
  std::optional<Stop> limit_between(const Limit& limit);
  // Of the segment that the guest is in, or has come from.
  Position segment_start() const {
    Position start;
    start.recording = recording::recording_id(meta_);
    // Said where it tells something.
    if (const uint32_t thread = guest_.running().number(); thread != 0) start.thread = thread;
    start.process = meta_.process;
    start.event = answered_;
    return start;
  }
  Stop limit_at_end(const Limit& limit) const;
  [[noreturn]] void missed(const Position& position) const;
  [[noreturn]] void diverged(const std::string& actual, const std::string& detail);
};

Replay::Impl::Impl(Replay& owner, const ReplayOptions& options)
    : owner_(owner),
      options_(options),
      directory_(options.directory),
      meta_(recording::read_meta(options.directory)),
      reader_(std::in_place, options.directory),
      store_(options.directory, false),
      guest_({options.machine,
              {.walls = options.untrusted, .control_flow = options.control_flow},
              cpu_of(meta_, options.directory),
              options.system_call_name,
              [this] { return where(); }},
             store_),
      segment_(guest_, options.machine == MachineChoice::automatic,
               {[this](uint64_t address) { each([&](Participant& p) { p.stopped(address); }); },
                [this] { return stop_wanted_ != nullptr; },
                [this](uint64_t arrivals) { tell_landing(arrivals); }}) {
  result_.machine = guest_.machine().kind();
}

Replay::Impl::~Impl() {
  each([](Participant& p) { p.detach(); });
}

void Replay::Impl::attach(Participant& participant) {
  attached_.push_back(&participant);
  participant.attach(owner_);
  if (phase_ == Phase::not_begun || phase_ == Phase::ended) return;
  for (Event& event : guest_.describe()) {
    event.time_ns = time_ns_;
    participant.applied(event, answered_);
  }
}

pid_t Replay::Impl::fork(bool shares) {
  const bool between = phase_ == Phase::not_begun || phase_ == Phase::at_exit ||
                       (phase_ == Phase::segment && !segment_.begun());
  if (!between) fail(ErrorKind::internal, "a replay can be forked between segments only");
  const pid_t child = guest_.fork(shares);
  if (child < 0) fail(ErrorKind::io, "a process for a copy of the replay: {}", errno_text(errno));
  if (child == 0) each([](Participant& p) { p.forked(); });
  return child;
}

void Replay::Impl::enter(const std::filesystem::path& directory) {
  if (phase_ != Phase::at_exit) fail(ErrorKind::internal, "a process begins at an exit of its parent's");
  const recording::Parent here{.process = meta_.process, .event = reader_->number()};
  recording::Meta meta = recording::read_meta(directory);
  meta_ = std::move(meta);
  directory_ = directory;
  reader_.emplace(directory_);
  result_ = {};
  result_.machine = guest_.machine().kind();
  answered_ = answer_begins_ = time_ns_ = 0;
  phase_ = Phase::not_begun;
  event_ = reader_->next();
  if (event_ == nullptr) return end_without_start();
  if (event_->kind != EventKind::start || event_->operands.size() != 2)
    bad("the first event is not the start of a process");
  if (event_->operands[0] != here.process || event_->operands[1] != here.event)
    bad(fmt::format("the process begins at event {} of process {}, and this is event {} of process {}",
                    event_->operands[1], event_->operands[0], here.event, here.process));
  apply(*event_);
  load_next();
}

Position Replay::Impl::position() {
  Position position = segment_start();
  if (phase_ != Phase::segment || !segment_.begun()) return position;
  const auto arrivals = segment_.arrivals_here();
  if (arrivals)
    position.instant = recording::Arrival{guest_.running().registers().rip, *arrivals};
  else
    position.instant = guest_.full_state(guest_.running());
  return position;
}

// --- beginning and going on in the log ---

void Replay::Impl::begin() {
  if (options_.start_near != 0 && begin_from_checkpoint()) return go_on();
  event_ = reader_->next();
  if (event_ == nullptr) return end_without_start();
  if (event_->kind != EventKind::start) bad("the first event is not the start of a guest");
  if (meta_.parent)
    fail(ErrorKind::usage, "{}: it is of a child process, which begins where its parent has come to",
         where());
  apply(*event_);
  load_next();
}

// Nothing is left of the log, or nothing was ever written.
void Replay::Impl::end_without_start() {
  phase_ = Phase::ended;
  result_.truncated = reader_->truncated(&result_.truncation);
  each([&](Participant& p) { p.finished(result_); });
}

bool Replay::Impl::begin_from_checkpoint() {
  const Checkpoints checkpoints(directory_);
  for (const Checkpoints::Known* known = checkpoints.before(options_.start_near); known != nullptr;
       known = known->event == 0 ? nullptr : checkpoints.before(known->event - 1)) {
    try {
      begin_with(checkpoints.load(*known));
      return true;
    } catch (const Error& error) {
      // Not what only the host lacks.
      if (error.kind() != ErrorKind::bad_input && error.kind() != ErrorKind::io &&
          error.kind() != ErrorKind::unsupported)
        throw;
      if (options_.warning)
        options_.warning(
            fmt::format("the checkpoint at event {} can't be used: {}; starting from an earlier one",
                        known->event, error.what()));
      guest_.reset();
      reader_.emplace(directory_);
    }
  }
  return false;
}

void Replay::Impl::begin_with(const Checkpoint& checkpoint) {
  reader_.emplace(directory_, checkpoint.next, checkpoint.event + 1);
  event_ = reader_->next();
  if (event_ == nullptr || event_->kind == EventKind::start || event_->kind == EventKind::continuation)
    bad("a checkpoint can't lie before it");
  const std::vector<Event> described = restore(guest_, checkpoint, store_);
  if (event_->kind != EventKind::thread_start && event_->kind != EventKind::end)
    guest_.thread(event_->thread);
  answered_ = answer_begins_ = checkpoint.event;
  time_ns_ = checkpoint.time_ns;
  result_.checkpoint = checkpoint.event;
  AFTERCHECK_LOG_TO(LogTopic::checkpoint,
                    "started from the one at e{}: {} mappings, {} pages in {} runs, {} packs",
                    checkpoint.event, checkpoint.mappings.size(), checkpoint.pages, checkpoint.runs.size(),
                    checkpoint.packs.size());
  for (const Event& event : described) each([&](Participant& p) { p.applied(event, answered_); });
}

void Replay::Impl::apply(const Event& event) {
  guest_.apply(event);
  answered_ = reader_->number();
  if (!between_segments(event.kind)) answer_begins_ = answered_;
  if (event.kind != EventKind::continuation) time_ns_ = event.time_ns;
  each([&](Participant& p) { p.applied(event, answered_); });
}

// Between two exits the guest's memory is what it was before, but for what is shared.
void Replay::Impl::take_turn(const Event& event) {
  const uint64_t number = event.operands[0];
  SharedFiles& files = guest_.shared_files();
  if (options_.sharing == nullptr)
    fail(ErrorKind::unsupported,
         "{}: from here on the process shares memory with others, and can be replayed together with them "
         "only: `aftercheck replay` of the whole recording does that",
         where());
  if (number == 0) {
    files.leave();
    files.drop_unmapped(guest_.space());
    files.separate(guest_.space());
  }
  options_.sharing->turn(number);
  if (number != 0 && !files.joined()) files.join(*options_.sharing, guest_.space());
}

// All of event_ was answered but its continuations.
void Replay::Impl::load_next() {
  event_ = reader_->next();
  go_on();
}

// With what is next in the log, which is event_.
void Replay::Impl::go_on() {
  while (event_ != nullptr && between_segments(event_->kind)) {
    replay_outputs(*event_);
    if (event_->kind == EventKind::turn) take_turn(*event_);
    apply(*event_);
    event_ = reader_->next();
  }
  if (event_ != nullptr && event_->kind == EventKind::start) bad("a second start");
  if (event_ != nullptr && event_->kind != EventKind::end) {
    phase_ = Phase::segment;
    told_running_ = false;
    segment_.begin(*event_);
    return;
  }
  if (event_ != nullptr) finish(*event_);
  phase_ = Phase::ended;
  result_.truncated = reader_->truncated(&result_.truncation);
  each([&](Participant& p) { p.finished(result_); });
}

void Replay::Impl::finish(const Event& event) {
  if (event.operands.size() != 2 ||
      event.operands[0] > static_cast<uint64_t>(recording::EndReason::recording_stopped))
    bad("the end event is malformed");
  // Nothing may follow, and a reader that was asked knows whether the log is whole.
  result_.ended = true;
  result_.signaled = event.operands[0] == static_cast<uint64_t>(recording::EndReason::killed_by_signal);
  result_.stopped = event.operands[0] == static_cast<uint64_t>(recording::EndReason::recording_stopped);
  result_.status = static_cast<int>(event.operands[1]);
}

// --- running ---

Stop Replay::Impl::advance(const Limit& limit) {
  const InvariantContext context([this] {
    return fmt::format("replaying {} at e{}, on the way to event {}: {}", directory_.string(), answered_,
                       reader_->number(), describe(guest_.running().registers()));
  });
  if (limit.position) recording::check_belongs(*limit.position, meta_);
  std::optional<Stop> stop;
  while (!stop) {
    if (stop_wanted_ != nullptr) {
      stop = Stop{Stop::Why::participant, answered_, 0, std::exchange(stop_wanted_, nullptr)};
      break;
    }
    switch (phase_) {
      case Phase::not_begun:
        begin();
        break;
      case Phase::segment:
        stop = limit_between(limit);
        if (!stop) stop = run_segment(limit);
        break;
      case Phase::at_exit:
        if (limit.exit <= reader_->number()) {
          stop = Stop{Stop::Why::exit, reader_->number(), 0, nullptr};
          break;
        }
        apply(*event_);
        load_next();
        break;
      case Phase::ended:
        stop = limit_at_end(limit);
        break;
    }
  }
  segment_.set_goal(std::nullopt);
  AFTERCHECK_LOG_TO(LogTopic::replay, "stopped at e{}: {}", stop->event, static_cast<int>(stop->why));
  each([&](Participant& p) { p.paused(*stop); });
  return *stop;
}

void Replay::Impl::missed(const Position& position) const {
  fail(ErrorKind::usage, "position {}: the replay is at event {}, and can't get there", to_text(position),
       answered_);
}

// Is the limit where the guest is, in a segment or before it?
std::optional<Stop> Replay::Impl::limit_between(const Limit& limit) {
  if (limit.event <= answered_) return Stop{Stop::Why::event, answered_, 0, nullptr};
  if (limit.exit <= answered_) return Stop{Stop::Why::exit, answered_, 0, nullptr};
  if (!limit.position) return std::nullopt;
  if (limit.position->event < answer_begins_) missed(*limit.position);
  if (limit.position->event > answered_) return std::nullopt;
  check_thread(*limit.position, guest_.running().number());
  const std::optional<Instant> instant = instant_of(*limit.position);
  if (!instant) {
    if (segment_.begun()) missed(*limit.position);
    return Stop{Stop::Why::position, answered_, 0, nullptr};
  }
  if (!segment_.set_goal(instant))
    fail(ErrorKind::usage,
         "position {}: the replay is within this segment already, where arrivals were not counted",
         to_text(*limit.position));
  return std::nullopt;
}

// No segment follows: an instant can't be had any more.
Stop Replay::Impl::limit_at_end(const Limit& limit) const {
  Stop stop{Stop::Why::end, answered_, 0, nullptr};
  if (limit.event <= answered_)
    stop.why = Stop::Why::event;
  else if (limit.exit <= answered_)
    stop.why = Stop::Why::exit;
  else if (limit.position) {
    const uint64_t event = limit.position->event;
    if (event < answer_begins_ || event > answered_ || instant_of(*limit.position)) missed(*limit.position);
    check_thread(*limit.position, guest_.running().number());
    stop.why = Stop::Why::position;
  }
  return stop;
}

// Nothing: go on.
std::optional<Stop> Replay::Impl::run_segment(const Limit& limit) {
  if (!told_running_) {
    told_running_ = true;
    each([&](Participant& p) { p.running(answered_); });
    if (stop_wanted_ != nullptr) return std::nullopt;
  }
  const SegmentStop segment_stop = run_guest();
  AFTERCHECK_LOG_TO(LogTopic::replay, "segment after e{}: {} at {:#x}", answered_,
                    static_cast<int>(segment_stop.why), guest_.running().registers().rip);
  const uint64_t rip = guest_.running().registers().rip;
  switch (segment_stop.why) {
    case SegmentStop::Why::wanted:
      return std::nullopt;
    case SegmentStop::Why::goal:
      return Stop{Stop::Why::position, answered_, rip, nullptr};
    case SegmentStop::Why::breakpoint:
      return Stop{Stop::Why::breakpoint, answered_, rip, nullptr};
    case SegmentStop::Why::exit:
    case SegmentStop::Why::landed:
    case SegmentStop::Why::passed:
      break;
  }
  verify(segment_stop);
  replay_outputs(*event_);
  phase_ = Phase::at_exit;
  const uint64_t number = reader_->number();
  each([&](Participant& p) { p.reached(*event_, number); });
  ++result_.events;
  if (options_.progress && result_.events % kProgressEvery == 0)
    options_.progress(reader_->progress(), result_.events);
  if (limit.position && limit.position->event >= answer_begins_ && limit.position->event <= answered_)
    fail(ErrorKind::usage, "position {}: the segment ended at event {} without it", to_text(*limit.position),
         number);
  if (limit.exit <= number) return Stop{Stop::Why::exit, number, 0, nullptr};
  return std::nullopt;
}

void Replay::Impl::tell_landing(uint64_t arrivals) {
  const auto now = std::chrono::steady_clock::now();
  if (arrivals <= 1) landing_told_ = landing_logged_ = now;
  if (now - landing_told_ < kTellLanding) return;
  landing_told_ = now;
  if (options_.landing_progress) options_.landing_progress(reader_->progress(), reader_->number(), arrivals);
  if (now - landing_logged_ < kLogLanding) return;
  landing_logged_ = now;
  AFTERCHECK_LOG_TO(LogTopic::replay, "event {}, asynchronous: {} arrivals at {:#x} so far, none of them it",
                    reader_->number(), arrivals, event_->rip);
}

// What the host can't do may be the recording's doing.
SegmentStop Replay::Impl::run_guest() {
  try {
    return segment_.run();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::host_lacks) throw;
    fail(ErrorKind::host_lacks, "{}: event {}: {}", (directory_ / "events").string(), reader_->number(),
         error.what());
  }
}

void Replay::Impl::verify(const SegmentStop& stop) {
  const Event& event = *event_;
  GuestThread& thread = guest_.thread(event.thread);
  if (!Landing::lands_on(event)) {
    if (const std::optional<Difference> difference = guest_.differs_from(event, stop.exit))
      diverged(difference->actual, difference->detail);
  } else if (stop.why != SegmentStop::Why::landed) {
    const Registers& registers = thread.registers();
    const bool passed = stop.why == SegmentStop::Why::passed;
    const bool preempted = event.kind == EventKind::preempted;
    const uint64_t address = preempted ? event.operands[0] : event.rip;
    const std::string count =
        segment_.landing_counted()
            ? fmt::format(" after {} branches", preempted ? event.operands[1] : *event.branches)
            : "";
    const std::optional<Registers> there = segment_.landing_registers();
    diverged(passed ? fmt::format("more branches, at {:#x}", registers.rip)
                    : describe_exit(kind_of(stop.exit), registers.rip, operands_of(stop.exit, registers),
                                    options_.system_call_name),
             fmt::format("the guest {} without passing the recorded state at {:#x}{} ({} arrivals there{})",
                         passed ? "went on" : "left the segment", address, count, segment_.landing_arrivals(),
                         preempted && there ? ", at the last of them " + aftercheck::describe(*there) : ""));
  } else {
    thread.digest().update(canonical_state(thread.registers()));
  }
  result_.memory_digests += event.memory.size();
}

void Replay::Impl::replay_outputs(const Event& event) {
  size_t step = 0;
  const auto steps_before = [&](size_t output) {
    for (; step < event.output_steps.size() && event.output_steps[step].before <= output; step++)
      replay_step(event.output_steps[step]);
  };
  for (size_t i = 0; i < event.outputs.size(); i++) {
    steps_before(i);
    replay_output(event.outputs[i]);
  }
  steps_before(event.outputs.size());
}

void Replay::Impl::replay_step(const recording::OutputStep& step) {
  if (step.kind != recording::OutputStepKind::bytes) {
    if (options_.output_moved) options_.output_moved(step);
  } else if (options_.output && !step.bytes.empty()) {
    options_.output(step.stream, step.bytes.data(), step.bytes.size());
  }
}

void Replay::Impl::replay_output(const recording::Output& output) {
  recording::OutputDigest digest;
  // Twice over the pieces: nothing is shown before all of it is known to be right.
  for (const bool show : {false, true}) {
    if (show && (output.stream == 0 || !options_.output)) break;
    for (const recording::Output::Piece& piece : output.pieces) {
      constexpr size_t kPart = 1 << 20;
      for (uint64_t done = 0; done < piece.length;) {
        const size_t size = std::min<uint64_t>(kPart, piece.length - done);
        buffer_.resize(size);
        if (!in_windows(piece.address, piece.length) || !guest_.read(piece.address + done, buffer_))
          diverged("the same exit",
                   fmt::format("output at {:#x} can't be read in the replay", piece.address));
        if (show)
          options_.output(output.stream, buffer_.data(), size);
        else
          digest.update(buffer_);
        done += size;
      }
    }
    if (!show && digest.value() != output.digest)
      diverged("the same exit with the same registers",
               fmt::format("what the program writes to descriptor {} has other bytes", output.fd));
  }
}

void Replay::Impl::diverged(const std::string& actual, const std::string& detail) {
  std::string all = detail;
  each([&](Participant& p) {
    const std::string more = p.explain(*event_, reader_->number());
    if (!more.empty()) all += "\n  " + more;
  });
  if (const std::string reason = untrapped_code(guest().space()); !reason.empty()) all += "\n  " + reason;
  all += fmt::format("\n  to look at the guest before it: aftercheck replay -v --to {} {}",
                     to_text(segment_start()), directory_.string());
  if (result_.checkpoint)
    all += fmt::format(
        "\n  the replay started from the checkpoint at event {}; a replay from the start tells whether it is "
        "to "
        "blame",
        *result_.checkpoint);
  throw Divergence(reader_->number(),
                   describe_exit(event_->kind, event_->rip, event_->operands, options_.system_call_name),
                   actual, all);
}

// --- the handle ---

Replay::Replay(const ReplayOptions& options) : impl_(std::make_unique<Impl>(*this, options)) {
  for (Participant* participant : options.participants) impl_->attach(*participant);
}
Replay::~Replay() = default;

Stop Replay::advance(const Limit& limit) { return impl_->advance(limit); }
void Replay::stop(Participant& participant) { impl_->stop(participant); }
void Replay::add_breakpoint(uint64_t address) { impl_->segment().add_breakpoint(address); }
void Replay::remove_breakpoint(uint64_t address) { impl_->segment().remove_breakpoint(address); }
void Replay::attach(Participant& participant) { impl_->attach(participant); }
void Replay::detach(Participant& participant) { impl_->detach(participant); }
pid_t Replay::fork(bool shares) { return impl_->fork(shares); }
Guest& Replay::guest() { return impl_->guest(); }
const Guest& Replay::guest() const { return impl_->guest(); }
const std::filesystem::path& Replay::directory() const { return impl_->directory(); }
const recording::Meta& Replay::meta() const { return impl_->meta(); }
recording::LogPlace Replay::log_place() const { return impl_->log_place(); }
uint64_t Replay::time_ns() const { return impl_->time_ns(); }
uint64_t Replay::next_time_ns() const { return impl_->next_time_ns(); }
void Replay::enter(const std::filesystem::path& directory) { impl_->enter(directory); }
Position Replay::position() { return impl_->position(); }
const ReplayResult& Replay::result() const { return impl_->result(); }

ReplayResult replay(const ReplayOptions& options) {
  Replay replay(options);
  while (replay.advance().why != Stop::Why::end) continue;
  return replay.result();
}

}  // namespace aftercheck
