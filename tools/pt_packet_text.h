// Packets for people and scripts.
#pragma once

#include <string>

#include "pt-trace/packet_scanner.h"
#include "tools/output.h"

namespace aftercheck::tools {

// What stands behind the packet's name: "0x401020, 4 bytes compressed away", "TTNT" (oldest first).
std::string packet_details(const pt::ScannedPacket& scanned);

// {"offset": .., "packet": "TIP", "size": .., ...}
Json packet_json(const pt::ScannedPacket& scanned);

}  // namespace aftercheck::tools
