// Changes of the guest's mappings during recording: made in the AddressSpace and, in the same breath, noted
// in the answer of the event under way, so that nothing the host does to the guest can miss the log.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/shared_table.h"
#include "code-scan/code_scan.h"
#include "kvm-recorder/answer.h"
#include "kvm-recorder/host_thread.h"
#include "kvm-recorder/live_files.h"
#include "machine/address_space.h"
#include "recording/store.h"

namespace aftercheck {

// What the guest's threads share: mappings, and the files behind them that are kept for the replay. `answer`
// is that of the thread which makes the change. Results are 0 or negative errno as in AddressSpace. One guest
// thread at a time (the token's holder).
class LoggedSpace {
 public:
  // Both must outlive this.
  // `model`: whose trapped instructions are to be found in code.
  LoggedSpace(AddressSpace& space, recording::Store& store, CpuModelKind model = CpuModelKind::portable);

  // Files and segments have the same numbers in all processes of the recording from now on.
  void join(MemoryGroup& group) {
    group_ = &group;
    live_.join(group);
  }

  // Executable mappings are scanned and patched (code_scan.h) before the call returns.
  int map_anonymous(Answer& answer, Range range, int prot, bool shared, const std::string& name = "");
  // How a file is to be mapped.
  struct FileMapping {
    bool shared = false;
    int may = PROT_READ | PROT_WRITE | PROT_EXEC;  // what mprotect may give
    bool program = false;  // an executable's segment: its code must be in the recording (nobody can write it)
  };
  // Maps the file itself where the guest may change it (live_files.h). Of any other the store keeps the
  // contents, and its copy is mapped, so that others can't change what the guest sees; as soon as the guest
  // opens it for writing, or maps it so, the mapping shows the file itself. `name` is the path for people.
  int map_file(Answer& answer, Range range, int prot, int fd, uint64_t offset, const std::string& name,
               const FileMapping& how);
  // Would other processes see what this one does to the file, mapped shared, or this one what they do? The
  // descriptor is a file's.
  enum class Sees : uint8_t {
    nobody,
    others,
    // Another process, which is there still, has mapped the file when nobody could change it, and so would
    // not.
    copy,
  };
  Sees sees(int fd);
  // The same of a change by a call.
  Sees sees(const struct stat& status) const;
  // Attaches the System V segment, all of it, as AddressSpace does; `name` is what /proc/self/maps shows.
  int attach_segment(Answer& answer, Range range, int prot, const Segment& segment, const std::string& name);
  // Does the guest map any of it?
  bool maps_segment(const Segment& segment) const { return live_.is_mapped(segment); }
  // shmdt(2): 0, or -EINVAL where no segment is attached at `address`.
  int detach_segment(Answer& answer, uint64_t address);
  int unmap(Answer& answer, Range range);
  int protect(Answer& answer, Range range, int prot);
  // Nothing may have been noted in `from` before, in the same event.
  int remap(Answer& answer, Range from, Range to);
  int discard(Answer& answer, Range range);
  void clear(Answer& answer);

  // Reads guest memory; false when it isn't readable there.
  bool read(uint64_t address, void* data, uint64_t size) const;
  template <typename T>
  bool read_object(uint64_t address, T& object) const {
    return read(address, &object, sizeof object);
  }
  // NUL-terminated string of at most `limit` bytes; false when unreadable or longer.
  bool read_string(uint64_t address, std::string& text, size_t limit = 4096) const;

  // The guest opened a file (O_*). It may be mapped, and change, or have lost its contents by this.
  void opened(Answer& answer, int fd, const struct stat& status, uint64_t flags);
  // False: no file that the guest maps can have been changed by a call.
  bool may_change_files() const { return live_.any() || others_may_map(); }
  // False: no other process of the recording can have mapped a file that a call changes.
  bool others_may_map() const { return group_ != nullptr && group_->knows_files(); }
  // A call wrote these bytes of the descriptor's file, or changed its length.
  void file_changed(Answer& answer, int fd, Range in_file);
  // The file at `path` was made longer or shorter by its name.
  void file_truncated(Answer& answer, const char* path);

  // A replay may start from here: see LiveFiles.
  void checkpoint_taken() { live_.forget_unmapped(); }

  // The process leaves the group: what others do to files from here on it does not have.
  void group_left() { live_.forget_unmapped(); }
  // A child is about to have all that is mapped here.
  void about_to_fork();

  // Not empty: the store could not keep a file (disk full), so the event under way must not be appended and
  // the recording ends before it.
  const std::string& store_error() const { return store_error_; }

  // For files of the recording that are opened or created while the guest lives.
  HostThread& host_thread() { return host_thread_; }

  const AddressSpace& space() const { return space_; }
  AddressSpace& space() { return space_; }

 private:
  using FileKey = LiveFiles::Key;
  struct KeptFile {
    recording::Digest128 name{};
    int64_t mtime_ns = 0, ctime_ns = 0;
    uint64_t size = 0;
  };
  struct Kept {
    recording::Digest128 name{};
    int fd = -1;          // of the store's copy, one of open_blobs_; -1: the store could not keep it
    uint64_t offset = 0;  // in the blob, of the mapping's first byte
  };
  // A blob that was mapped lately.
  struct OpenBlob {
    recording::Digest128 name{};
    UniqueFd fd;
    struct stat status {};  // when it was opened
  };
  static constexpr size_t kMostOpen = 4;  // each holds one of the few descriptors that a recorder has

  AddressSpace& space_;
  recording::Store& store_;
  const CpuModelKind model_;
  HostThread host_thread_;
  MemoryGroup* group_ = nullptr;
  std::map<FileKey, KeptFile> kept_;
  // What other processes of the recording need not find out again: which blob a file is, and what is to be
  // trapped in a blob's code.
  SharedTable known_{size_t{64} << 20};
  LiveFiles live_;
  std::map<uint64_t, uint64_t> segments_;  // sizes of those that were attached, by number
  std::set<FileKey> copied_;               // of which the guest maps, or did map, the store's copy
  std::deque<OpenBlob> open_blobs_;        // the last one is the newest
  std::string store_error_;

  // Both give a descriptor that is open until kMostOpen further calls.
  Kept add_to_store(int fd, uint64_t offset, uint64_t length);
  int open_in_store(const recording::Digest128& name);
  int keep_open(recording::Store::Blob blob);
  Kept keep(int fd, const struct stat& status, Range range, uint64_t offset);
  bool is_live(int fd, const struct stat& status);
  int map_copy(Answer& answer, Range range, int prot, int fd, uint64_t offset, const std::string& name,
               const FileMapping& how, const struct stat& status);
  int map_live(Answer& answer, Range range, int prot, int fd, uint64_t offset, const std::string& name,
               const FileMapping& how, const struct stat& status);
  void make_live(Answer& answer, int fd, const struct stat& status);
  void show_grown(Answer& answer, Range pages);
  void store_failed(const Error& error);
  // `blob`: the range has these contents of the store, as `fd` has, and nobody has written to it.
  void patch_code(Answer& answer, Range range, int fd, uint64_t file_offset,
                  const recording::Digest128* blob = nullptr);
  std::vector<CodePatch> find_patches(const CodeRange& code, const recording::Digest128* blob);
};

}  // namespace aftercheck
