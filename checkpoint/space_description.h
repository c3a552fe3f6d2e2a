// A guest's mappings in the vocabulary of the log, so that whoever reads a log can build them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "machine/address_space.h"
#include "recording/event.h"

namespace aftercheck {

// Changes that make an empty address space have these mappings; their contents are those of the files, or
// zeros. Names of contents are blobs of the recording's store. The mapping of a file with a number names no
// blob (all zero): the file's contents are told elsewhere.
std::vector<recording::SpaceOp> describe_mappings(const AddressSpace& space);
// The trapped instructions that are in place.
std::vector<recording::CodePatch> describe_patches(const AddressSpace& space);
// Puts the original bytes of trapped instructions into `bytes`, a copy of guest memory from `address` on.
void restore_unpatched(const AddressSpace& space, uint64_t address, std::span<std::byte> bytes);

recording::CodePatch to_log(const CodePatch& patch);

}  // namespace aftercheck
