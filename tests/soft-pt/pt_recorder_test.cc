// Control flow through encoder, ring, drain and log, with nothing lost and with much lost.
#include "soft-pt/pt_recorder.h"

#include <sys/resource.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <map>
#include <random>
#include <utility>

#include "base/error.h"
#include "pt-trace/branch_stream.h"
#include "recording/pt_log.h"

namespace aftercheck {
namespace {

namespace fs = std::filesystem;
using recording::PtLogReader;
using recording::PtRecord;

// Tells the same made-up run to every tracer, with an exit every few thousand branches.
template <typename AtExit>
void run(SoftTracer& tracer, unsigned exits, AtExit at_exit) {
  std::mt19937_64 random(7);
  uint64_t rip = 0x400000;
  for (unsigned event = 1; event <= exits; ++event) {
    tracer.resume(rip);
    for (uint64_t i = random() % 600; i > 0; --i) {
      const auto count = static_cast<unsigned>(1 + random() % 48);
      rip = 0x400000 + random() % 0x100000;
      const uint64_t outcomes = random() & ((uint64_t{1} << count) - 1);
      const bool indirect = random() % 3 == 0;
      if (indirect) rip = 0x7f0000000000 + random() % 0x1000000;
      const BranchRun run{outcomes, rip, count, indirect};
      tracer.branches({&run, 1});
    }
    if (random() % 4 == 0)
      tracer.exit_before(rip);
    else
      tracer.exit_by_system_call();
    at_exit(event);
    rip += 0x10;
  }
}

using Digests = std::map<uint64_t, pt::StreamDigest>;

// What the encoder makes, without ring and log.
Digests reference(unsigned exits) {
  Digests digests;
  pt::StreamExit last;
  pt::BranchStream stream([&](const pt::StreamExit& exit) { last = exit; });
  SoftTracer tracer([&](std::span<const uint8_t> bytes) {
    stream.feed(bytes);
    return true;
  });
  run(tracer, exits, [&](uint64_t event) {
    stream.settle_exit();
    digests[event] = last.segment;
  });
  return digests;
}

struct Read {
  Digests verified;
  uint64_t unverified = 0, losses = 0, marks = 0;
};

Read read_back(const fs::path& directory) {
  Read read;
  PtLogReader reader(directory, 0);
  std::vector<pt::StreamExit> exits;
  pt::BranchStream stream([&](const pt::StreamExit& exit) { exits.push_back(exit); });
  bool lossy = false;
  while (const PtRecord* record = reader.next()) {
    if (record->kind == PtRecord::Kind::data) stream.feed(record->bytes);
    if (record->kind == PtRecord::Kind::loss) {
      stream.mark_lost();
      ++read.losses;
      lossy = true;
    }
    if (record->kind != PtRecord::Kind::mark) continue;
    stream.settle_exit();
    ++read.marks;
    if (!lossy && exits.size() == 1 && exits[0].verified)
      read.verified[record->event] = exits[0].segment;
    else
      ++read.unverified;
    exits.clear();
    lossy = false;
  }
  CHECK_FALSE(reader.truncated());
  return read;
}

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "pt-recorder-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() {
    std::error_code error;
    fs::remove_all(path, error);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  fs::path path;
};

Read record_and_read(unsigned exits, size_t ring, std::function<bool()> loses = {}) {
  const Folder folder;
  SoftPtOptions options;
  options.directory = folder.path;
  options.ring_bytes = ring;
  options.loses = std::move(loses);
  SoftPtRecorder recorder(options);
  run(recorder.tracer(), exits, [&](uint64_t event) { recorder.mark(event); });
  recorder.finish();
  return read_back(folder.path);
}

}  // namespace

TEST_CASE("soft PT: a small ring makes the vCPU wait, and nothing is lost") {
  constexpr unsigned kExits = 3000;
  const Digests expected = reference(kExits);
  const Read read = record_and_read(kExits, 8 << 10);
  CHECK(read.losses == 0);
  CHECK(read.unverified == 0);
  CHECK(read.marks == kExits);
  const bool same = read.verified == expected;
  CHECK(same);
}

TEST_CASE("soft PT: what a full ring drops is a loss, and what counts as verified is right") {
  constexpr unsigned kExits = 3000;
  const Digests expected = reference(kExits);
  std::mt19937_64 random(11);
  bool full = false;
  const Read read = record_and_read(kExits, 64 << 10, [&] {
    if (random() % 32 == 0) full = !full;
    return full;
  });
  CHECK(read.losses > 0);
  CHECK(read.unverified > 0);
  CHECK(read.marks == kExits);
  CHECK(read.verified.size() > 10);
  for (const auto& [event, digest] : read.verified)
    if (!(expected.at(event) == digest))
      FAIL("event " << event << " has another digest and counts as verified");
}

TEST_CASE("soft PT: a trace that can't be written ends, and the vCPU goes on") {
  const Folder folder;
  SoftPtOptions options;
  options.directory = folder.path;
  options.ring_bytes = 8 << 10;
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto ignored = std::signal(SIGXFSZ, SIG_IGN);
  SoftPtRecorder recorder(options);
  const rlimit small{3 << 19, before.rlim_max};
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
  run(recorder.tracer(), 3000, [&](uint64_t event) { recorder.mark(event); });
  std::string error;
  try {
    recorder.finish();
  } catch (const Error& problem) {
    error = problem.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, ignored);
  CHECK(recorder.failed());
  CHECK_THAT(error, Catch::Contains("pt/0") && Catch::Contains("EFBIG"));
  PtLogReader reader(folder.path, 0);
  while (reader.next() != nullptr) continue;
  CHECK(reader.truncated());
}

TEST_CASE("encoder: outcomes told many at a time give the same stream as one by one") {
  std::mt19937_64 random(11);
  for (unsigned round = 0; round < 50; ++round) {
    pt::EncoderOptions options;
    options.tnt_short_bits = static_cast<uint8_t>(1 + random() % 6);
    options.tnt_long_bits = random() % 3 == 0 ? static_cast<uint8_t>(1 + random() % 47) : 0;
    options.psb_period = random() % 2 == 0 ? 64 : 4096;
    pt::Encoder one(options), many(options);
    one.enable(0x1000);
    many.enable(0x1000);
    std::vector<BranchRun> runs;
    for (unsigned i = 0; i < 2000; ++i) {
      BranchRun run;
      run.count = static_cast<uint32_t>(random() % (BranchRun::kMost + 1));
      run.outcomes = random() & ((uint64_t{1} << run.count) - 1);
      // Near, far, and where only eight bytes can tell.
      run.next = random() % 4096 + (random() % 8 == 0 ? random() % 2 << 40 : 0x1000);
      if (random() % 50 == 0) run.next |= uint64_t{1} << 60;
      run.indirect = random() % 5 == 0;
      for (unsigned bit = run.count; bit-- > 0;) one.conditional((run.outcomes >> bit & 1) != 0, run.next);
      if (run.indirect) one.indirect(run.next);
      runs.push_back(run);
      if (random() % 100 != 0) continue;
      many.branches(runs);
      runs.clear();
    }
    many.branches(runs);
    one.disable();
    many.disable();
    pt::StreamDigest digests[2];
    for (unsigned i = 0; i < 2; ++i) {
      pt::BranchStream stream([&](const pt::StreamExit& exit) { digests[i] = exit.segment; });
      stream.feed((i == 0 ? one : many).bytes());
      stream.finish();
    }
    CHECK(digests[0] == digests[1]);
  }
}

}  // namespace aftercheck
