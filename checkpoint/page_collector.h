// Finds the pages of a guest that its mappings alone would not make as they are, and sorts out those that
// were met before.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <unordered_map>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/space_description.h"
#include "machine/address_space.h"
#include "machine/page_map.h"
#include "recording/store.h"

namespace aftercheck {

// The memory of a guest that stands still, as a recorder or a replay has it.
struct GuestMemory {
  const AddressSpace& space;
  // Puts into a copy of guest memory what is under breakpoints. Null: there are none.
  std::function<void(uint64_t address, std::span<std::byte> bytes)> restore;
  // Files with numbers, by number, and their contents but for holes, in pieces of whole pages.
  std::vector<CheckpointFile> files;
  std::function<void(uint64_t number,
                     const std::function<void(uint64_t offset, std::span<const std::byte> bytes)>& visit)>
      read_file;
};

// One object serves all checkpoints of a writer. Frames are numbered over all of them.
class PageCollector {
 public:
  using Page = std::array<std::byte, kPageSize>;
  // Gets the pages of a new frame, whose number is the count of frames before it.
  using NewFrame = std::function<void(std::vector<Page>&& pages)>;

  explicit PageCollector(recording::Store& store) : store_(store) {}

  // In a process that fork(2) has made: its files are closed, and it must not be used again.
  void leave_to_parent() { pages_.leave_to_parent(); }

  struct Found {
    std::vector<PageRun> runs;  // `frame` is the number over all checkpoints; in order of memory
    uint64_t pages = 0, new_pages = 0;
  };
  // Throws Error(io) when memory or the store can't be read.
  Found collect(const GuestMemory& memory, const NewFrame& new_frame);

 private:
  struct Place {
    uint32_t frame = 0, page = 0;
  };
  struct Hash {
    size_t operator()(const recording::Digest128& digest) const;
  };

  recording::Store& store_;
  PageMap pages_;
  std::unordered_map<recording::Digest128, Place, Hash> known_;   // pages of all checkpoints so far
  std::map<recording::Digest128, recording::Store::Blob> blobs_;  // what private file mappings show
  uint32_t frames_ = 0;                                           // all so far, the open one not counted
  std::vector<Page> open_;                                        // pages of the frame under way
  Found found_;
  std::vector<std::byte> buffer_;

  void add(uint64_t file, uint64_t address, std::span<const std::byte, kPageSize> page,
           const NewFrame& new_frame);
  void close_frame(const NewFrame& new_frame);
  bool as_in_file(const Mapping& mapping, uint64_t address, std::span<const std::byte> page);
  void collect_mapping(const GuestMemory& memory, const Mapping& mapping, const NewFrame& new_frame);
};

}  // namespace aftercheck
