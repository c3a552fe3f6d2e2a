#include "pt-trace/packet_stream.h"

#include <algorithm>
#include <utility>

namespace aftercheck::pt {

void PacketStream::feed(std::span<const uint8_t> bytes) {
  carry_.feed(bytes, [this](const uint8_t* begin, size_t size, uint64_t offset) {
    return parse(begin, size, offset + skipped_);
  });
}

void PacketStream::mark_lost(uint64_t resume) {
  finish();
  carry_.drop();
  synchronised_ = false;
  if (resume > carry_.fed()) skipped_ = resume - carry_.fed();
}

void PacketStream::finish() {
  if (carry_.waiting() == 0 || !synchronised_) return;
  ScannedPacket last;  // whole after all: see decode_packet() on SKD007
  if (decode_packet(carry_.carried(), items_, last.packet) == DecodeStatus::ok) {
    last.offset = carry_.fed() + skipped_ - carry_.waiting();
    return on_packet_(last);
  }
  damage(DecodeStatus::truncated, carry_.carried(), carry_.fed() + skipped_ - carry_.waiting());
}

void PacketStream::damage(DecodeStatus status, std::span<const uint8_t> rest, uint64_t offset) {
  ScanError error{status, offset};
  error.byte_count = static_cast<uint8_t>(std::min(rest.size(), sizeof error.bytes));
  std::copy_n(rest.begin(), error.byte_count, error.bytes);
  synchronised_ = false;
  on_damage_(error);
}

size_t PacketStream::parse(const uint8_t* begin, size_t size, uint64_t offset) {
  size_t at = 0;
  while (at < size) {
    const std::span rest(begin + at, size - at);
    if (!synchronised_) {
      const size_t found = find_psb({begin, size}, at);
      if (found == npos) return size - std::min(psb_size - 1, rest.size());
      at = found;
      synchronised_ = true;
      behind_psb_ = false;
      items_ = BlockItems::none;
      continue;
    }
    ScannedPacket result;
    const DecodeStatus status = decode_packet(rest, items_, result.packet, errata_);
    if (status == DecodeStatus::truncated) break;
    if (status != DecodeStatus::ok) {
      damage(status, rest, offset + at);
      const size_t left = rest_of_psb(rest, std::exchange(behind_psb_, false));
      if (left != 0) {
        at += left;
        synchronised_ = behind_psb_ = true;
        items_ = BlockItems::none;
        last_ip_.reset();
        on_packet_(whole_psb(offset + at));
        continue;
      }
      ++at;  // a bad packet may itself look like the start of a PSB
      continue;
    }
    result.offset = offset + at;
    at += result.packet.size;
    behind_psb_ = result.packet.type == PacketType::psb;
    take_ip(result, last_ip_);
    on_packet_(result);
  }
  return at;
}

}  // namespace aftercheck::pt
