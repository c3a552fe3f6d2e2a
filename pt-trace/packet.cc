#include "pt-trace/packet.h"

#include <array>
#include <bit>
#include <cstring>

namespace aftercheck::pt {
namespace {

constexpr std::array<std::string_view, packet_type_count> names = {
    "PAD",  "PSB",       "PSBEND",    "TNT", "TNT.long", "TIP", "TIP.PGE", "TIP.PGD",
    "FUP",  "MODE.Exec", "MODE.TSX",  "PIP", "VMCS",     "CBR", "TSC",     "MTC",
    "TMA",  "CYC",       "TraceStop", "OVF", "MNT",      "PTW", "EXSTOP",  "MWAIT",
    "PWRE", "PWRX",      "BBP",       "BIP", "BEP",      "CFE", "EVD",     "TRIG"};

uint64_t little_endian(const uint8_t* bytes, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) value |= uint64_t{bytes[i]} << (8 * i);
  return value;
}

// Packets whose size follows from the second byte after the 0x02 escape ("extended opcodes"). Payload is what
// follows the two opcode bytes.
struct Extended {
  PacketType type;
  uint8_t size;  // 0: no such packet
};

constexpr std::array<Extended, 256> make_extended() {
  std::array<Extended, 256> table{};
  table[0x82] = {PacketType::psb, psb_size};
  table[0x23] = {PacketType::psbend, 2};
  table[0xa3] = {PacketType::tnt_long, 8};
  table[0x43] = {PacketType::pip, 8};
  table[0xc8] = {PacketType::vmcs, 7};
  table[0x03] = {PacketType::cbr, 4};
  table[0x73] = {PacketType::tma, 7};
  table[0x83] = {PacketType::trace_stop, 2};
  table[0xf3] = {PacketType::ovf, 2};
  table[0xc3] = {PacketType::mnt, 11};
  table[0x62] = {PacketType::exstop, 2};
  table[0xe2] = {PacketType::exstop, 2};
  table[0xc2] = {PacketType::mwait, 10};
  table[0x22] = {PacketType::pwre, 4};
  table[0xa2] = {PacketType::pwrx, 7};
  // PTW: bit 7 says that a FUP follows, bits 6:5 the payload size (0: 4 bytes, 1: 8 bytes).
  table[0x12] = {PacketType::ptw, 6};
  table[0x92] = {PacketType::ptw, 6};
  table[0x32] = {PacketType::ptw, 10};
  table[0xb2] = {PacketType::ptw, 10};
  table[0x63] = {PacketType::bbp, 3};
  table[0x33] = {PacketType::bep, 2};
  table[0xb3] = {PacketType::bep, 2};
  table[0x13] = {PacketType::cfe, 4};
  table[0x53] = {PacketType::evd, 11};
  return table;
}
constexpr auto extended_packets = make_extended();

// How many times 02 82 stands at the start of `bytes`, up to a whole PSB.
size_t psb_pairs(std::span<const uint8_t> bytes) {
  size_t pairs = 0;
  while (pairs < psb_size / 2 && 2 * pairs + 1 < bytes.size() && bytes[2 * pairs] == 0x02 &&
         bytes[2 * pairs + 1] == 0x82)
    ++pairs;
  return pairs;
}

bool read_tnt(uint64_t payload, Packet& packet) {
  if (payload <= 1) return false;  // no stop bit, or nothing below it
  packet.aux = static_cast<uint8_t>(std::bit_width(payload) - 1);
  packet.value = payload ^ (uint64_t{1} << packet.aux);
  return true;
}

DecodeStatus extended_payload(const uint8_t* bytes, BlockItems& items, Packet& packet) {
  const uint8_t* payload = bytes + 2;
  const size_t payload_size = packet.size - 2u;
  const bool top_bit = (bytes[1] & 0x80) != 0;
  switch (packet.type) {
    case PacketType::psb:
      for (size_t i = 0; i < psb_size; i += 2)
        if (bytes[i] != 0x02 || bytes[i + 1] != 0x82) return DecodeStatus::bad_payload;
      items = BlockItems::none;
      return DecodeStatus::ok;
    case PacketType::tnt_long:
      return read_tnt(little_endian(payload, 6), packet) ? DecodeStatus::ok : DecodeStatus::bad_payload;
    case PacketType::pip: {
      const uint64_t raw = little_endian(payload, 6);
      packet.flag = (raw & 1) != 0;
      packet.value = (raw >> 1) << 5;
      return DecodeStatus::ok;
    }
    case PacketType::vmcs:
      packet.value = little_endian(payload, 5) << 12;
      return DecodeStatus::ok;
    case PacketType::cbr:
      packet.value = payload[0];
      return DecodeStatus::ok;
    case PacketType::tma:
      if (payload[2] != 0 || (payload[4] & 0xfe) != 0) return DecodeStatus::bad_payload;
      packet.value = little_endian(payload, 2) | little_endian(payload + 3, 2) << 16;
      return DecodeStatus::ok;
    case PacketType::mnt:
      if (payload[0] != 0x88) return DecodeStatus::bad_opcode;
      packet.value = little_endian(payload + 1, 8);
      return DecodeStatus::ok;
    case PacketType::exstop:
      packet.flag = top_bit;
      return DecodeStatus::ok;
    case PacketType::bep:
      packet.flag = top_bit;
      items = BlockItems::none;
      return DecodeStatus::ok;
    case PacketType::ptw:
      packet.flag = top_bit;
      packet.aux = static_cast<uint8_t>(payload_size);
      packet.value = little_endian(payload, payload_size);
      return DecodeStatus::ok;
    case PacketType::bbp:
      packet.flag = (payload[0] & 0x80) != 0;
      packet.aux = payload[0] & 0x1f;
      items = packet.flag ? BlockItems::bytes4 : BlockItems::bytes8;
      return DecodeStatus::ok;
    case PacketType::cfe:
      packet.flag = (payload[0] & 0x80) != 0;
      packet.aux = payload[0] & 0x1f;
      packet.value = payload[1];
      return DecodeStatus::ok;
    case PacketType::evd:
      packet.aux = payload[0] & 0x3f;
      packet.value = little_endian(payload + 1, 8);
      return DecodeStatus::ok;
    case PacketType::ovf:
      items = BlockItems::none;  // an overflow may have swallowed the BEP
      return DecodeStatus::ok;
    default:
      packet.value = little_endian(payload, payload_size);
      return DecodeStatus::ok;
  }
}

DecodeStatus decode_extended(std::span<const uint8_t> bytes, BlockItems& items, Packet& packet) {
  if (bytes.size() < 2) return DecodeStatus::truncated;
  const Extended& entry = extended_packets[bytes[1]];
  if (entry.size == 0) {
    const bool reserved_ptw_size = (bytes[1] & 0x1f) == 0x12;
    return reserved_ptw_size ? DecodeStatus::bad_payload : DecodeStatus::bad_opcode;
  }
  packet.type = entry.type;
  packet.size = entry.size;
  if (entry.type == PacketType::psb && bytes.size() < psb_size && psb_pairs(bytes) < bytes.size() / 2)
    return DecodeStatus::bad_payload;
  if (entry.type == PacketType::mnt && bytes.size() >= 3 && bytes[2] != 0x88) return DecodeStatus::bad_opcode;
  if (bytes.size() < entry.size) return DecodeStatus::truncated;
  return extended_payload(bytes.data(), items, packet);
}

DecodeStatus decode_cyc(std::span<const uint8_t> bytes, Packet& packet) {
  packet.type = PacketType::cyc;
  packet.value = bytes[0] >> 3;
  bool more = (bytes[0] & 0x04) != 0;
  size_t size = 1;
  for (unsigned shift = 5; more; shift += 7, ++size) {
    if (bytes.size() <= size) return DecodeStatus::truncated;
    if (shift + 7 > 64) return DecodeStatus::bad_payload;
    packet.value |= uint64_t{bytes[size]} >> 1 << shift;
    more = (bytes[size] & 0x01) != 0;
  }
  packet.size = static_cast<uint8_t>(size);
  return DecodeStatus::ok;
}

DecodeStatus decode_mode(std::span<const uint8_t> bytes, Packet& packet) {
  packet.size = 2;
  if (bytes.size() < 2) return DecodeStatus::truncated;
  const uint8_t payload = bytes[1];
  switch (payload >> 5) {
    case 0: {  // MODE.Exec: bit 0 is CS.L and LMA, bit 1 CS.D, bit 2 the interrupt flag
      packet.type = PacketType::mode_exec;
      packet.aux = static_cast<uint8_t>(exec_modes[payload & 3]);
      packet.flag = (payload & 4) != 0;
      return DecodeStatus::ok;
    }
    case 1:
      packet.type = PacketType::mode_tsx;
      packet.aux = payload & 3;
      return DecodeStatus::ok;
    default:
      return DecodeStatus::bad_payload;
  }
}

DecodeStatus decode_ip(PacketType type, std::span<const uint8_t> bytes, Packet& packet) {
  packet.type = type;
  packet.aux = bytes[0] >> 5;
  const uint8_t size = ip_payload_size[packet.aux];
  if (size == 0xff) return DecodeStatus::bad_payload;
  if (bytes.size() < size + 1u) return DecodeStatus::truncated;
  packet.size = static_cast<uint8_t>(size + 1);
  packet.value = little_endian(bytes.data() + 1, size);
  return DecodeStatus::ok;
}

DecodeStatus decode_trig(std::span<const uint8_t> bytes, Packet& packet) {
  packet.type = PacketType::trig;
  if (bytes.size() < 3) return DecodeStatus::truncated;
  packet.aux = bytes[1];
  packet.flag = (bytes[1] & 0x80) != 0;
  packet.value = bytes[2];
  packet.size = (bytes[1] & 0x40) != 0 ? 5 : 3;
  if (bytes.size() < packet.size) return DecodeStatus::truncated;
  if (packet.size == 5) packet.value |= little_endian(bytes.data() + 3, 2) << 16;
  return DecodeStatus::ok;
}

DecodeStatus decode_item(BlockItems items, std::span<const uint8_t> bytes, Packet& packet) {
  const size_t payload_size = items == BlockItems::bytes8 ? 8 : 4;
  packet.type = PacketType::bip;
  packet.aux = bytes[0] >> 3;
  packet.size = static_cast<uint8_t>(payload_size + 1);
  if (bytes.size() < packet.size) return DecodeStatus::truncated;
  packet.value = little_endian(bytes.data() + 1, payload_size);
  return DecodeStatus::ok;
}

}  // namespace

