// Where the items of a random program lie.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "machine/memory_accesses.h"
#include "tests/machine/random_program.h"
#include "tests/machine/random_writer.h"
#include "x86/decode.h"

namespace aftercheck {
namespace {

bool is_long_form_of(const Item& item) { return item.bytes[0] >= 0xe0 && item.bytes[0] <= 0xe3; }

size_t size_of(const Item& item, bool is_long) {
  switch (item.kind) {
    case Item::Kind::label:
      return 0;
    case Item::Kind::call:
      return 5;
    case Item::Kind::jump: {
      const size_t prefix = item.prefixed ? 1 : 0;
      if (!is_long) return prefix + 2;
      if (is_long_form_of(item)) return prefix + 2 + 2 + 5;
      return item.bytes[0] == 0xeb ? 5 : 6;
    }
    default:
      return item.bytes.size();
  }
}

// A jump whose target is out of a byte's reach: LOOP and JRCXZ go to a JMP, past another.
Code jump_code(const Item& item, bool is_long, uint64_t from, uint64_t target) {
  Code code;
  if (item.prefixed) code.push_back(0x67);
  const uint64_t distance = target - from - size_of(item, is_long);
  if (!is_long) {
    code.push_back(item.bytes[0]);
    code.push_back(byte(distance));
    return code;
  }
  if (is_long_form_of(item))
    append(code, Code{item.bytes[0], 2, 0xeb, 5, 0xe9});
  else if (item.bytes[0] == 0xeb)
    code.push_back(0xe9);
  else
    append(code, Code{0x0f, byte(0x80 | (item.bytes[0] & 15))});
  append(code, static_cast<uint32_t>(distance));
  return code;
}

}  // namespace

std::optional<Laid> lay(const Program& program, const std::vector<bool>& left) {
  const auto& items = program.items;
  const auto has = [&](size_t i) { return left.empty() || left[i]; };
  Laid laid;
  laid.start = start_of_slot(program.slot) + program.seed % 0x400;
  std::vector<bool> is_long(items.size());
  std::vector<uint64_t> places(items.size() + 1);
  std::vector<uint64_t> labels;
  for (bool changed = true; changed;) {
    changed = false;
    uint64_t at = laid.start;
    for (size_t i = 0; i < items.size(); ++i) {
      places[i] = at;
      if (has(i)) at += size_of(items[i], is_long[i]);
      if (items[i].kind != Item::Kind::label) continue;
      labels.resize(std::max(labels.size(), items[i].label + 1));
      labels[items[i].label] = places[i];
    }
    places.back() = at;
    for (size_t i = 0; i < items.size(); ++i) {
      if (items[i].kind != Item::Kind::jump || !has(i) || is_long[i]) continue;
      if (fits8(labels[items[i].label] - places[i + 1])) continue;
      is_long[i] = true;
      changed = true;
    }
  }
  if (places.back() > start_of_slot(program.slot) + kProgramSize) return std::nullopt;
  for (size_t i = 0; i < items.size(); ++i) {
    const Item& item = items[i];
    if (!has(i) || item.kind == Item::Kind::label) continue;
    laid.instructions.emplace_back(places[i], places[i + 1]);
    Code code = item.bytes;
    const auto put32 = [&](size_t at, uint64_t target) {
      const auto distance = static_cast<uint32_t>(target - places[i + 1]);
      std::memcpy(&code[at], &distance, sizeof distance);
    };
    if (item.kind == Item::Kind::rip_relative) put32(item.at, item.target);
    if (item.kind == Item::Kind::address_of)
      std::memcpy(&code[item.at], &labels[item.label], sizeof(uint64_t));
    if (item.kind == Item::Kind::jump) code = jump_code(item, is_long[i], places[i], labels[item.label]);
    if (item.kind == Item::Kind::call) {
      code = {0xe8, 0, 0, 0, 0};
      put32(1, labels[item.label]);
    }
    if (laid.end == 0 && item.keeps && item.bytes == Code{0xcc}) laid.end = places[i];
    append(laid.code, code);
  }
  return laid;
}

std::string listing(const Laid& laid) {
  std::string text;
  Code padded = laid.code;
  padded.resize(padded.size() + kLongestInstruction);
  for (const auto& [address, next] : laid.instructions) {
    const auto bytes = std::span(padded).subspan(address - laid.start, next - address);
    std::string hexadecimal;
    for (const uint8_t one : bytes) hexadecimal += fmt::format("{:02x} ", one);
    text += fmt::format("  {:#x}: {:<46}{}\n", address, hexadecimal, x86::disassemble(bytes, address));
  }
  return text;
}

}  // namespace aftercheck
