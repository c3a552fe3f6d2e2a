// Forged checkpoints: fields changed and checksums right.
#include <zstd.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <random>

#include "checkpoint_fixture.h"
#include "sealed_checkpoint.h"

namespace aftercheck::test {
namespace {

using Catch::Matchers::Contains;
using Change = std::function<void(Checkpoint&)>;

constexpr uint64_t kForged = 40;  // the event of the checkpoint that is changed

void forge(const Copy& copy, const Change& change) {
  Checkpoint checkpoint = Checkpoints::load(copy.at(kForged));
  change(checkpoint);
  write_checkpoint(copy.path(), checkpoint);
}

// A page of guest memory that the guest reads after the checkpoint: `table` and the shared memory are all.
void forge_page(const Copy& copy) {
  Checkpoint checkpoint = Checkpoints::load(copy.at(kForged));
  recording::Store store(copy.path(), false);
  std::vector<std::byte> pages;
  const PageRun* changed = nullptr;
  read_pages(checkpoint, store, [&](const PageRun& run, std::span<const std::byte> bytes) {
    if (changed != nullptr || run.file != 0) return;
    changed = &run;
    pages.assign(bytes.begin(), bytes.end());
  });
  REQUIRE(changed != nullptr);
  for (std::byte& byte : pages) byte ^= std::byte{0x55};
  Bytes frame(ZSTD_compressBound(pages.size()));
  frame.resize(ZSTD_compress(frame.data(), frame.size(), pages.data(), pages.size(), 1));
  recording::Store::NewBlob pack(store);
  pack.append(frame);
  checkpoint.packs.push_back(pack.keep());
  const PageFrame forged_frame{static_cast<uint32_t>(checkpoint.packs.size() - 1), 0,
                               static_cast<uint32_t>(frame.size()), changed->pages,
                               recording::digest128(std::span<const std::byte>(frame))};
  PageRun run = *changed;
  checkpoint.frames.push_back(forged_frame);
  run.frame = static_cast<uint32_t>(checkpoint.frames.size() - 1);
  run.first_page = 0;
  checkpoint.runs.push_back(run);
  write_checkpoint(copy.path(), checkpoint);
}

template <typename T>
void swap_ends(std::vector<T>& list) {
  REQUIRE(list.size() > 1);
  std::swap(list.front(), list.back());
}

struct Case {
  const char* name;
  const char* message;  // part of the warning
  Change change;
};

const std::vector<Case>& refused() {
  static const std::vector<Case> cases = {
      {"no thread", "0 threads", [](Checkpoint& c) { c.threads.clear(); }},
      {"a thread twice", "thread 0 is out of order",
       [](Checkpoint& c) { c.threads.push_back(c.threads[0]); }},
      {"thread of another number", "thread 0, which was never started",
       [](Checkpoint& c) { c.threads[0].number = 1; }},
      {"segment base", "not canonical",
       [](Checkpoint& c) { c.threads[0].registers.fs_base = uint64_t{1} << 63; }},
      {"MXCSR", "MXCSR", [](Checkpoint& c) { c.threads[0].fpu.fxsave[27] = std::byte{0x80}; }},
      {"mapping outside the windows", "a mapping of", [](Checkpoint& c) { c.mappings[0].address = 0x1000; }},
      {"mapping of ours", "a mapping of", [](Checkpoint& c) { c.mappings.back().address = 0x7f0000000000; }},
      {"mapping over the host's own", "a mapping of",
       [](Checkpoint& c) { c.mappings.back().length = 0x4000'0000'0000; }},
      {"mapping of 2^64 - 4096", "a mapping of",
       [](Checkpoint& c) { c.mappings[0].length = ~uint64_t{4095}; }},
      {"mapping of odd length", "a mapping of", [](Checkpoint& c) { c.mappings[0].length += 1; }},
      {"mapping of no length", "a mapping of", [](Checkpoint& c) { c.mappings[0].length = 0; }},
      {"unordered mappings", "a mapping of", [](Checkpoint& c) { swap_ends(c.mappings); }},
      {"overlapping mappings", "a mapping of", [](Checkpoint& c) { c.mappings[0].length += kPageSize; }},
      {"protection", "protection", [](Checkpoint& c) { c.mappings[0].prot |= 0x100; }},
      {"blob that does not exist", "missing",
       [](Checkpoint& c) {
         for (auto& op : c.mappings)
           if (op.blob != recording::Digest128{}) op.blob[3] ^= 1;
       }},
      {"offset in a blob", "",
       [](Checkpoint& c) {
         for (auto& op : c.mappings)
           if (op.blob != recording::Digest128{}) op.blob_offset = ~uint64_t{4095};
       }},
      {"shared mapping of file 0", "without a number",
       [](Checkpoint& c) {
         for (auto& op : c.mappings)
           if (op.kind == recording::SpaceOpKind::map_blob && op.shared) op.new_address = 0;
       }},
      {"shared mapping's offset", "offset",
       [](Checkpoint& c) {
         for (auto& op : c.mappings)
           if (op.kind == recording::SpaceOpKind::map_blob && op.shared) op.new_length = 100;
       }},
      {"shared mapping far out", "offset",
       [](Checkpoint& c) {
         for (auto& op : c.mappings)
           if (op.kind == recording::SpaceOpKind::map_blob && op.shared) op.new_length = ~uint64_t{4095};
       }},
      {"file 0", "shared file 0", [](Checkpoint& c) { c.files[0].number = 0; }},
      {"file twice", "shared file", [](Checkpoint& c) { c.files.push_back(c.files[0]); }},
      {"file of 2^44 bytes", "shared file", [](Checkpoint& c) { c.files[0].length = uint64_t{1} << 44; }},
      {"file that is too short", "can't be", [](Checkpoint& c) { c.files[0].length = 0; }},
      {"a million files", "",
       [](Checkpoint& c) {
         for (uint64_t i = 0; i < 100'000; ++i) c.files.push_back({c.files.back().number + 1, 4096});
       }},
      {"patch of no length", "code patch", [](Checkpoint& c) { c.patches.at(0).length = 0; }},
      {"patch that is too long", "code patch", [](Checkpoint& c) { c.patches.at(0).length = 255; }},
      {"patch of another kind", "code patch", [](Checkpoint& c) { c.patches.at(0).kind = 255; }},
      {"patch elsewhere", "code patch", [](Checkpoint& c) { c.patches.at(0).address += 1; }},
      {"patch outside", "code patch", [](Checkpoint& c) { c.patches.at(0).address = ~uint64_t{0}; }},
      {"patch of other code", "code patch", [](Checkpoint& c) { c.patches.at(0).original[0] ^= 1; }},
      {"patch twice", "code patch", [](Checkpoint& c) { c.patches.push_back(c.patches.at(0)); }},
      {"pack of a frame", "frame 0", [](Checkpoint& c) { c.frames[0].pack = 1000; }},
      {"frame of no pages", "frame 0", [](Checkpoint& c) { c.frames[0].pages = 0; }},
      {"frame of many pages", "frame 0", [](Checkpoint& c) { c.frames[0].pages = 1 << 30; }},
      {"frame of more pages than it has", "pages at offset",
       [](Checkpoint& c) { c.frames[0].pages = kFramePages; }},
      {"frame of no bytes", "frame 0", [](Checkpoint& c) { c.frames[0].length = 0; }},
      {"frame of 4 GiB", "frame 0", [](Checkpoint& c) { c.frames[0].length = UINT32_MAX; }},
      {"frame that is too long", "pages at offset", [](Checkpoint& c) { c.frames[0].length += 1; }},
      {"frame that is cut", "pages at offset", [](Checkpoint& c) { c.frames[0].length -= 1; }},
      {"frame beyond its pack", "beyond", [](Checkpoint& c) { c.frames[0].offset = ~uint64_t{0}; }},
      {"frame elsewhere", "pages at offset", [](Checkpoint& c) { c.frames[0].offset += 1; }},
      {"frame of another digest", "another digest", [](Checkpoint& c) { c.frames[0].digest[0] ^= 1; }},
      {"pack that does not exist", "missing",
       [](Checkpoint& c) {
         for (auto& pack : c.packs) pack[0] ^= 1;
       }},
      {"run outside", "can't be", [](Checkpoint& c) { c.runs[0].address = 0x7f0000000000; }},
      {"run at an odd address", "can't be", [](Checkpoint& c) { c.runs[0].address += 1; }},
      {"run where nothing is mapped", "not mapped",
       [](Checkpoint& c) {
         for (auto& run : c.runs)
           if (run.file == 0) run.address = 0x6f000000;
       }},
      {"run of no pages", "0 pages", [](Checkpoint& c) { c.runs[0].pages = 0; }},
      {"run of 2^32 pages", "can't be", [](Checkpoint& c) { c.runs[0].pages = UINT32_MAX; }},
      {"run beyond its frame", "can't be", [](Checkpoint& c) { c.runs[0].first_page = UINT32_MAX; }},
      {"run of another frame", "can't be", [](Checkpoint& c) { c.runs[0].frame = 1 << 20; }},
      {"unordered runs", "can't be", [](Checkpoint& c) { swap_ends(c.runs); }},
      {"run of a file that is not there", "can't be", [](Checkpoint& c) { c.runs[0].file = 99; }},
      {"run beyond a file's end", "can't be",
       [](Checkpoint& c) {
         for (auto& run : c.runs)
           if (run.file != 0) run.address = ~uint64_t{4095};
       }},
      {"another chunk's offset", "", [](Checkpoint& c) { c.next.chunk_offset += 8; }},
      {"an offset beyond the log", "", [](Checkpoint& c) { c.next.chunk_offset = uint64_t{1} << 62; }},
      {"another sequence", "", [](Checkpoint& c) { c.next.chunk_sequence += 1; }},
      {"another first event", "", [](Checkpoint& c) { c.next.chunk_first_event += 1; }},
  };
  return cases;
}

// Fields that only the run shows to be wrong.
const std::vector<Case>& diverging() {
  static const std::vector<Case> cases = {
      {"register", "", [](Checkpoint& c) { c.threads[0].registers.rbx ^= 1; }},
      {"stack pointer", "", [](Checkpoint& c) { c.threads[0].registers.rsp = 0; }},
      {"RIP", "", [](Checkpoint& c) { c.threads[0].registers.rip = 0x123456789000; }},
      {"SSE register", "", [](Checkpoint& c) { c.threads[0].fpu.fxsave[160 + 15 * 16] ^= std::byte{1}; }},
      {"running digest", "", [](Checkpoint& c) { c.threads[0].digest ^= 1; }},
      {"a mapping left out", "",
       [](Checkpoint& c) {
         std::erase_if(c.mappings, [](const auto& op) { return op.shared; });
         std::erase_if(c.runs, [](const auto& run) { return run.address > 0x200000000000; });
       }},
      {"trapped instructions left out", "", [](Checkpoint& c) { c.patches.clear(); }},
      {"pages left out", "", [](Checkpoint& c) { c.runs.clear(); }},
  };
  return cases;
}

}  // namespace

TEST_CASE("forged checkpoints: what can't be is named, and the one before serves") {
  for (const fs::path& recording : {recorded_with_checkpoints(), checkpointed_later()})
    for (const Case& c : refused()) {
      INFO(c.name);
      const Copy copy(recording);
      forge(copy, c.change);
      const Run run = run_from(copy.path(), kForged);
      INFO(run.error);
      CHECK(ended_well(run));
      CHECK(run.result.checkpoint == kForged - 1);
      REQUIRE(run.warnings.size() == 1);
      CHECK_THAT(run.warnings[0], Contains("checkpoint at event 40") && Contains(c.message));
    }
}

TEST_CASE("forged checkpoints: what only the run shows is a divergence that names the checkpoint") {
  for (const Case& c : diverging()) {
    INFO(c.name);
    const Copy copy(recorded_with_checkpoints());
    forge(copy, c.change);
    const Run run = run_from(copy.path(), kForged);
    INFO(run.error);
    CHECK(run.divergence);
    CHECK_THAT(run.error, Contains("started from the checkpoint at event 40"));
    CHECK(ended_well(run_from(copy.path(), kForged - 1)));
  }
  const Copy copy(recorded_with_checkpoints());
  forge_page(copy);
  const Run run = run_from(copy.path(), kForged);
  CHECK(run.divergence);
  CHECK_THAT(run.error, Contains("started from the checkpoint at event 40"));
}

TEST_CASE("forged checkpoints: another event's under this one's name") {
  const Copy copy(recorded_with_checkpoints());
  fs::copy_file(copy.at(kForged - 5).file, copy.at(kForged).file, fs::copy_options::overwrite_existing);
  const Run run = run_from(copy.path(), kForged);
  CHECK(ended_well(run));
  REQUIRE(run.warnings.size() == 1);
  CHECK_THAT(run.warnings[0], Contains("event 35, not at event 40"));
}

TEST_CASE("forged checkpoints: of an event that the log does not have") {
  const Copy copy(recorded_with_checkpoints());
  Checkpoint checkpoint = Checkpoints::load(copy.at(kForged));
  for (const uint64_t event : {uint64_t{100'000}, UINT64_MAX - 1}) {
    checkpoint.event = event;
    write_checkpoint(copy.path(), checkpoint);
  }
  const Run run = run_from(copy.path(), UINT64_MAX);
  INFO(run.error);
  CHECK(ended_well(run));
  // The file names have room for twelve digits; of more the name is longer.
  CHECK(run.warnings.size() == 2);
}

TEST_CASE("forged checkpoints: no command is harmed") {
  const Copy copy(recorded_with_checkpoints());
  forge(copy, [](Checkpoint& c) { c.next.chunk_offset += 8; });
  CHECK(run_tool({"info", "recording"}, copy.place()).status == 0);
  CHECK(run_tool({"replay", "-q", "recording"}, copy.place()).status == 0);
  CHECK(run_tool({"replay", "--from", "e40", "recording"}, copy.place()).status == 0);
  CHECK(run_tool({"check", "recording"}, copy.place()).status == 0);
  CHECK(run_tool({"check", "--jobs", "3", "recording"}, copy.place()).status == 0);
  Checkpoint last = Checkpoints::load(copy.all().back());
  last.next = {12345, 3, 2};
  last.work_ns = UINT64_MAX;
  write_checkpoint(copy.path(), last);
  const Finished checked = run_tool({"check", "--jobs", "3", "recording"}, copy.place());
  INFO(checked.err);
  CHECK(checked.status == 0);
}

TEST_CASE("forged checkpoints: mutated payloads never harm the reader") {
  const Copy copy(recorded_with_checkpoints());
  const Checkpoints::Known known = copy.at(kForged);
  const std::string text = read_file(known.file);
  const std::vector<Bytes> payloads = payloads_of(std::as_bytes(std::span(text)));
  REQUIRE(payloads.size() == 2);
  REQUIRE_NOTHROW([&] {
    const Bytes file = file_of(payloads);
    write_file(known.file, {reinterpret_cast<const char*>(file.data()), file.size()});
    Checkpoints::load(known);
  }());
  std::mt19937_64 random(1);
  const auto stop = std::chrono::steady_clock::now() + std::chrono::seconds(4);
  uint64_t runs = 0, refused = 0;
  const recording::Store store(copy.path(), false);
  for (; runs < 20000 && std::chrono::steady_clock::now() < stop; ++runs) {
    std::vector<Bytes> mutated = payloads;
    Bytes& payload = mutated[random() % 8 == 0 ? 0 : 1];
    const Bytes original = payload;
    for (uint64_t i = 1 + random() % 4; i > 0; --i) {
      // Half of the changes hit the first words, where pointers and counts are.
      const size_t at =
          random() % (random() % 2 != 0 ? payload.size() : std::min<size_t>(payload.size(), 256));
      const uint64_t kind = random() % 3;
      if (kind == 0) payload[at] = static_cast<std::byte>(random());
      if (kind == 1) payload[at] ^= static_cast<std::byte>(1 << random() % 8);
      if (kind == 2)
        std::memcpy(payload.data() + at / 8 * 8, original.data() + random() % (original.size() / 8) * 8, 8);
    }
    const Bytes file = file_of(mutated);
    write_file(known.file, {reinterpret_cast<const char*>(file.data()), file.size()});
    const auto error = error_of([&] {
      read_pages(Checkpoints::load(known), store, [](const PageRun&, std::span<const std::byte>) {});
    });
    if (!error) continue;
    REQUIRE(error->kind() == ErrorKind::bad_input);
    ++refused;
  }
  INFO(runs << " runs, " << refused << " refused");
  CHECK(runs > 100);
  CHECK(refused > runs / 10);  // the mutations do reach what the reader checks
}

}  // namespace aftercheck::test
