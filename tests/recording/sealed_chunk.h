// Chunks with payloads of the test's own making behind a right header: what a forger would write.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recording/format.h"

namespace aftercheck::recording::testing {

// The header's checksum is set, all else is taken as it is.
std::vector<std::byte> with_header(ChunkHeader header, std::span<const std::byte> frame);
// Compresses `payload` and gives it a header that is right in every field.
std::vector<std::byte> seal(std::span<const std::byte> payload, uint64_t sequence = 0);
// The payload of the first chunk of a file.
std::vector<std::byte> unseal(std::span<const std::byte> file);

}  // namespace aftercheck::recording::testing
