// The processes of one recording. Each process of the guest's is a process of the host's, with a recorder of
// its own in it, made by fork(2) of its parent's; so whom it may wait for, what reaches it and what becomes
// of its children when it ends is the host's kernel's business, as it is natively.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>

#include "base/fd.h"
#include "machine/address_space.h"

namespace aftercheck {

class Answer;
struct GuestProcess;

// CLONE_CLEAR_SIGHAND of include/uapi/linux/sched.h, which older headers lack.
constexpr uint64_t kCloneClearSighand = 0x1'0000'0000;

// What clone(2) and its kin were asked for.
struct NewProcess {
  uint64_t flags = 0;  // CLONE_*
  uint64_t stack = 0;  // its RSP; 0: the parent's
  uint64_t tls = 0;    // its FS base, with CLONE_SETTLS
  // Guest addresses, where the flags ask for it.
  uint64_t parent_tid = 0, child_tid = 0, pidfd = 0;
  // How many processes of the user's there may be, before this one; nothing: what the host's limit is.
  std::optional<uint64_t> most_processes{};
};

// One object in each process of the recording, on the thread that forks.
class ProcessTree {
 public:
  // Of the first process. `recording`: its directory, absolute.
  explicit ProcessTree(std::filesystem::path recording);
  ProcessTree(const ProcessTree&) = delete;
  ProcessTree& operator=(const ProcessTree&) = delete;

  // In the order in which they were made over the whole recording; the first is 0.
  uint32_t number() const { return number_; }
  const std::filesystem::path& recording() const { return recording_; }
  // Where this process's log is.
  std::filesystem::path directory() const;

  // Could a child of the calling thread's write into the recording? It has the guest's credentials, and no
  // thread that has others, as its parent may have (host_thread.h).
  bool child_may_write() const;

  // Makes a process that is a copy of this one, but for other threads. Returns 0 in the child, where number()
  // is its own then and all host signals are blocked. In the parent, when the child has said begun() or
  // failed(): its number in the system, or -errno.
  long fork(const NewProcess& wanted);
  // The child's.
  void begun();
  [[noreturn]] void failed(int error);

  // With CLONE_VFORK the parent stands still from begun() to here, and with CLONE_VM it gets what the child
  // has changed of `space` since (of private memory, where the parent has a mapping too). Does nothing the
  // second time.
  void let_parent_go(const AddressSpace& space);
  bool parent_waits() const { return parent_waits_; }

  // The parent's half of that: waits, and notes what has come.
  void wait_for_child(const NewProcess& wanted, Answer& answer);

  // SIGKILL is on its way to these processes. Those that are recorded here are asked to end their recording
  // first, and given a moment for it; others are left alone.
  void prepare_kill(std::span<const pid_t> processes) const;
  // Is it that request? Async-signal-safe.
  static bool asks_to_end(const siginfo_t& info);

  // A process has moved in the regular file that stream 1 or 2 leads to, so that no other knows where its own
  // next bytes would go in a replay.
  void moves_in_output(uint8_t stream) const;
  bool moved_in_output(uint8_t stream) const;

  // What this process executes now: a descriptor that stays open. The program of another recorded process,
  // as a name that leads to it; empty for others.
  void executes(int file);
  std::string executable_of(pid_t process) const;
  // The first thread of this process has ended, and others go on; or one is there again (execve(2)).
  void first_thread_ends(bool ended);
  // Is that so of a process that is recorded here?
  bool first_thread_ended(pid_t process) const;
  // Is it one of the others that are recorded here?
  bool is_recorded(pid_t process) const;

  // Was a child ever made?
  bool has_others() const { return shared_ != nullptr; }
  // In the first process, at its end: waits until all others have ended, too, or somebody wants this one to
  // end (SIGINT, SIGTERM, SIGHUP, SIGQUIT). `tell` is called once, where that takes long.
  void wait_for_others(const std::function<void()>& tell);

 private:
  // Of all processes together.
  struct Shared;

  const std::filesystem::path recording_;
  const uid_t user_;  // that began the recording
  uint32_t number_ = 0;
  int executable_ = -1;
  bool first_ended_ = false;
  Shared* shared_ = nullptr;  // in memory that all map; null: no child was ever made
  // A pipe whose writing end every process has but the first, so that its reader meets the end when all are
  // gone.
  UniqueFd living_, ended_;
  // Between a parent and the child that it makes.
  UniqueFd to_parent_, from_child_;
  bool parent_waits_ = false, memory_is_parents_ = false;

  bool prepare();
  std::optional<size_t> place_of(pid_t process) const;
};

// Was a child ever made that is recorded, too?
bool has_other_processes(const GuestProcess& process);

}  // namespace aftercheck
