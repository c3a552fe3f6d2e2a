// A replay of a recording that its caller drives.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "machine/vcpu.h"
#include "recording/event.h"
#include "recording/log_place.h"
#include "recording/meta.h"
#include "recording/position.h"
#include "replay-engine/divergence.h"
#include "replay-engine/exit_text.h"
#include "replay-engine/guest.h"
#include "replay-engine/participant.h"
#include "replay-engine/sharing.h"

namespace aftercheck {

struct ReplayOptions {
  std::filesystem::path directory;
  MachineChoice machine = MachineChoice::automatic;
  // The recording is a stranger's: no code of it runs where it could reach this process, not even for the
  // length of a segment. Error(usage) with MachineChoice::translated.
  bool untrusted = false;
  // Its own vCPU is to tell its control flow, where `machine` is automatic.
  bool control_flow = false;
  // Start from the last kept checkpoint that is not behind this event; 0: from the start of the recording.
  uint64_t start_near = 0;
  // Bytes of the program's standard output (1) and error (2), in order. Null: dropped.
  std::function<void(int stream, const std::byte* bytes, size_t size)> output;
  // What the program did to its output where that was a regular file: from here on bytes go to `offset`
  // (seek), or the file ends there (resize). Offsets are as in recording::OutputStep. Null: ignored, and
  // bytes are in the order in which they were written.
  std::function<void(const recording::OutputStep& step)> output_moved;
  // For divergence reports.
  SystemCallName system_call_name;
  // Called now and then with a share of 0..1 and the number of events so far. Null: none.
  std::function<void(double share, uint64_t events)> progress;
  // Called now and then while the guest is on its way to the instant of an asynchronous event: besides the
  // share, that event and how often it has been at its address. Null: none.
  std::function<void(double share, uint64_t event, uint64_t arrivals)> landing_progress = {};
  // What nobody should miss: a checkpoint that is damaged and was passed over. Null: none.
  std::function<void(const std::string&)> warning;
  // The replays of the other processes, beside this one. Null: there are none, and a process that shares
  // memory can be replayed up to where it begins to only. It must outlive the replay.
  SharingReplays* sharing = nullptr;
  // In the order in which they are called; they must outlive the replay.
  std::vector<Participant*> participants;
};

struct ReplayResult {
  uint64_t events = 0;          // exits verified (the start and end events not counted)
  uint64_t memory_digests = 0;  // stretches of memory verified
  MachineKind machine = MachineKind::kvm;
  std::optional<uint64_t> checkpoint;  // the event of the checkpoint that it started from
  bool truncated =
      false;  // the recording has no end; `truncation` says why. All of it that is there was faithful
  std::string truncation;
  bool ended = false;     // its end was reached
  bool signaled = false;  // how the program ended (meaningless when truncated, or not ended)
  bool stopped = false;   // it did not end: the recorder stopped it at the system call `status`
  int status = 0;
};

// How far advance() goes at most. What is left as it is does not limit.
struct Limit {
  // This event was answered, its continuations included.
  uint64_t event = UINT64_MAX;
  // This event's exit was reached and verified, and is not answered yet.
  uint64_t exit = UINT64_MAX;
  std::optional<recording::Position> position = {};
};

// Why advance() came back.
struct Stop {
  enum class Why : uint8_t {
    event,        // the limit's event was answered
    exit,         // the limit's exit was reached
    position,     // the limit's position was reached
    breakpoint,   // the guest is before the instruction at a breakpoint of the caller's, at `address`
    participant,  // `participant` wanted it
    end,          // nothing is left: see result()
  } why = Why::end;
  uint64_t event = 0;  // the last one answered; exit: the one reached
  uint64_t address = 0;
  Participant* participant = nullptr;
};

// Not thread-safe; one at a time in a process (see Guest). Everything throws Error(bad_input) for a damaged
// recording, Error(unsupported) naming instruction and address when the soft vCPU lacks it, Error(host_lacks)
// when the host fails; advance() also Divergence. After an error nothing but the destructor may be called.
class Replay {
 public:
  // Opens the recording and attaches the participants. Throws Error(host_lacks) when KVM was asked for and
  // does not work.
  explicit Replay(const ReplayOptions& options);
  ~Replay();
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  // Runs the guest on, to the first of what limits it. Comes back at once where that is reached already.
  // Throws Error(usage) for a position that lies behind, or that the segment ends without.
  Stop advance(const Limit& limit = {});
  // For participants: see there.
  void stop(Participant& participant);

  // From now on advance() stops before the instruction at this address, also in code that is mapped later.
  void add_breakpoint(uint64_t address);
  void remove_breakpoint(uint64_t address);

  // Takes part from here on. May be called between two calls of advance() only. It must outlive the replay.
  void attach(Participant& participant);

  // Ends that, before the replay ends.
  void detach(Participant& participant);

  // At the exit of a call that made a process (advance() came back with `exit`): the replay goes on with that
  // process, whose log is in `directory`; result() is of that alone. Throws Error(bad_input) where this is
  // not where the log says that it begins.
  void enter(const std::filesystem::path& directory);

  // fork(2): two replays that go on independently. Only where the guest is between segments: before the first
  // advance(), or when that came back with `event` or `exit`. Returns 0 in the child, the child's id in the
  // parent. Memory that the process shares with others (ReplayOptions::sharing) is shared by both where
  // `shares` says so, and that is how processes come to share it; else the child has a copy. Throws
  // Error(io).
  pid_t fork(bool shares = false);

  Guest& guest();
  const Guest& guest() const;
  const std::filesystem::path& directory() const;  // of the process that is replayed
  const recording::Meta& meta() const;
  // Between segments: the chunk of the log with the entry that ends the next segment, for checkpoints.
  recording::LogPlace log_place() const;
  // Host time in the recording of the last event answered, ns since its start.
  uint64_t time_ns() const;
  // The same of the event that comes next, or whose exit this is: nothing earlier will be told. UINT64_MAX:
  // there is none.
  uint64_t next_time_ns() const;
  // Where the guest is. Between segments that is the event; within one also the instant, for which all of the
  // guest's memory may be read. Meaningless at an exit.
  recording::Position position();
  const ReplayResult& result() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// From start to end.
ReplayResult replay(const ReplayOptions& options);

}  // namespace aftercheck