std::string_view packet_name(PacketType type) { return names[static_cast<size_t>(type)]; }

std::string_view status_text(DecodeStatus status) {
  switch (status) {
    case DecodeStatus::ok:
      return "ok";
    case DecodeStatus::truncated:
      return "the trace ends inside a packet";
    case DecodeStatus::bad_opcode:
      return "no Intel PT packet starts with these bytes";
    case DecodeStatus::bad_payload:
      return "the packet's payload is reserved or contradictory";
  }
  return "unknown status";
}

DecodeStatus decode_packet(std::span<const uint8_t> bytes, BlockItems& items, Packet& packet) {
  if (bytes.empty()) return DecodeStatus::truncated;
  const uint8_t first = bytes[0];
  packet = Packet{};
  packet.size = 1;
  if ((first & 1) == 0) {
    if (first == 0x00) return DecodeStatus::ok;  // PAD
    if (first == 0x02) return decode_extended(bytes, items, packet);
    // Between BBP and BEP, xxxxx100 starts an item; TNT can't occur there.
    if (items != BlockItems::none && (first & 7) == 4) return decode_item(items, bytes, packet);
    packet.type = PacketType::tnt_short;
    read_tnt(first >> 1, packet);
    return DecodeStatus::ok;
  }
  if ((first & 3) == 3) return decode_cyc(bytes, packet);
  switch (first & 0x1f) {
    case 0x0d:
      return decode_ip(PacketType::tip, bytes, packet);
    case 0x11:
      return decode_ip(PacketType::tip_pge, bytes, packet);
    case 0x01:
      return decode_ip(PacketType::tip_pgd, bytes, packet);
    case 0x1d:
      return decode_ip(PacketType::fup, bytes, packet);
    default:
      break;
  }
  switch (first) {
    case 0x99:
      return decode_mode(bytes, packet);
    case 0x19:
      packet.type = PacketType::tsc;
      packet.size = 8;
      if (bytes.size() < 8) return DecodeStatus::truncated;
      packet.value = little_endian(bytes.data() + 1, 7);
      return DecodeStatus::ok;
    case 0x59:
      packet.type = PacketType::mtc;
      packet.size = 2;
      if (bytes.size() < 2) return DecodeStatus::truncated;
      packet.value = bytes[1];
      return DecodeStatus::ok;
    case 0xd9:
      return decode_trig(bytes, packet);
    default:
      return DecodeStatus::bad_opcode;
  }
}

