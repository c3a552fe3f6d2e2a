// Checkpoint files with payloads of the test's own making and right checksums.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace aftercheck::test {

using Bytes = std::vector<std::byte>;

// The payloads of the chunks of a whole file.
std::vector<Bytes> payloads_of(std::span<const std::byte> file);
// A file of such chunks; a payload is filled up to whole words.
Bytes file_of(const std::vector<Bytes>& payloads);

}  // namespace aftercheck::test
