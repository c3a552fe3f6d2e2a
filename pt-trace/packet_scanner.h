// Walks raw AUX bytes packet by packet.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "pt-trace/packet.h"

namespace aftercheck::pt {

// A packet in its place. Packets follow each other without gaps, but a PSB that cut off the packet before it
// begins inside that one. `ip` is the decompressed address of TIP, TIP.PGE, TIP.PGD and FUP where has_ip is
// set.
struct ScannedPacket {
  Packet packet;
  uint64_t offset = 0;  // in the trace
  uint64_t ip = 0;
  bool has_ip = false;
};

// Fills in the address of a packet that has one, by the addresses before it.
void take_ip(ScannedPacket& scanned, LastIp& last_ip);

// The PSB that ends before trace offset `end`, where a packet before it took its first bytes.
ScannedPacket whole_psb(uint64_t end);

// What stopped a scan, and where.
struct ScanError {
  DecodeStatus status = DecodeStatus::ok;
  uint64_t offset = 0;    // of the packet's first byte
  uint8_t bytes[4] = {};  // what stands there, for the message
  uint8_t byte_count = 0;

  // "offset 0x1f0: no Intel PT packet starts with these bytes (05 ...)"
  std::string text() const;
};

// Scans one contiguous piece of trace. Allocates nothing; not thread-safe; the bytes must outlive it.
class PacketScanner {
 public:
  // `base` is the trace offset of the first byte, for reports. The scanner starts unsynchronised: call
  // synchronise() unless the bytes are known to start at a packet.
  explicit PacketScanner(std::span<const uint8_t> trace, uint64_t base = 0, const Errata& errata = {})
      : trace_(trace), base_(base), errata_(errata) {}

  // Moves to the next PSB at or after the current position, or to one that the packet before an error took
  // the beginning of; false (and the position is the end) when there is none.
  bool synchronise();

  // Moves to this offset (relative to `base`), which must be the start of a packet; IP decompression starts
  // afresh. Offsets past the end count as the end.
  void seek(uint64_t offset);

  // Next packet. False at the end of the trace or at an error: error().status tells which (ok: the end).
  // After an error the position is that of the bad packet; synchronise() goes on behind it.
  bool next(ScannedPacket& result);

  const ScanError& error() const { return error_; }
  uint64_t offset() const { return base_ + position_; }

 private:
  std::span<const uint8_t> trace_;
  uint64_t base_;
  Errata errata_;
  size_t position_ = 0;
  size_t psb_rest_ = 0;      // next() gives the PSB of which so many bytes are left
  bool behind_psb_ = false;  // the packet before was one
  BlockItems items_ = BlockItems::none;
  LastIp last_ip_;
  ScanError error_;
};

}  // namespace aftercheck::pt
