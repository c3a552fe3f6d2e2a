// What the fast loops of the branch stream and the flow decoder share. Internal to pt-trace.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>

#include "pt-trace/packet.h"

namespace aftercheck::pt {

inline uint64_t load64(const uint8_t* at) {
  uint64_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

// What the first byte of a packet asks of a fast loop.
enum class ByteClass : uint8_t {
  pad,
  tnt,
  escape,
  tip,
  pge,
  pgd,
  fup,
  mode,
  cyc,
  mtc,
  tsc,
  other
};  // cyc: of one byte

constexpr std::array<ByteClass, 256> make_byte_classes() {
  std::array<ByteClass, 256> table{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    ByteClass c = ByteClass::other;
    const bool ip_ok = ip_payload_size[byte >> 5] != 0xff;
    if (byte == 0)
      c = ByteClass::pad;
    else if (byte == 2)
      c = ByteClass::escape;
    else if ((byte & 1) == 0)
      c = ByteClass::tnt;
    else if ((byte & 0x1f) == 0x0d && ip_ok)
      c = ByteClass::tip;
    else if ((byte & 0x1f) == 0x11 && ip_ok)
      c = ByteClass::pge;
    else if ((byte & 0x1f) == 0x01 && ip_ok)
      c = ByteClass::pgd;
    else if ((byte & 0x1f) == 0x1d && ip_ok)
      c = ByteClass::fup;
    else if (byte == 0x99)
      c = ByteClass::mode;
    else if ((byte & 7) == 3)
      c = ByteClass::cyc;
    else if (byte == 0x59)
      c = ByteClass::mtc;
    else if (byte == 0x19)
      c = ByteClass::tsc;
    table[byte] = c;
  }
  return table;
}
inline constexpr auto first_byte_class = make_byte_classes();

// Outcomes of a short TNT packet; count 0 for every other first byte.
struct ShortTnt {
  uint8_t count;
  uint8_t bits;
};

constexpr std::array<ShortTnt, 256> make_short_tnt() {
  std::array<ShortTnt, 256> table{};
  for (unsigned byte = 4; byte < 256; byte += 2) {
    const unsigned count = static_cast<unsigned>(std::bit_width(byte)) - 2;
    table[byte] = {static_cast<uint8_t>(count), static_cast<uint8_t>((byte >> 1) & ((1u << count) - 1))};
  }
  return table;
}
inline constexpr auto short_tnt = make_short_tnt();

inline constexpr uint64_t each_byte(uint64_t byte) { return byte * 0x0101010101010101; }

// True when the next 8 bytes are short TNT packets of six outcomes each, as in code with few indirect
// branches.
inline bool are_full_tnts(const uint8_t* at) { return (load64(at) & each_byte(0x81)) == each_byte(0x80); }

// Their 48 outcomes, the oldest in the highest bit.
inline uint64_t full_tnt_bits(const uint8_t* at) {
  uint64_t word = __builtin_bswap64(load64(at)) >> 1 & each_byte(0x3f);
  // Closes the gaps: 6 bits a byte, 12 in 16, 24 in 32, 48 in 64.
  word = (word & 0x003f003f003f003f) | (word & 0x3f003f003f003f00) >> 2;
  word = (word & 0x00000fff00000fff) | (word & 0x0fff00000fff0000) >> 4;
  return (word & 0xffffff) | (word >> 32 & 0xffffff) << 24;
}

// Size of extended packets that say nothing about control flow, by their second byte; 0 for others.
constexpr std::array<uint8_t, 256> make_ignored() {
  std::array<uint8_t, 256> table{};
  table[0x43] = 8;  // PIP
  table[0xc8] = 7;  // VMCS
  table[0x03] = 4;  // CBR
  return table;
}
inline constexpr auto ignored_extended = make_ignored();

// Steps over PAD packets (8 readable bytes behind `end`). Byte by byte on purpose: the processor predicts
// where runs end, while a vector comparison would make the position of the next packet wait for its result
// (measured: 10 % slower).
inline const uint8_t* skip_padding(const uint8_t* at, const uint8_t* end) {
  while (at < end && load64(at) == 0) at += 8;
  while (at < end && *at == 0) ++at;
  return at;
}

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

// A few PSB+ without an IP (as sent while tracing is off) and their effect. A PSB+ depends on nothing before
// it, so equal bytes have equal effects; real traces of a guest repeat the same few at every entry.
class KnownPsb {
 public:
  struct Entry {
    size_t size = 0;
    ExecMode mode = ExecMode::unknown;  // unknown: the PSB+ has no MODE.Exec
    uint8_t bytes[128];                 // the first `size` are set
  };

  void begin(const uint8_t* at) {
    begin_ = at;
    seen_mode_ = ExecMode::unknown;
  }
  void forget_begin() { begin_ = nullptr; }
  void mode_seen(ExecMode mode) { seen_mode_ = mode; }
  // The PSB+ ends before `at`; one byte behind the chunk is `chunk_end`.
  void end(const uint8_t* at, const uint8_t* chunk_end) {
    const uint8_t* from = begin_;
    begin_ = nullptr;
    // One with an IP is hardly ever repeated, and must not push out one that is.
    if (from == nullptr || static_cast<size_t>(chunk_end - from) < looked_at ||
        static_cast<size_t>(at - from) > sizeof Entry::bytes || !only_status(from, at))
      return;
    Entry& entry = entries_[index(from)];
    entry.size = static_cast<size_t>(at - from);
    entry.mode = seen_mode_;
    std::memcpy(entry.bytes, from, entry.size);
  }
  // The entry that equals the bytes at `at`, or null.
  const Entry* find(const uint8_t* at, const uint8_t* end) const {
    const auto available = static_cast<size_t>(end - at);
    if (available < looked_at) return nullptr;
    const Entry& entry = entries_[index(at)];
    const bool same =
        entry.size != 0 && available >= entry.size && std::memcmp(at, entry.bytes, entry.size) == 0;
    return same ? &entry : nullptr;
  }

 private:
  // Bytes behind the PSB that choose the entry; they include PIP, VMCS and CBR, which differ between PSB+.
  static constexpr size_t looked_at = 56;
  static size_t index(const uint8_t* at) {
    uint64_t sum = 0;
    for (size_t i = psb_size; i < looked_at; i += 8) {
      uint64_t word;
      std::memcpy(&word, at + i, sizeof word);
      sum = sum * 31 + word;
    }
    return sum * 0x9e3779b97f4a7c15 >> 60;
  }

  // False for FUP, and when damaged or hostile bytes put packets with effects of their own between PSB and
  // PSBEND.
  static bool only_status(const uint8_t* from, const uint8_t* end) {
    BlockItems items = BlockItems::none;
    Packet packet;
    for (; from < end; from += packet.size) {
      if (decode_packet({from, end}, items, packet) != DecodeStatus::ok) return false;
      switch (packet.type) {
        case PacketType::psb:
        case PacketType::psbend:
        case PacketType::pad:
        case PacketType::tsc:
        case PacketType::tma:
        case PacketType::pip:
        case PacketType::vmcs:
        case PacketType::cbr:
        case PacketType::mode_exec:
        case PacketType::mode_tsx:
          break;
        default:
          return false;
      }
    }
    return true;
  }

  std::array<Entry, 16> entries_;
  const uint8_t* begin_ = nullptr;
  ExecMode seen_mode_ = ExecMode::unknown;
};

}  // namespace aftercheck::pt
