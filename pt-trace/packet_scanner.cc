#include "pt-trace/packet_scanner.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace aftercheck::pt {

std::string ScanError::text() const {
  std::string hex;
  for (uint8_t i = 0; i < byte_count; ++i) hex += fmt::format("{}{:02x}", i == 0 ? "" : " ", bytes[i]);
  return fmt::format("offset {:#x}: {} ({})", offset, status_text(status), hex);
}

bool PacketScanner::synchronise() {
  const size_t rest = error_.status == DecodeStatus::ok || position_ >= trace_.size()
                          ? 0
                          : rest_of_psb(trace_.subspan(position_), behind_psb_);
  if (rest != 0 && error_.status != DecodeStatus::truncated) {
    error_ = ScanError{};
    psb_rest_ = rest;
    return true;
  }
  // A bad packet may itself look like the start of a PSB, so step over its first byte.
  const size_t from = position_ + (error_.status == DecodeStatus::ok ? 0 : 1);
  error_ = ScanError{};
  items_ = BlockItems::none;
  last_ip_.reset();
  behind_psb_ = false;
  const size_t found = find_psb(trace_, from);
  position_ = found == npos ? trace_.size() : found;
  return found != npos;
}

void PacketScanner::seek(uint64_t offset) {
  error_ = ScanError{};
  psb_rest_ = 0;
  behind_psb_ = false;
  items_ = BlockItems::none;
  last_ip_.reset();
  position_ = offset < base_ ? 0 : std::min<uint64_t>(offset - base_, trace_.size());
}

bool PacketScanner::next(ScannedPacket& result) {
  if (position_ >= trace_.size() || error_.status != DecodeStatus::ok) return false;
  if (const size_t left = std::exchange(psb_rest_, 0); left != 0) {
    result = whole_psb(base_ + position_ + left);
    position_ += left;
    behind_psb_ = true;
    items_ = BlockItems::none;
    last_ip_.reset();
    return true;
  }
  const auto rest = trace_.subspan(position_);
  DecodeStatus status = decode_packet(rest, items_, result.packet, errata_);
  // No more bytes come.
  if (status == DecodeStatus::truncated) status = decode_packet(rest, items_, result.packet);
  if (status != DecodeStatus::ok) {
    error_.status = status;
    error_.offset = base_ + position_;
    error_.byte_count = static_cast<uint8_t>(std::min<size_t>(rest.size(), sizeof error_.bytes));
    std::copy_n(rest.begin(), error_.byte_count, error_.bytes);
    return false;
  }
  result.offset = base_ + position_;
  position_ += result.packet.size;
  behind_psb_ = result.packet.type == PacketType::psb;
  take_ip(result, last_ip_);
  return true;
}

ScannedPacket whole_psb(uint64_t end) {
  ScannedPacket psb;
  psb.packet.type = PacketType::psb;
  psb.packet.size = psb_size;
  psb.offset = end - psb_size;
  return psb;
}

void take_ip(ScannedPacket& scanned, LastIp& last_ip) {
  scanned.has_ip = false;
  switch (scanned.packet.type) {
    case PacketType::psb:
      last_ip.reset();
      break;
    case PacketType::tip:
    case PacketType::tip_pge:
    case PacketType::tip_pgd:
    case PacketType::fup:
      scanned.has_ip = last_ip.update(static_cast<IpCompression>(scanned.packet.aux), scanned.packet.value);
      scanned.ip = last_ip.value();
      break;
    default:
      break;
  }
}

}  // namespace aftercheck::pt
