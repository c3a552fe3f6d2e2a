#include "pt-trace/packet_scanner.h"

#include <fmt/format.h>

#include <algorithm>

namespace aftercheck::pt {

std::string ScanError::text() const {
  std::string hex;
  for (uint8_t i = 0; i < byte_count; ++i) hex += fmt::format("{}{:02x}", i == 0 ? "" : " ", bytes[i]);
  return fmt::format("offset {:#x}: {} ({})", offset, status_text(status), hex);
}

bool PacketScanner::synchronise() {
  // A bad packet may itself look like the start of a PSB, so step over its first byte.
  const size_t from = position_ + (error_.status == DecodeStatus::ok ? 0 : 1);
  error_ = ScanError{};
  items_ = BlockItems::none;
  last_ip_.reset();
  const size_t found = find_psb(trace_, from);
  position_ = found == npos ? trace_.size() : found;
  return found != npos;
}

void PacketScanner::seek(uint64_t offset) {
  error_ = ScanError{};
  items_ = BlockItems::none;
  last_ip_.reset();
  position_ = offset < base_ ? 0 : std::min<uint64_t>(offset - base_, trace_.size());
}

bool PacketScanner::next(ScannedPacket& result) {
  if (position_ >= trace_.size() || error_.status != DecodeStatus::ok) return false;
  const auto rest = trace_.subspan(position_);
  const DecodeStatus status = decode_packet(rest, items_, result.packet);
  if (status != DecodeStatus::ok) {
    error_.status = status;
    error_.offset = base_ + position_;
    error_.byte_count = static_cast<uint8_t>(std::min<size_t>(rest.size(), sizeof error_.bytes));
    std::copy_n(rest.begin(), error_.byte_count, error_.bytes);
    return false;
  }
  result.offset = base_ + position_;
  position_ += result.packet.size;
  take_ip(result, last_ip_);
  return true;
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
