#include "replay-engine/untrapped_code.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "machine/trapped_instruction.h"

namespace aftercheck {
namespace {

// What a page holds of them; bytes that look like one within another instruction may be told, too. RDRAND and
// its kin are left out: their two bytes are found in much that is none.
std::optional<std::pair<size_t, TrappedInstruction>> find_trapped(std::span<const uint8_t> bytes) {
  for (size_t at = 0; at + 1 < bytes.size(); ++at) {
    constexpr uint8_t kEscape = 0x0f;
    if (bytes[at] != kEscape) continue;
    const auto found = decode_trapped(bytes.subspan(at));
    if (found && (found->kind == TrappedKind::cpuid || found->kind == TrappedKind::rdtsc ||
                  found->kind == TrappedKind::rdtscp))
      return std::pair(at, *found);
  }
  return std::nullopt;
}

}  // namespace

std::string untrapped_code(const AddressSpace& space) {
  constexpr int kBoth = PROT_WRITE | PROT_EXEC;
  uint64_t left = 16 << 20;
  std::array<uint8_t, kPageSize> page{};
  for (const auto& [start, mapping] : space.mappings()) {
    if ((mapping.prot & kBoth) != kBoth) continue;
    for (uint64_t at = start; at < mapping.end && left >= kPageSize; at += kPageSize, left -= kPageSize) {
      if (!space.read(at, page.data(), page.size())) break;
      const auto found = find_trapped(page);
      if (!found || space.patch_at(at + found->first) != nullptr) continue;
      return fmt::format(
          "a likely reason: {} at {:#x}, in memory that is writable and executable at once; there KVM does "
          "not always trap it (docs/architecture.md, Limits), and its answer differs between machines",
          name(found->second.kind), at + found->first);
    }
  }
  return {};
}

}  // namespace aftercheck
