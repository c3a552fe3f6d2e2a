// Whoever takes part in a replay: sees the guest at every event and may stop it in between.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "machine/breakpoints.h"
#include "machine/vcpu.h"
#include "recording/event.h"

namespace aftercheck {

struct ReplayResult;

// The guest of a replay. All of it outlives the replay's participants' callbacks.
struct ReplayGuest {
  Machine& machine;
  Vcpu& vcpu;
  AddressSpace& space;
  const CpuModel& cpu;
  // Shared by all participants. Breakpoints in memory that an answer writes or maps anew are gone afterwards.
  Breakpoints& breakpoints;
  const std::filesystem::path& directory;  // of the recording
};

// Must leave the guest as it found it. Called on the thread that replays; exceptions end the replay.
class Participant {
 public:
  virtual ~Participant() = default;
  // Once, before the first event.
  virtual void attach(const ReplayGuest& guest) { static_cast<void>(guest); }
  // The guest is at this event's exit, verified; its answer is not applied yet. Not for start, continuation
  // and end.
  virtual void reached(const recording::Event& event, uint64_t number) {
    static_cast<void>(event), static_cast<void>(number);
  }
  // The answer was applied; for start and continuation too.
  virtual void applied(const recording::Event& event, uint64_t number) {
    static_cast<void>(event), static_cast<void>(number);
  }
  // The guest is about to run the segment that follows this event, all of it answered.
  virtual void running(uint64_t number) { static_cast<void>(number); }
  // The guest is before the instruction at a breakpoint, this participant's or another's. `vcpu` is the one
  // that runs the guest at the moment, which is not always ReplayGuest::vcpu.
  virtual void stopped(Vcpu& vcpu, uint64_t address) { static_cast<void>(vcpu), static_cast<void>(address); }
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
