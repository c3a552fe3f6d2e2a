// The processes of a recording that share memory which they can change.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace aftercheck {

// Those processes are the group, and its members run in turns: guest code, and what a recorder does with
// guest memory, only in the one that has the group's token. So all that they do to what they share has one
// order, which the turns' numbers say. Whoever waits gets it in the order in which they came; one that dies,
// or is stopped, while it has it or would get it is passed over.
//
// Also what all processes of the recording have to know of files that they map: a number each, and who has
// them.
//
// One object in each process of the recording, copied by fork(2), on memory that all have. Used by the
// holder of the process's own token (token.h), where not told otherwise.
class MemoryGroup {
 public:
  // In the first process, before any other is there. Throws Error(host_lacks) where there is no memory.
  MemoryGroup();
  ~MemoryGroup();
  MemoryGroup(const MemoryGroup&) = delete;
  MemoryGroup& operator=(const MemoryGroup&) = delete;

  // Is this process a member?
  bool joined() const { return own_ != kNobody; }
  // Makes it one, without the token. Throws Error(host_lacks) where there are too many.
  void join();
  // Gives the token up.
  void leave();
  // In a child of fork(2): a member where its parent is one, without the token.
  void forked();

  // Waits until this process has the token. The number of the turn that begins; 0: no other has had one since
  // this process's last, which goes on.
  uint64_t take();
  void give();
  // Any thread, these two.
  bool holds() const { return holds_.load(std::memory_order_relaxed); }
  // Others wait for it.
  bool contended() const;

  // A mapped file, or what else is like one (LiveFiles).
  using Key = std::pair<uint64_t, uint64_t>;  // device, inode
  // The number in all logs of what has this key; `fresh`: nobody had asked for it. Throws Error(io) where
  // there are too many.
  uint64_t number_of(const Key& key, bool& fresh);
  // False: nothing has been asked or said of any.
  bool knows_files() const;
  // Some process has mapped it in a way that it can change, and be seen by others.
  void now_shared(const Key& key);
  bool is_shared(const Key& key) const;
  // This process shows a copy of it in memory that the guest takes for shared.
  void now_shown_by_copy(const Key& key);
  // A child that this process is about to have shows it, too.
  void copy_is_inherited(const Key& key);
  // Does another process that is there still? Of several, that may be gone.
  bool shown_by_copy_elsewhere(const Key& key) const;

 private:
  struct Shared;
  struct Member;
  struct File;
  class Lock;
  static constexpr size_t kNobody = SIZE_MAX;

  Shared* const shared_;
  size_t own_ = kNobody;
  std::atomic<bool> holds_{false};

  bool may_take(bool waited_long);
  void remove(size_t member);
  void wake_first();
  bool alive(size_t member) const;
  File* find(const Key& key, bool add) const;
};

}  // namespace aftercheck
