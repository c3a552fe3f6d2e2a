// Whoever takes part in a replay: sees the guest at every event and in between, and may stop it.
#pragma once

#include <cstdint>
#include <string>

#include "recording/event.h"

namespace aftercheck {

class Replay;
struct ReplayResult;
struct Stop;

// Must leave the guest as it found it. Called on the thread that replays; exceptions end the replay. To stop
// the replay a participant calls Replay::stop(*this) out of any of these but attach() and detach(): the
// others are still called, then advance() returns.
class Participant {
 public:
  virtual ~Participant() = default;
  // Once, before anything else. The guest exists; where the replay is under way already, applied() follows
  // with a start event that describes it.
  virtual void attach(Replay& replay) { static_cast<void>(replay); }
  // The guest is at this event's exit, verified; its answer is not applied yet. Not for start, continuation
  // and end.
  virtual void reached(const recording::Event& event, uint64_t number) {
    static_cast<void>(event), static_cast<void>(number);
  }
  // The answer was applied; for start and continuation too. Where the replay starts from a checkpoint, or the
  // participant came later, the first one is a start event made for this: its changes of mappings build what
  // is mapped, its `writes` are left out, and `number` is that of the last event before.
  virtual void applied(const recording::Event& event, uint64_t number) {
    static_cast<void>(event), static_cast<void>(number);
  }
  // The guest is about to run the segment that follows this event, all of it answered.
  virtual void running(uint64_t number) { static_cast<void>(number); }
  // The guest is before the instruction at a breakpoint, this participant's or another's. Which vCPU runs it
  // may differ from stop to stop: ask its thread.
  virtual void stopped(uint64_t address) { static_cast<void>(address); }
  // advance() is about to return, for whatever reason but an error.
  virtual void paused(const Stop& stop) { static_cast<void>(stop); }
  // This process is a child that goes on with the replay (Replay::fork()): vCPUs are new ones, what was set
  // in them is gone.
  virtual void forked() {}
  // The replay diverges at this event, to whose exit the guest has not come in the recorded way: what there
  // is to say about it, for the report.
  virtual std::string explain(const recording::Event& event, uint64_t number) {
    static_cast<void>(event), static_cast<void>(number);
    return {};
  }
  // The recording's end was reached, faithfully.
  virtual void finished(const ReplayResult& result) { static_cast<void>(result); }
  // Last of all, however the replay ended, if attach() was called: the guest goes away.
  virtual void detach() noexcept {}
};

}  // namespace aftercheck
