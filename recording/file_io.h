// Plain file access that readers and writers of a recording's files share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/fd.h"

namespace aftercheck::recording {

// A new file, which must not exist, out of the guest's reach. Throws Error(io).
UniqueFd create_file(const std::string& path);

// Writes all of `bytes` at `offset`. 0 or an errno value.
int write_all(int fd, std::span<const std::byte> bytes, uint64_t offset);

// Reads up to bytes.size() bytes; fewer only at the end of the file. Throws Error(io) naming `path` and
// offset.
size_t read_at(int fd, const std::string& path, uint64_t offset, std::span<std::byte> bytes);

// True when the file holds only zeros from `from` on: blocks that never reached the disk.
bool zeros_until_end(int fd, const std::string& path, uint64_t from);

}  // namespace aftercheck::recording
