// Files that the guest may change while it maps them: what of them the log has.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <utility>

#include "kvm-recorder/answer.h"
#include "kvm-recorder/host_thread.h"
#include "kvm-recorder/memory_group.h"
#include "machine/address_space.h"
#include "recording/store.h"

namespace aftercheck {

// A System V segment. An identifier means something in one IPC namespace only (ipc_namespaces(7)).
struct Segment {
  int id = -1;
  uint64_t ipc_namespace = 0;  // GuestProcess::ipc_namespace
};

// A mapped file that can change has a number in the log, and the guest maps the file itself, not the store's
// copy: what is written to it by any call is seen in its mappings. A replay has a memory file in its place,
// so the log must say how long the file is and what is in it, as far as mappings show it: resize_file and
// fill_file in the answer of the call that changed it. What the guest stores through mappings the replay does
// by itself. What others do to the file is seen when the guest maps it anew.
//
// Throws Error(io) where the store or the file fails. One guest thread at a time (the token's holder).
class LiveFiles {
 public:
  using Key = MemoryGroup::Key;
  static Key key_of(const struct stat& status) { return {status.st_dev, status.st_ino}; }

  // All must outlive this.
  LiveFiles(AddressSpace& space, recording::Store& store, HostThread& host_thread)
      : space_(space), store_(store), host_thread_(host_thread) {}

  // Files have the same numbers in all processes of the recording from now on; before any has one.
  void join(MemoryGroup& group) { group_ = &group; }
  // Has another process mapped it in a way that this one would see what that does?
  bool is_shared(const Key& key) const { return group_ != nullptr && group_->is_shared(key); }

  // The guest opened the file for writing.
  void opened_for_writing(const Key& key) { written_.insert(key); }
  // Has the guest a descriptor now with which it could change the file?
  bool may_be_written(const struct stat& status);
  // Is some of it mapped, so that a change must be told?
  bool is_followed(const Key& key) const;
  // False: no file is, and nothing has to be looked at.
  bool any() const { return followed_ != 0; }

  // `in_file` is about to be mapped: the log gets the file's length and contents, as far as it lacks them.
  // Returns the file's number.
  uint64_t show(Answer& answer, int fd, const struct stat& status, Range in_file);
  // A System V segment is no file that a descriptor could lead to, so its contents are read from guest
  // memory. Its number, for whoever is about to attach it,
  uint64_t number_of_segment(const Segment& segment);
  // and then, when all of its `size` bytes (whole pages) are at `address`.
  void show_segment(Answer& answer, const Segment& segment, uint64_t size, uint64_t address);
  // Does the guest have all of it attached already?
  bool is_attached(const Segment& segment, uint64_t size) const;
  // Any of it?
  bool is_mapped(const Segment& segment) const;
  // A call changed these bytes of the file, or its length; `fd` may be of any mode, or none (-1) where no
  // bytes were written.
  void changed(Answer& answer, int fd, const struct stat& status, Range in_file);
  // These pages came to a mapping of the file which grew (or lost its own copies of them).
  void grown(Answer& answer, const Mapping& mapping, Range pages);
  // From here on the log must not count on what it had of parts that are not mapped now: a checkpoint, which
  // has none of them, may be where a replay starts.
  void forget_unmapped();

  // A descriptor of the recorder's own for the file behind `fd`, open for reading, or none.
  UniqueFd reader_of(int fd);

 private:
  struct File {
    uint64_t number = 0;
    uint64_t size = 0;
    bool followed = false;               // some of it was mapped when last looked at
    bool sized = false;                  // the log has `size`
    bool whole = false;                  // the log has all contents, and gets all changes
    int64_t mtime_ns = 0, ctime_ns = 0;  // after the last change that the log got
  };
  struct Source;

  AddressSpace& space_;
  recording::Store& store_;
  HostThread& host_thread_;
  MemoryGroup* group_ = nullptr;
  std::map<Key, File> files_;
  std::set<Key> written_;
  uint64_t followed_ = 0;

  File& file(const Key& key, bool& fresh);
  std::vector<Range> mapped_parts(uint64_t number) const;
  void follow(File& file, bool followed);
  void note_times(File& file, const struct stat& status);
  void resize(Answer& answer, File& file, uint64_t size);
  void fill(Answer& answer, const File& file, const Source& source, Range in_file, bool fresh);
  void fill_zeros(Answer& answer, const File& file, Range in_file);
  void fill_data(Answer& answer, const File& file, const Source& source, std::span<const Range> parts);
};

}  // namespace aftercheck
