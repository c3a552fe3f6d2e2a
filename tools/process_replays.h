// The replays of all processes of a recording, beside each other, as they ran.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "recording/processes.h"
#include "replay-engine/replay.h"

namespace aftercheck::tools {

// Each is replayed by a process of its own, a copy (Replay::fork()) of its parent's replay, made where the
// recorded one made it. They share memory in which each says how far it is, so that output comes in the
// recorded order.
class ProcessReplays : public Participant, public SharingReplays {
 public:
  enum class State : uint8_t {
    unreached,  // its parent's replay, or its parent's log, ended before it
    running,
    faithful,
    diverged,
    failed,
  };
  // Of one process, in the order of the list.
  struct Outcome {
    State state = State::unreached;
    uint64_t events = 0, memory_digests = 0;
    bool truncated = false, signaled = false, stopped = false;
    int status = 0;       // as ReplayResult has it; failed, diverged: the exit status of this program for it
    std::string message;  // diverged, failed: what there is to say, shortened; truncated: why
  };

  // Why a replay did not come to its end.
  struct Failure {
    ErrorKind kind = ErrorKind::internal;
    std::string message;
  };
  // Called when the replay of the process in this place of the list is over, in the process that replays it
  // and before the others see its end. Null: it was faithful.
  using Ended = std::function<void(size_t place, const Failure* failure)>;

  // The list must outlive this. Throws Error(io).
  ProcessReplays(const std::vector<recording::Process>& processes, Ended ended);
  ~ProcessReplays() override;
  ProcessReplays(const ProcessReplays&) = delete;
  ProcessReplays& operator=(const ProcessReplays&) = delete;

  // Replays all. `replay` is that of the first process, before its first advance(), and this object takes
  // part in it. Comes back in this process only, when all have ended. What goes wrong is in the outcomes.
  void run(Replay& replay);
  std::vector<Outcome> outcomes() const;

  // Whoever shows output calls this before: it waits until all others have come as far.
  void wait_for_turn();
  // Which of the list this process replays.
  size_t own() const { return own_; }

  // Participant
  void attach(Replay& replay) override { replay_ = &replay; }
  void running(uint64_t number) override;
  void applied(const recording::Event& event, uint64_t number) override;

  // SharingReplays
  void turn(uint64_t number) override;
  UniqueFd file_of_others(uint64_t number) override;
  void show_file(uint64_t number, int fd) override;

 private:
  struct Slot;
  struct Shared;

  const std::vector<recording::Process>& processes_;
  const Ended ended_;
  Replay* replay_ = nullptr;
  Slot* slots_ = nullptr;
  Shared* shared_ = nullptr;  // in the same memory
  size_t own_ = 0;            // see own()
  uint64_t turn_ = 0;         // that it has; 0: none
  bool shows_files_ = false;
  std::set<uint32_t> computing_;  // threads that are in no call that waits

  size_t bytes() const;
  bool is_alive(size_t place) const;
  bool others_before(uint64_t time_ns) const;
  size_t count_running() const;
  void wait_for_room(uint64_t time_ns);
  void end_turn();
  void check_others(uint64_t number) const;
  std::string not_known(size_t cut_short) const;
  void explain_by_others(Failure& failure) const;
  void replay_own();
  std::optional<Failure> replay_to_end();
  void go_to_end();
  void become(size_t child);
  void fork_into(size_t child);
  void tell(const std::string& message);
};

}  // namespace aftercheck::tools
