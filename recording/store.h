// The content store: blobs by hash under DIR/store. Files that the guest maps are kept here, so that a
// recording replays after they changed or on another machine.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "recording/event.h"

namespace aftercheck::recording {

std::string to_hex(const Digest128& digest);
// A name for a file that is being made in a store; an open(2) with O_EXCL may find it taken.
std::string temporary_name();
// Could a store have made a file with this name?
bool may_be_in_store(std::string_view name);

class BlobCompressor;

class Store {
 public:
  // `directory` is the recording's directory; `create` makes the store folder, for a recorder: its
  // descriptors are then out of its guest's reach.
  Store(const std::filesystem::path& directory, bool create);

  struct Blob {
    Digest128 name{};
    UniqueFd fd;  // read-only, of the store's own copy
    uint64_t size = 0;
  };
  // Keeps bytes [offset, offset+length) of `fd` (clipped at its end) under the hash of those bytes. Reflink
  // (FICLONERANGE) where the file system can, else a copy; the copy is what gets hashed, so a file that
  // changes meanwhile does no harm. The descriptor's own offset does not move. Throws Error(io) when the
  // store can't be written (disk full included).
  Blob add(int fd, uint64_t offset, uint64_t length);
  // From now on blobs that are kept go to the disk and are compressed beside whoever keeps them. sync() waits
  // until all are on the disk: to be called before that is said of events which name them. finish() waits for
  // the rest, and puts the compressed ones in their place. Both throw Error(io). Before `patience` is over
  // nothing is compressed, and what is finished by then stays as it is: a short run is not to wait for that.
  void compress(std::chrono::milliseconds patience = {});
  void sync();
  void finish();
  // In a child of fork(2): the thread that compresses is the parent's, and so is what it has begun. From now
  // on this has one of its own.
  void forked(std::chrono::milliseconds patience);
  // Brings another file of the recording, or its folder, to the disk: as blobs, beside the caller, and sync()
  // waits for it; where they are not, at once. Absolute path. Throws Error(io).
  void bring_to_disk(const std::filesystem::path& path);
  // Opens a blob and verifies its hash (once per blob and process); one that lies compressed is unpacked into
  // memory. Throws Error(bad_input) naming the file when missing or damaged.
  Blob open(const Digest128& name);
  // Opens a blob, without reading it where it is not compressed: for callers who check what they take out of
  // it themselves. Throws as open(), but for what only reading shows.
  Blob open_unread(const Digest128& name) const;

  // A blob that is written piece by piece. It goes away unless it is kept. Throws Error(io) when the store
  // can't be written.
  class NewBlob {
   public:
    explicit NewBlob(const Store& store);
    ~NewBlob();
    NewBlob(const NewBlob&) = delete;
    NewBlob& operator=(const NewBlob&) = delete;
    void append(std::span<const std::byte> bytes);
    uint64_t size() const;
    // Keeps it under the hash of all its bytes, lasting over a loss of power.
    Digest128 keep();

   private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
  };

  // Removes a blob that nothing needs any more; false where it is not there, or others share the store.
  // Throws Error(io).
  bool remove(const Digest128& name);
  // Do other recordings use it, too (a link leads there)?
  bool shared() const;
  // Sum of the sizes of all blobs in bytes, as they lie there.
  uint64_t size() const;

 private:
  std::filesystem::path directory_;
  bool beside_guest_;
  // NewBlobs have it, too. In a child of fork(2) it is made when there is something for it.
  mutable std::shared_ptr<BlobCompressor> compressor_;
  mutable std::optional<std::chrono::milliseconds> patience_when_made_;

  const std::shared_ptr<BlobCompressor>& compressor() const;
  Blob open_as_it_lies(const Digest128& name) const;
  std::optional<Blob> unpack(const Blob& blob) const;
};

}  // namespace aftercheck::recording
