// Intel PT packets (Intel SDM vol. 3, chapter "Intel Processor Trace", section "Trace Packets and Data
// Types").
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "pt-trace/errata.h"

namespace aftercheck::pt {

enum class PacketType : uint8_t {
  pad,
  psb,
  psbend,
  tnt_short,
  tnt_long,
  tip,
  tip_pge,
  tip_pgd,
  fup,
  mode_exec,
  mode_tsx,
  pip,
  vmcs,
  cbr,
  tsc,
  mtc,
  tma,
  cyc,
  trace_stop,
  ovf,
  mnt,
  ptw,
  exstop,
  mwait,
  pwre,
  pwrx,
  bbp,
  bip,
  bep,
  cfe,
  evd,
  trig,
};
constexpr size_t packet_type_count = static_cast<size_t>(PacketType::trig) + 1;

// The manual's name ("TIP.PGE").
std::string_view packet_name(PacketType type);

// How the IP payload of TIP, TIP.PGE, TIP.PGD and FUP is compressed: bits 7:5 of the first byte (table
// "FUP/TIP IP Payload" of the manual). 5 and 7 are reserved.
enum class IpCompression : uint8_t {
  suppressed = 0,
  update16 = 1,
  update32 = 2,
  sext48 = 3,
  update48 = 4,
  full = 6
};

// Bytes of IP payload for a value of bits 7:5; 0xff for reserved values.
inline constexpr uint8_t ip_payload_size[8] = {0, 2, 4, 6, 6, 0xff, 8, 0xff};

enum class ExecMode : uint8_t { unknown, bits16, bits32, bits64 };
// By bits 1:0 of MODE.Exec: CS.D and (CS.L and IA32_EFER.LMA).
inline constexpr ExecMode exec_modes[4] = {ExecMode::bits16, ExecMode::bits64, ExecMode::bits32,
                                           ExecMode::unknown};

// One packet. What `value`, `aux` and `flag` mean depends on the type:
//   tnt_*     value: outcomes, the oldest in the highest of `aux` bits (1 = taken)
//   tip* fup  value: raw IP payload, zero-extended; aux: IpCompression
//   mode_exec aux: ExecMode; flag: interrupt flag (only meaningful with event tracing)
//   mode_tsx  aux: bit 0 in transaction, bit 1 aborted
//   pip       value: CR3 with the low 5 bits zero; flag: VMX non-root
//   vmcs      value: VMCS base address            cbr  value: core:bus ratio
//   tsc       value: low 56 bits                  mtc  value: 8 bits of CTC
//   tma       value: CTC; aux: not used; fast counter in bits 31:16 of value
//   cyc       value: cycles                       mnt  value: payload
//   ptw       value: payload; aux: its size in bytes; flag: a FUP follows
//   exstop    flag: a FUP follows
//   mwait     value: hints in bits 31:0, extensions in 63:32
//   pwre      value: payload (bits 15:12 state, 11:8 sub-state, 3 hardware)
//   pwrx      value: payload (bits 3:0 deepest, 7:4 last, 11:8 wake reason)
//   bbp       aux: type; flag: items have 4 bytes, not 8
//   bip       value: payload; aux: id             bep  flag: a FUP follows
//   cfe       value: vector; aux: type; flag: a FUP follows
//   evd       value: payload; aux: type
//   trig      value: bits 7:0 trigger bit vector, 31:16 instruction count where aux bit 6 is set; aux: flags
//   byte;
//             flag: a FUP follows
struct Packet {
  uint64_t value = 0;
  PacketType type = PacketType::pad;
  uint8_t size = 0;  // bytes in the trace
  uint8_t aux = 0;
  bool flag = false;
};

enum class DecodeStatus : uint8_t {
  ok,
  truncated,    // the bytes end inside the packet
  bad_opcode,   // no packet starts like this
  bad_payload,  // reserved or contradictory payload
};
std::string_view status_text(DecodeStatus status);

// Size of BIP items while between BBP and BEP; there the bytes of short TNT mean BIP, so the decoder must
// know.
enum class BlockItems : uint8_t { none, bytes8, bytes4 };

// Decodes the packet at the start of `bytes` (at most 16 are looked at, CYC up to 10). Never reads outside
// the span and never throws; `packet` is valid only for ok. `items` is the caller's state between packets:
// start with none, reset it to none at every PSB (also done here) and after losing synchronisation.
DecodeStatus decode_packet(std::span<const uint8_t> bytes, BlockItems& items, Packet& packet);
// What decode_packet() below makes of an answer of decode_packet() above.
DecodeStatus apply_errata(DecodeStatus status, std::span<const uint8_t> bytes, Packet& packet,
                          const Errata& errata);
// The same on a processor with these errata: SKD007, where a CYC of two bytes is one of one byte and the
// first byte of an OVF (`truncated` as long as that is not seen, though without more bytes it is that CYC),
// and SKZ84, where a corrupted TMA is one all the same.
inline DecodeStatus decode_packet(std::span<const uint8_t> bytes, BlockItems& items, Packet& packet,
                                  const Errata& errata) {
  const DecodeStatus status = decode_packet(bytes, items, packet);
  const bool concerned = status == DecodeStatus::bad_payload || packet.type == PacketType::cyc;
  return concerned && (errata.skd007 || errata.skz84) ? apply_errata(status, bytes, packet, errata) : status;
}

// Bytes of the PSB packet: 02 82 eight times.
constexpr size_t psb_size = 16;

// The longest packet. CYC may be longer in theory (15), but its value is limited to 64 bits here, as in
// libipt.
constexpr size_t max_packet_size = 16;

// Offset of the next whole PSB at or after `from`; npos when there is none.
constexpr size_t npos = static_cast<size_t>(-1);
size_t find_psb(std::span<const uint8_t> bytes, size_t from);

// Where bytes behind a packet are no packet: what is left of a PSB whose beginning that packet took for its
// own, because it was cut off there (as when tracing stops and begins anew). Its size in bytes, 0 where there
// is no such PSB. Any packet takes 10 bytes at most; a PSB that was itself cut off by another (`behind_psb`)
// may take all but the last two.
size_t rest_of_psb(std::span<const uint8_t> bytes, bool behind_psb);

// True when the next FUP, if it comes before a branch, belongs to the packet instead of starting an
// asynchronous transfer (manual: "Event Trace", tables of CFE and MODE.Exec packets).
constexpr bool binds_next_fup(const Packet& packet) {
  switch (packet.type) {
    case PacketType::ptw:
    case PacketType::exstop:
    case PacketType::bep:
    case PacketType::trig:
      return packet.flag;
    case PacketType::cfe:
      // Behind the CFE of an instruction (IRET, RSM, VM entry, UIRET) the FUP only tells where that is: the
      // instruction was executed. That of an interrupt, SMI, INIT, SIPI, VM exit or shutdown also starts the
      // transfer.
      return packet.flag && (packet.aux == 2 || packet.aux == 4 || packet.aux == 7 || packet.aux == 13);
    case PacketType::mode_exec:
      // With event tracing, sent for a change of the interrupt flag: a FUP tells which instruction changed
      // it. Where the mode changes with a branch, TIP or TIP.PGE comes first. (Not in PSB+, where all packets
      // only tell the state.)
      return true;
    default:
      return false;
  }
}

// IP decompression (manual: "FUP/TIP IP Payload"). PSB clears the last IP.
class LastIp {
 public:
  // Applies one payload. False when the IP was suppressed: value() is unchanged then.
  bool update(IpCompression compression, uint64_t payload) {
    switch (compression) {
      case IpCompression::suppressed:
        return false;
      case IpCompression::update16:
        value_ = (value_ & ~uint64_t{0xffff}) | payload;
        return true;
      case IpCompression::update32:
        value_ = (value_ & ~uint64_t{0xffffffff}) | payload;
        return true;
      case IpCompression::update48:
        value_ = (value_ & ~uint64_t{0xffffffffffff}) | payload;
        return true;
      case IpCompression::sext48:
        value_ = static_cast<uint64_t>(static_cast<int64_t>(payload << 16) >> 16);
        return true;
      case IpCompression::full:
        value_ = payload;
        return true;
    }
    return false;
  }
  void reset() { value_ = 0; }
  void set(uint64_t value) { value_ = value; }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0;
};

}  // namespace aftercheck::pt