DecodeStatus apply_errata(DecodeStatus status, std::span<const uint8_t> bytes, Packet& packet,
                          const Errata& errata) {
  if (status == DecodeStatus::ok && packet.type == PacketType::cyc && errata.skd007) {
    constexpr uint8_t first_of_ovf = 0x02, second_of_ovf = 0xf3;
    if (packet.size != 2 || bytes[1] != first_of_ovf) return status;
    if (bytes.size() < 3) return DecodeStatus::truncated;
    if (bytes[2] == second_of_ovf) {
      packet.size = 1;
      packet.value = bytes[0] >> 3;
    }
  }
  if (status == DecodeStatus::bad_payload && packet.type == PacketType::tma && errata.skz84)
    return DecodeStatus::ok;
  return status;
}

size_t rest_of_psb(std::span<const uint8_t> bytes, bool behind_psb) {
  constexpr size_t most_taken = 10;  // by a CYC; an MNT of 11 bytes takes as many
  const size_t size = 2 * psb_pairs(bytes);
  return size >= (behind_psb ? 2 : psb_size - most_taken) ? size : 0;
}

size_t find_psb(std::span<const uint8_t> bytes, size_t from) {
  static constexpr uint8_t pattern[psb_size] = {2, 0x82, 2, 0x82, 2, 0x82, 2, 0x82,
                                                2, 0x82, 2, 0x82, 2, 0x82, 2, 0x82};
  if (from >= bytes.size()) return npos;
  const void* found = memmem(bytes.data() + from, bytes.size() - from, pattern, psb_size);
  if (found == nullptr) return npos;
  return static_cast<size_t>(static_cast<const uint8_t*>(found) - bytes.data());
}

}  // namespace aftercheck::pt
