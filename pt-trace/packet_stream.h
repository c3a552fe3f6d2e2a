// Walks AUX bytes packet by packet as they arrive, over gaps and damage.
#pragma once

#include <functional>
#include <span>

#include "pt-trace/chunk_carry.h"
#include "pt-trace/packet_scanner.h"

namespace aftercheck::pt {

// Takes the trace in pieces of any size, cut anywhere. Memory is constant. Not thread-safe.
class PacketStream {
 public:
  using PacketHandler = std::function<void(const ScannedPacket&)>;
  using DamageHandler = std::function<void(const ScanError&)>;

  // Both are called from feed() and finish(), in order. After damage the walk goes on at the next PSB.
  PacketStream(PacketHandler on_packet, DamageHandler on_damage, const Errata& errata = {})
      : on_packet_(std::move(on_packet)), on_damage_(std::move(on_damage)), errata_(errata) {}

  // The next bytes. Bytes before the first PSB are skipped.
  void feed(std::span<const uint8_t> bytes);
  // Bytes are missing here; goes on at the next PSB. What follows stands at trace offset `resume`.
  void mark_lost(uint64_t resume);
  // No more bytes come: a packet that is not whole is damage.
  void finish();

 private:
  size_t parse(const uint8_t* begin, size_t size, uint64_t offset);
  void damage(DecodeStatus status, std::span<const uint8_t> rest, uint64_t offset);

  PacketHandler on_packet_;
  DamageHandler on_damage_;
  Errata errata_;
  ChunkCarry carry_;
  uint64_t skipped_ = 0;  // bytes that were lost: trace offsets minus bytes fed
  bool synchronised_ = false;
  bool behind_psb_ = false;  // the packet before was one
  BlockItems items_ = BlockItems::none;
  LastIp last_ip_;
};

}  // namespace aftercheck::pt
