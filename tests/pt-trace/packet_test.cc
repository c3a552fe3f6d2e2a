// The packet layer against libipt's, on real traces and on everything libipt's encoder can write.
#include <intel-pt.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <memory>

#include "pt-trace/packet_scanner.h"
#include "pt_data.h"

using namespace aftercheck::pt;
using namespace aftercheck::pt::test;

namespace {

// Our packet as libipt would describe it, so that both can be compared field by field.
struct Plain {
  int type = 0;
  unsigned size = 0;
  uint64_t a = 0, b = 0, c = 0;
  bool operator==(const Plain&) const = default;
};

Plain plain(const pt_packet& p) {
  Plain r{p.type, p.size};
  const auto& v = p.payload;
  switch (p.type) {
    case ppt_tip:
    case ppt_fup:
    case ppt_tip_pge:
    case ppt_tip_pgd:
      r.a = v.ip.ip;
      r.b = v.ip.ipc;
      break;
    case ppt_tnt_8:
    case ppt_tnt_64:
      r.a = v.tnt.payload;
      r.b = v.tnt.bit_size;
      break;
    case ppt_mode:
      r.b = v.mode.leaf;
      r.a = v.mode.leaf == pt_mol_exec ? pt_get_exec_mode(&v.mode.bits.exec)
                                       : v.mode.bits.tsx.intx | v.mode.bits.tsx.abrt << 1;
      break;
    case ppt_pip:
      r.a = v.pip.cr3;
      r.b = v.pip.nr;
      break;
    case ppt_vmcs:
      r.a = v.vmcs.base;
      break;
    case ppt_cbr:
      r.a = v.cbr.ratio;
      break;
    case ppt_tsc:
      r.a = v.tsc.tsc;
      break;
    case ppt_tma:
      r.a = v.tma.ctc;
      r.b = v.tma.fc;
      break;
    case ppt_mtc:
      r.a = v.mtc.ctc;
      break;
    case ppt_cyc:
      r.a = v.cyc.value;
      break;
    case ppt_mnt:
      r.a = v.mnt.payload;
      break;
    case ppt_exstop:
      r.a = v.exstop.ip;
      break;
    case ppt_mwait:
      r.a = v.mwait.hints;
      r.b = v.mwait.ext;
      break;
    case ppt_pwre:
      r.a = v.pwre.state;
      r.b = v.pwre.sub_state;
      r.c = v.pwre.hw;
      break;
    case ppt_pwrx:
      r.a = v.pwrx.last;
      r.b = v.pwrx.deepest;
      r.c = v.pwrx.interrupt | v.pwrx.store << 2 | v.pwrx.autonomous << 3;
      break;
    case ppt_ptw:
      r.a = v.ptw.payload;
      r.b = v.ptw.plc;
      r.c = v.ptw.ip;
      break;
    default:
      break;
  }
  return r;
}

// Indexed by PacketType; 0 is a type that libipt 2.0.5 doesn't know.
constexpr int libipt_type[packet_type_count] = {
    ppt_pad,  ppt_psb,  ppt_psbend, ppt_tnt_8, ppt_tnt_64, ppt_tip, ppt_tip_pge, ppt_tip_pgd,
    ppt_fup,  ppt_mode, ppt_mode,   ppt_pip,   ppt_vmcs,   ppt_cbr, ppt_tsc,     ppt_mtc,
    ppt_tma,  ppt_cyc,  ppt_stop,   ppt_ovf,   ppt_mnt,    ppt_ptw, ppt_exstop,  ppt_mwait,
    ppt_pwre, ppt_pwrx, 0,          0,         0,          0,       0,           0};

Plain plain(const Packet& p) {
  Plain r{libipt_type[static_cast<size_t>(p.type)], p.size};
  switch (p.type) {
    case PacketType::mode_exec:
      r.b = pt_mol_exec;
      r.a = p.aux;
      break;
    case PacketType::mode_tsx:
      r.b = pt_mol_tsx;
      r.a = p.aux;
      break;
    case PacketType::pip:
      r.a = p.value;
      r.b = p.flag;
      break;
    case PacketType::tma:
      r.a = p.value & 0xffff;
      r.b = p.value >> 16;
      break;
    case PacketType::exstop:
      r.a = p.flag;
      break;
    case PacketType::mwait:
      r.a = p.value & 0xffffffff;
      r.b = p.value >> 32;
      break;
    case PacketType::pwre:
      r.a = p.value >> 12 & 15;
      r.b = p.value >> 8 & 15;
      r.c = p.value >> 3 & 1;
      break;
    case PacketType::pwrx:
      r.a = p.value >> 4 & 15;
      r.b = p.value & 15;
      r.c = (p.value >> 8 & 15) & 13;
      break;
    case PacketType::ptw:
      r.a = p.value;
      r.b = p.aux == 8;
      r.c = p.flag;
      break;
    case PacketType::cbr:
      r.a = p.value;
      break;
    case PacketType::psb:
    case PacketType::psbend:
    case PacketType::pad:
    case PacketType::ovf:
      break;
    default:
      r.a = p.value;
      r.b = p.aux;
      break;
  }
  return r;
}

struct Libipt {
  explicit Libipt(std::span<const uint8_t> trace) {
    pt_config config;
    pt_config_init(&config);
    config.begin = const_cast<uint8_t*>(trace.data());
    config.end = config.begin + trace.size();
    decoder.reset(pt_pkt_alloc_decoder(&config));
    REQUIRE(decoder != nullptr);
  }
  struct Free {
    void operator()(pt_packet_decoder* d) const { pt_pkt_free_decoder(d); }
  };
  std::unique_ptr<pt_packet_decoder, Free> decoder;
};

DecodeStatus expected_status(int libipt) {
  switch (libipt) {
    case -pte_eos:
      return DecodeStatus::truncated;
    case -pte_bad_opc:
      return DecodeStatus::bad_opcode;
    case -pte_bad_packet:
      return DecodeStatus::bad_payload;
    default:
      return DecodeStatus::ok;
  }
}

// Every packet from the first PSB to the end; returns how many there were.
size_t compare_whole(std::span<const uint8_t> trace) {
  Libipt libipt(trace);
  REQUIRE(pt_pkt_sync_forward(libipt.decoder.get()) >= 0);
  PacketScanner scanner(trace);
  REQUIRE(scanner.synchronise());
  size_t count = 0;
  for (;; ++count) {
    uint64_t offset = 0;
    pt_packet theirs;
    pt_pkt_get_offset(libipt.decoder.get(), &offset);
    const int status = pt_pkt_next(libipt.decoder.get(), &theirs, sizeof theirs);
    ScannedPacket ours;
    const bool more = scanner.next(ours);
    if (status < 0) {
      REQUIRE(status == -pte_eos);
      REQUIRE_FALSE(more);
      REQUIRE(scanner.error().status == DecodeStatus::ok);
      return count;
    }
    if (!more) FAIL(scanner.error().text());
    if (ours.offset != offset || !(plain(ours.packet) == plain(theirs)))
      FAIL("packet " << count << " at " << offset << ": " << packet_name(ours.packet.type));
  }
}

}  // namespace

