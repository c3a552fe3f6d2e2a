// Changes of the guest's mappings during recording: made in the AddressSpace and, in the same breath, noted
// in the answer of the event under way, so that nothing the host does to the guest can miss the log.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "base/fd.h"
#include "kvm-recorder/answer.h"
#include "kvm-recorder/host_thread.h"
#include "machine/address_space.h"
#include "recording/store.h"

namespace aftercheck {

// What the guest's threads share: mappings, and the files behind them that are kept for the replay. `answer`
// is that of the thread which makes the change. Results are 0 or negative errno as in AddressSpace. One guest
// thread at a time (the token's holder).
class LoggedSpace {
 public:
  // Both must outlive this.
  LoggedSpace(AddressSpace& space, recording::Store& store);

  // Executable mappings are scanned and patched (code_scan.h) before the call returns.
  int map_anonymous(Answer& answer, Range range, int prot, bool shared, const std::string& name = "");
  // Keeps the file's contents in the store and maps the store's copy, so that a later change of the file
  // can't reach the guest. Only a MAP_SHARED mapping that may be written (`shared_writable`) maps the guest's
  // file itself; its contents are still kept for the replay. `name` is the path for people.
  int map_file(Answer& answer, Range range, int prot, int fd, uint64_t offset, bool shared_writable,
               const std::string& name);
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

  // A descriptor's file was written by the guest: where it is mapped shared, the mapped bytes count as
  // written too.
  void file_written(Answer& answer, int fd);

  // The log's number of the file behind a shared file mapping.
  uint64_t shared_file_number(const Mapping& mapping) const;

  // Not empty: the store could not keep a file (disk full), so the event under way must not be appended and
  // the recording ends before it.
  const std::string& store_error() const { return store_error_; }

  // For files of the recording that are opened or created while the guest lives.
  HostThread& host_thread() { return host_thread_; }

  const AddressSpace& space() const { return space_; }
  AddressSpace& space() { return space_; }

 private:
  using FileKey = std::pair<uint64_t, uint64_t>;  // device, inode
  struct KeptFile {
    recording::Digest128 name{};
    int64_t mtime_ns = 0, ctime_ns = 0;
    uint64_t size = 0;
  };
  struct Kept {
    recording::Digest128 name{};
    UniqueFd fd;          // of the store's copy
    uint64_t offset = 0;  // in the blob, of the mapping's first byte
  };

  AddressSpace& space_;
  recording::Store& store_;
  HostThread host_thread_;
  std::map<FileKey, KeptFile> kept_;
  std::map<FileKey, uint64_t> shared_files_;  // mapped shared and writable, with their numbers in the log
  std::string store_error_;

  recording::Store::Blob add_to_store(int fd, uint64_t offset, uint64_t length);
  recording::Store::Blob open_in_store(const recording::Digest128& name);
  Kept keep(int fd, const struct stat& status, Range range, uint64_t offset);
  void patch_code(Answer& answer, Range range, int fd, uint64_t file_offset);
};

}  // namespace aftercheck
