// Small checkpoints of no guest, for fuzzers and their seeds.
#pragma once

#include <algorithm>

#include "checkpoint/checkpoint.h"

namespace aftercheck::test {

// What a checkpoint of a small guest has: every list with something in it.
inline Checkpoint small_checkpoint(const recording::Digest128& pack, const PageFrame& frame) {
  Checkpoint c;
  c.event = 7;
  c.next = {0, 0, 0};
  c.pages = c.new_pages = 3;
  c.threads.resize(1);
  recording::SpaceOp text, data, shared, file;
  text.kind = shared.kind = file.kind = recording::SpaceOpKind::map_blob;
  text.address = 0x400000, text.length = 0x2000, text.prot = 5, text.name = "/bin/guest", text.blob = pack;
  data.address = 0x402000, data.length = 0x3000, data.prot = 3, data.name = "[heap]";
  shared.kind = recording::SpaceOpKind::map_anonymous;
  shared.address = 0x500000, shared.length = 0x1000, shared.prot = 3, shared.shared = true;
  file.address = 0x600000, file.length = 0x1000, file.prot = 3, file.shared = true, file.new_address = 1;
  c.mappings = {text, data, shared, file};
  c.patches = {{.address = 0x400010,
                .kind = 1,
                .length = 2,
                .operand = 0,
                .operand_bits = 0,
                .original = {0x0f, 0xa2}}};
  c.files = {{1, 0x1000}};
  c.packs = {pack};
  c.frames = {frame};
  c.runs = {{0, 0x402000, 0, 0, 2}, {1, 0, 0, 2, 1}};
  return c;
}

// Pages for it: put into the pack as one frame.
inline std::vector<std::byte> small_pages() {
  std::vector<std::byte> pages(3 * size_t{4096});
  for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<std::byte>(i / 64);
  return pages;
}

}  // namespace aftercheck::test