TEST_CASE("packet layer equals libipt's on every real trace") {
  PT_DATA_OR_SKIP(folder);
  for (const char* name : {"qemu", "foo", "avscript_32", "icelake_tip", "dynamorio_v2", "dynamorio_v5"}) {
    INFO(name);
    const auto trace = read_file(folder + "/" + name + "/trace.pt");
    REQUIRE(compare_whole(trace) > 20);
  }
}

TEST_CASE("packet layer agrees with libipt on random and mutated bytes, at every offset") {
  Random random(1);
  std::vector<uint8_t> bytes(64);
  for (int round = 0; round < 60000; ++round) {
    for (auto& byte : bytes) byte = static_cast<uint8_t>(random.next());
    // Most interesting packets start with the escape byte; give every second byte of it a fair share.
    if (round % 2 == 0) bytes[0] = 2;
    if (round % 16 == 0)
      for (size_t i = 0; i < 16; ++i) bytes[i] = i % 2 == 0 ? 0x02 : 0x82;
    if (round % 32 == 0) bytes[random.below(16)] ^= static_cast<uint8_t>(1u << random.below(8));
    const size_t size = 1 + random.below(20);
    const std::span<const uint8_t> piece(bytes.data(), size);
    BlockItems items = BlockItems::none;
    Packet ours;
    const DecodeStatus status = decode_packet(piece, items, ours);
    Libipt libipt(piece);
    REQUIRE(pt_pkt_sync_set(libipt.decoder.get(), 0) >= 0);
    pt_packet theirs;
    const int libipt_status = pt_pkt_next(libipt.decoder.get(), &theirs, sizeof theirs);
    INFO("round " << round << " first bytes " << int{bytes[0]} << " " << int{bytes[1]} << " size " << size);
    if (libipt_status == -pte_bad_opc && libipt_type[static_cast<size_t>(ours.type)] == 0) continue;
    if (libipt_status >= 0) {
      REQUIRE(status == DecodeStatus::ok);
      REQUIRE(plain(ours) == plain(theirs));
    } else if (status == DecodeStatus::truncated || libipt_status == -pte_eos) {
      // Which of "too short" and "bad payload" is noticed first is not important, that it is refused is.
      REQUIRE(status != DecodeStatus::ok);
    } else {
      REQUIRE(status == expected_status(libipt_status));
    }
  }
}

