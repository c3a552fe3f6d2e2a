// IP decompression for the fast loops. Internal to pt-trace.
#pragma once

#include <cstdint>
#include <cstring>

#include "pt-trace/packet.h"

namespace aftercheck::pt {

// Applies the packet at `at` (9 readable bytes) and steps over it; true when it had an IP. Branches on the
// size, so that the position of the next packet is predicted instead of waiting for loads; sizes repeat a
// lot.
[[gnu::always_inline]] inline bool apply_ip_payload(const uint8_t*& at, LastIp& last_ip) {
  uint64_t payload;
  std::memcpy(&payload, at + 1, sizeof payload);
  const uint64_t last = last_ip.value();
  switch (*at >> 5) {
    case 1:
      last_ip.set((last & ~uint64_t{0xffff}) | (payload & 0xffff));
      at += 3;
      return true;
    case 2:
      last_ip.set((last & ~uint64_t{0xffffffff}) | (payload & 0xffffffff));
      at += 5;
      return true;
    case 3:
      last_ip.set(static_cast<uint64_t>(static_cast<int64_t>(payload << 16) >> 16));
      at += 7;
      return true;
    case 4:
      last_ip.set((last & ~uint64_t{0xffffffffffff}) | (payload & 0xffffffffffff));
      at += 7;
      return true;
    case 6:
      last_ip.set(payload);
      at += 9;
      return true;
    default:
      at += 1;
      return false;
  }
}

}  // namespace aftercheck::pt
