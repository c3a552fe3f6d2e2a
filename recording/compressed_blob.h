// How a blob lies in the store when it is compressed (docs/recording-format.md, `store/`).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/fd.h"
#include "recording/event.h"

namespace aftercheck::recording {

// Does the file begin as a compressed blob does? The descriptor's position stays where it is; below
// it is 0 afterwards.
bool is_compressed_blob(int fd);

// Writes the bytes of `from` into `to`, which is empty, compressed. False, with anything in `to`: they are to
// stay as they are, because it has holes, or that would save little, or more than a reader believes; or
// `stop`, which is asked once for each MiB, said so. Throws Error(io); `path` is that of `to`, for messages.
bool compress_blob(int from, int to, const std::string& path, const std::function<bool()>& stop);

struct UnpackedBlob {
  UniqueFd fd;  // a memory file with the blob's bytes
  uint64_t size = 0;
  Digest128 hash{};  // of those bytes
};
// Throws Error(bad_input) or Error(unsupported) naming `path` where the file is damaged or of a newer
// version, Error(io) where memory can't be had.
UnpackedBlob unpack_blob(int fd, const std::string& path);

}  // namespace aftercheck::recording