TEST_CASE("packets newer than libipt 2.0.5") {
  BlockItems items = BlockItems::none;
  Packet p;
  const uint8_t bbp[] = {0x02, 0x63, 0x84};
  REQUIRE(decode_packet(bbp, items, p) == DecodeStatus::ok);
  REQUIRE(p.type == PacketType::bbp);
  REQUIRE(p.size == 3);
  REQUIRE(p.aux == 4);
  REQUIRE(items == BlockItems::bytes4);
  const uint8_t bip[] = {0x0c, 1, 2, 3, 4};
  REQUIRE(decode_packet(bip, items, p) == DecodeStatus::ok);
  REQUIRE(p.type == PacketType::bip);
  REQUIRE(p.aux == 1);
  REQUIRE(p.value == 0x04030201);
  const uint8_t bep[] = {0x02, 0xb3};
  REQUIRE(decode_packet(bep, items, p) == DecodeStatus::ok);
  REQUIRE(p.type == PacketType::bep);
  REQUIRE(binds_next_fup(p));
  REQUIRE(items == BlockItems::none);
  REQUIRE(decode_packet(bip, items, p) == DecodeStatus::ok);
  REQUIRE(p.type == PacketType::tnt_short);
  const uint8_t cfe[] = {0x02, 0x13, 0x81, 0x0e};
  REQUIRE(decode_packet(cfe, items, p) == DecodeStatus::ok);
  REQUIRE(p.type == PacketType::cfe);
  REQUIRE(p.aux == 1);
  REQUIRE(p.value == 0x0e);
  REQUIRE(p.flag);
  REQUIRE_FALSE(binds_next_fup(p));  // an interrupt: the FUP is also the source of the transfer
  const uint8_t evd[] = {0x02, 0x53, 0x00, 8, 7, 6, 5, 4, 3, 2, 1};
  REQUIRE(decode_packet(evd, items, p) == DecodeStatus::ok);
  REQUIRE(p.type == PacketType::evd);
  REQUIRE(p.value == 0x0102030405060708);
  const uint8_t trig[] = {0xd9, 0xc0, 0x05, 0x34, 0x12};
  REQUIRE(decode_packet(trig, items, p) == DecodeStatus::ok);
  REQUIRE(p.type == PacketType::trig);
  REQUIRE(p.size == 5);
  REQUIRE(p.value == 0x12340005);
  REQUIRE(decode_packet(std::span(trig).first(4), items, p) == DecodeStatus::truncated);
}

TEST_CASE("IP decompression") {
  LastIp ip;
  REQUIRE(ip.update(IpCompression::sext48, 0x8000'1234'5678));
  REQUIRE(ip.value() == 0xffff'8000'1234'5678);
  REQUIRE(ip.update(IpCompression::update16, 0xabcd));
  REQUIRE(ip.value() == 0xffff'8000'1234'abcd);
  REQUIRE(ip.update(IpCompression::update32, 0x11112222));
  REQUIRE(ip.value() == 0xffff'8000'1111'2222);
  REQUIRE(ip.update(IpCompression::update48, 0x7fff'0000'0001));
  REQUIRE(ip.value() == 0xffff'7fff'0000'0001);
  REQUIRE_FALSE(ip.update(IpCompression::suppressed, 0));
  REQUIRE(ip.value() == 0xffff'7fff'0000'0001);
  REQUIRE(ip.update(IpCompression::full, 0x0123'4567'89ab'cdef));
  REQUIRE(ip.value() == 0x0123'4567'89ab'cdef);
}

TEST_CASE("errors name the exact offset, and the scan goes on at the next PSB") {
  std::vector<uint8_t> trace = {0xff, 0x00};
  for (int i = 0; i < 8; ++i) trace.insert(trace.end(), {0x02, 0x82});
  trace.insert(trace.end(), {0x02, 0x23, 0x05});  // PSBEND, then a byte no packet starts with
  const size_t bad = trace.size() - 1;
  for (int i = 0; i < 8; ++i) trace.insert(trace.end(), {0x02, 0x82});
  trace.insert(trace.end(), {0x02, 0x23, 0x02});
  PacketScanner scanner(trace, 0x1000);
  ScannedPacket packet;
  REQUIRE(scanner.synchronise());
  REQUIRE(scanner.offset() == 0x1002);
  REQUIRE(scanner.next(packet));
  REQUIRE(scanner.next(packet));
  REQUIRE_FALSE(scanner.next(packet));
  REQUIRE(scanner.error().offset == 0x1000 + bad);
  REQUIRE(scanner.error().text() ==
          "offset 0x1014: no Intel PT packet starts with these bytes (05 02 82 02)");
  REQUIRE(scanner.synchronise());
  REQUIRE(scanner.next(packet));
  REQUIRE(packet.packet.type == PacketType::psb);
  REQUIRE(scanner.next(packet));
  REQUIRE_FALSE(scanner.next(packet));
  REQUIRE(scanner.error().status == DecodeStatus::truncated);
  REQUIRE_FALSE(scanner.synchronise());
  REQUIRE_FALSE(scanner.next(packet));
  REQUIRE(scanner.error().status == DecodeStatus::ok);
}
