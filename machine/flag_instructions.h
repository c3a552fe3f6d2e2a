// PUSHF and POPF: single-stepping sets the trap flag, which these two show to the guest or replace.
#pragma once

#include <cstdint>
#include <span>

namespace aftercheck {

enum class FlagUse : uint8_t { none, stores, loads };

// What the instruction at the start of `code` does: PUSHF 9C, POPF 9D, behind any prefixes (SDM vol.
// 2A, 2.1.1 and 2.2.1).
constexpr FlagUse flag_use(std::span<const uint8_t> code) {
  for (const uint8_t byte : code) {
    switch (byte) {
      case 0x9c:
        return FlagUse::stores;
      case 0x9d:
        return FlagUse::loads;
      // clang-format off
      case 0x66: case 0x67: case 0xf2: case 0xf3:
      case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65:
        // clang-format on
        break;
      default:
        if ((byte & 0xf0) != 0x40) return FlagUse::none;  // REX
    }
  }
  return FlagUse::none;
}

}  // namespace aftercheck
