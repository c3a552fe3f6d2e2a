#include "checkpoint/space_description.h"

#include <algorithm>

#include "machine/memory_accesses.h"

namespace aftercheck {

using recording::SpaceOp;
using recording::SpaceOpKind;

std::vector<SpaceOp> describe_mappings(const AddressSpace& space) {
  std::vector<SpaceOp> ops;
  ops.reserve(space.mappings().size());
  for (const auto& [start, mapping] : space.mappings()) {
    SpaceOp op;
    op.address = start;
    op.length = mapping.end - start;
    op.prot = static_cast<uint32_t>(mapping.prot);
    op.shared = mapping.shared;
    op.name = mapping.name;
    if (mapping.backing == Backing::file) {
      op.kind = SpaceOpKind::map_blob;
      if (mapping.number != 0) {
        op.new_address = mapping.number;
        op.new_length = mapping.offset;
      } else {
        op.blob = mapping.contents;
        op.blob_offset = mapping.offset;
      }
    }
    ops.push_back(std::move(op));
  }
  return ops;
}

std::vector<recording::CodePatch> describe_patches(const AddressSpace& space) {
  std::vector<recording::CodePatch> patches;
  patches.reserve(space.patches().size());
  for (const auto& [address, patch] : space.patches()) patches.push_back(to_log(patch));
  return patches;
}

void restore_unpatched(const AddressSpace& space, uint64_t address, std::span<std::byte> bytes) {
  const auto& patches = space.patches();
  // One may begin before the bytes and reach into them.
  auto it = patches.lower_bound(address - std::min<uint64_t>(address, kLongestInstruction));
  for (; it != patches.end() && it->first < address + bytes.size(); ++it)
    for (size_t i = 0; i < it->second.instruction.length; ++i) {
      const uint64_t at = it->first + i;
      if (at >= address && at < address + bytes.size())
        bytes[at - address] = static_cast<std::byte>(it->second.original[i]);
    }
}

recording::CodePatch to_log(const CodePatch& patch) {
  return {.address = patch.address,
          .kind = static_cast<uint8_t>(patch.instruction.kind),
          .length = patch.instruction.length,
          .operand = patch.instruction.operand,
          .operand_bits = patch.instruction.operand_bits,
          .original = patch.original};
}

}  // namespace aftercheck
