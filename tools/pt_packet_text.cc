#include "tools/pt_packet_text.h"

#include <fmt/format.h>

namespace aftercheck::tools {
namespace {

using pt::Packet;
using pt::PacketType;
using pt::ScannedPacket;

// Outcomes, the oldest first: T taken, N not.
std::string outcomes(const Packet& packet) {
  std::string text;
  for (unsigned i = packet.aux; i-- > 0;) text += (packet.value >> i & 1) != 0 ? 'T' : 'N';
  return text;
}

std::string mode_text(uint8_t aux) {
  switch (static_cast<pt::ExecMode>(aux)) {
    case pt::ExecMode::bits16:
      return "16-bit";
    case pt::ExecMode::bits32:
      return "32-bit";
    case pt::ExecMode::bits64:
      return "64-bit";
    case pt::ExecMode::unknown:
      break;
  }
  return "unknown mode";
}

std::string transaction_text(uint8_t flags) {
  if ((flags & 2) != 0) return "transaction aborted";
  return (flags & 1) != 0 ? "in a transaction" : "no transaction";
}

// Hexadecimal value with "FUP follows" where the packet announces one.
std::string with_fup(const std::string& text, bool follows) {
  return follows ? text + ", FUP follows" : text;
}

std::string branch_text(const ScannedPacket& scanned) {
  if (!scanned.has_ip) return "no address";
  return fmt::format("{:#x}", scanned.ip);
}

}  // namespace

std::string packet_details(const ScannedPacket& scanned) {
  const Packet& p = scanned.packet;
  switch (p.type) {
    case PacketType::tnt_short:
    case PacketType::tnt_long:
      return outcomes(p);
    case PacketType::tip:
    case PacketType::tip_pge:
    case PacketType::tip_pgd:
    case PacketType::fup:
      return branch_text(scanned);
    case PacketType::mode_exec:
      return mode_text(p.aux);
    case PacketType::mode_tsx:
      return transaction_text(p.aux);
    case PacketType::pip:
      return fmt::format("cr3 {:#x}{}", p.value, p.flag ? ", non-root" : "");
    case PacketType::vmcs:
    case PacketType::tsc:
    case PacketType::mnt:
      return fmt::format("{:#x}", p.value);
    case PacketType::cbr:
    case PacketType::mtc:
    case PacketType::cyc:
      return fmt::format("{}", p.value);
    case PacketType::tma:
      return fmt::format("ctc {}, fast {}", p.value & 0xffff, p.value >> 16);
    case PacketType::ptw:
      return with_fup(fmt::format("{:#x}, {} bytes", p.value, p.aux), p.flag);
    case PacketType::exstop:
    case PacketType::bep:
      return p.flag ? "FUP follows" : "";
    case PacketType::mwait:
      return fmt::format("hints {:#x}, extensions {:#x}", p.value & 0xffffffff, p.value >> 32);
    case PacketType::pwre:
    case PacketType::pwrx:
      return fmt::format("{:#x}", p.value);
    case PacketType::bbp:
      return fmt::format("type {}, items of {} bytes", p.aux, p.flag ? 4 : 8);
    case PacketType::bip:
      return fmt::format("id {}, {:#x}", p.aux, p.value);
    case PacketType::cfe:
      return with_fup(fmt::format("type {}, vector {}", p.aux, p.value), p.flag);
    case PacketType::evd:
      return fmt::format("type {}, {:#x}", p.aux, p.value);
    case PacketType::trig:
      return with_fup(fmt::format("{:#x}", p.value), p.flag);
    case PacketType::pad:
    case PacketType::psb:
    case PacketType::psbend:
    case PacketType::trace_stop:
    case PacketType::ovf:
      break;
  }
  return "";
}

Json packet_json(const ScannedPacket& scanned) {
  const Packet& p = scanned.packet;
  Json json{{"offset", scanned.offset}, {"packet", pt::packet_name(p.type)}, {"size", p.size}};
  switch (p.type) {
    case PacketType::tnt_short:
    case PacketType::tnt_long:
      json["outcomes"] = outcomes(p);
      break;
    case PacketType::tip:
    case PacketType::tip_pge:
    case PacketType::tip_pgd:
    case PacketType::fup:
      json["address"] = scanned.has_ip ? Json(fmt::format("{:#x}", scanned.ip)) : Json(nullptr);
      json["compression"] = p.aux;
      break;
    default:
      if (const std::string text = packet_details(scanned); !text.empty()) json["details"] = text;
  }
  return json;
}

}  // namespace aftercheck::tools
