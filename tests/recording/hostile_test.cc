// The reader against cut, damaged and forged files.
#include <capnp/message.h>
#include <capnp/serialize.h>
#include <xxhash.h>
#include <zstd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cstring>
#include <functional>

#include "base/error.h"
#include "event_maker.h"
#include "log.capnp.h"
#include "recording/meta.h"
#include "recording/reader.h"
#include "recording/writer.h"
#include "sealed_chunk.h"

namespace aftercheck::recording {
namespace {

using testing::EventMaker;
using testing::seal;
using testing::TemporaryDirectory;
using testing::to_text;
using testing::unseal;
using testing::with_header;
using testing::write_file;
using Bytes = std::vector<std::byte>;

struct Outcome {
  std::vector<std::string> events;
  bool truncated = false;
  std::string why;                 // of `truncated`
  std::optional<ErrorKind> error;  // of next()
  std::string message;
};

Outcome read_all(const TemporaryDirectory& directory, const Bytes& file) {
  write_file(directory / "events", file);
  Outcome outcome;
  try {
    Reader reader(directory.path());
    while (const Event* event = reader.next()) outcome.events.push_back(to_text(*event));
    outcome.truncated = reader.truncated(&outcome.why);
  } catch (const Error& e) {
    outcome.error = e.kind();
    outcome.message = e.what();
  }
  return outcome;
}

struct Sample {
  Bytes file;
  std::vector<uint64_t> chunk_starts;
  std::vector<size_t> events_before;  // number of events in the chunks before the one with this index
  std::vector<std::string> events;
};

Sample make_sample(const TemporaryDirectory& directory) {
  Sample sample;
  EventMaker maker(11);
  std::filesystem::remove(directory / "events");
  Writer writer(directory.path());
  for (const size_t count : {3, 1, 4}) {
    sample.events_before.push_back(sample.events.size());
    for (size_t i = 0; i < count; i++) {
      const Event event = i == 0 ? maker.make() : maker.small_syscall();
      writer.append(event);
      sample.events.push_back(to_text(event));
    }
    writer.flush();
  }
  Event end;
  end.kind = EventKind::end;
  sample.events_before.push_back(sample.events.size());
  writer.append(end);
  sample.events.push_back(to_text(end));
  writer.finish();
  sample.file = testing::read_file(directory / "events");
  for (uint64_t at = 0; at < sample.file.size();) {
    sample.chunk_starts.push_back(at);
    ChunkHeader header;
    std::memcpy(&header, sample.file.data() + at, sizeof header);
    at += sizeof header + header.compressed_length;
  }
  return sample;
}

// A message that `fill` completes, in a chunk whose checksums are right.
Bytes forge(const std::function<void(log::Chunk::Builder)>& fill) {
  capnp::MallocMessageBuilder message;
  fill(message.initRoot<log::Chunk>());
  const auto words = capnp::messageToFlatArray(message);
  return seal(std::as_bytes(std::span(words.asBytes().begin(), words.asBytes().size())));
}

void set_data(const std::function<void(capnp::Data::Reader)>& setter, const std::vector<uint8_t>& bytes) {
  setter({bytes.data(), bytes.size()});
}

// One event of one shape without slots: every forgery below changes one thing in it.
void fill_minimal(log::Chunk::Builder chunk) {
  chunk.initShapes(1);
  set_data([&](auto d) { chunk.setShapeIndexes(d); }, {0});
  set_data([&](auto d) { chunk.setTimes(d); }, {0});
  chunk.initDigests(1);
}

// Where a thread was preempted twice, after some branches each. `digests` are those of 32 bits.
void fill_preempted(log::Chunk::Builder chunk, std::initializer_list<uint32_t> digests,
                    const std::vector<uint8_t>& short_digests) {
  auto shape = chunk.initShapes(1)[0];
  shape.setKind(static_cast<uint8_t>(EventKind::preempted));
  shape.setOperands(2);
  set_data([&](auto d) { chunk.setShapeIndexes(d); }, {0, 0});
  set_data([&](auto d) { chunk.setTimes(d); }, {0, 0});
  set_data([&](auto d) { chunk.setMasks(d); }, {2, 2});
  set_data([&](auto d) { chunk.setDeltas(d); }, {10, 4});
  auto out = chunk.initDigests(static_cast<unsigned>(digests.size()));
  for (unsigned i = 0; i < out.size(); ++i) out.set(i, digests.begin()[i]);
  if (!short_digests.empty()) set_data([&](auto d) { chunk.setShortDigests(d); }, short_digests);
}

}  // namespace

TEST_CASE("a preempted thread's digest is short, but in logs of earlier versions") {
  TemporaryDirectory directory;
  const auto has = [&](std::initializer_list<uint32_t> whole, const std::vector<uint8_t>& halves,
                       const std::vector<uint32_t>& expected) {
    const Outcome outcome = read_all(directory, forge([&](auto c) { fill_preempted(c, whole, halves); }));
    bool same = !outcome.error && outcome.events.size() == expected.size();
    for (size_t i = 0; same && i < expected.size(); ++i)
      same = outcome.events[i].find(fmt::format("digest {:#x}", expected[i])) != std::string::npos;
    return same;
  };
  CHECK(has({0x12345678, 0x9abc}, {}, {0x12345678, 0x9abc}));
  CHECK(has({}, {0x78, 0x56, 0xbc, 0x9a}, {0x5678, 0x9abc}));
  const auto damaged = [&](std::initializer_list<uint32_t> whole, const std::vector<uint8_t>& halves) {
    return read_all(directory, forge([&](auto c) { fill_preempted(c, whole, halves); })).error ==
           ErrorKind::bad_input;
  };
  CHECK(damaged({0x12345678}, {0xbc, 0x9a}));
  CHECK(damaged({}, {1, 2, 3}));
  CHECK(damaged({1}, {1, 2, 3, 4}));
  CHECK(damaged({1, 2, 3}, {}));
}

TEST_CASE("a log cut anywhere is read up to its last whole chunk") {
  TemporaryDirectory directory;
  const Sample sample = make_sample(directory);
  REQUIRE(sample.chunk_starts.size() == 4);
  for (size_t length = 0; length < sample.file.size(); length++) {
    INFO("cut to " << length << " of " << sample.file.size());
    const Outcome outcome =
        read_all(directory, Bytes(sample.file.begin(), sample.file.begin() + static_cast<ptrdiff_t>(length)));
    size_t whole = 0;
    while (whole + 1 < sample.chunk_starts.size() && sample.chunk_starts[whole + 1] <= length) whole++;
    REQUIRE_FALSE(outcome.error.has_value());
    REQUIRE(outcome.truncated);
    REQUIRE(outcome.events.size() == sample.events_before[whole]);
    REQUIRE(std::equal(outcome.events.begin(), outcome.events.end(), sample.events.begin()));
    const bool inside = length != sample.chunk_starts[whole];
    const std::string expected =
        inside ? fmt::format("the last {} bytes from offset {} on are an incomplete chunk",
                             length - sample.chunk_starts[whole], sample.chunk_starts[whole])
               : fmt::format("it ends at offset {} after {} events", length, sample.events_before[whole]);
    REQUIRE_THAT(outcome.why, Catch::Contains(expected));
  }
}

TEST_CASE("a changed byte anywhere is an error that names file and offset") {
  TemporaryDirectory directory;
  const Sample sample = make_sample(directory);
  for (size_t at = 0; at < sample.file.size(); at++) {
    for (const unsigned flip : {0x01, 0x80, 0xff}) {
      INFO("byte " << at << " of " << sample.file.size() << " xor " << flip);
      Bytes file = sample.file;
      file[at] ^= static_cast<std::byte>(flip);
      const Outcome outcome = read_all(directory, file);
      REQUIRE(outcome.error == ErrorKind::bad_input);
      REQUIRE_THAT(outcome.message, Catch::Contains("events") && Catch::Contains("offset"));
      REQUIRE(std::equal(outcome.events.begin(), outcome.events.end(), sample.events.begin()));
    }
  }
}

TEST_CASE("chunks out of order, missing or repeated are an error") {
  TemporaryDirectory directory;
  const Sample sample = make_sample(directory);
  const auto chunk = [&](size_t i) {
    const auto end = i + 1 < sample.chunk_starts.size() ? sample.chunk_starts[i + 1] : sample.file.size();
    return Bytes(sample.file.begin() + static_cast<ptrdiff_t>(sample.chunk_starts[i]),
                 sample.file.begin() + static_cast<ptrdiff_t>(end));
  };
  const std::vector<std::vector<size_t>> orders = {{1, 0}, {0, 2}, {0, 0}, {1}};
  for (const auto& order : orders) {
    Bytes file;
    for (const size_t i : order)
      for (const std::byte byte : chunk(i)) file.push_back(byte);
    const Outcome outcome = read_all(directory, file);
    REQUIRE(outcome.error == ErrorKind::bad_input);
    REQUIRE_THAT(outcome.message, Catch::Contains("out of order"));
  }
}

TEST_CASE("an end that was never written is truncation") {
  TemporaryDirectory directory;
  const Sample sample = make_sample(directory);
  // Power loss: the file has its length, its last blocks hold zeros.
  Bytes file = sample.file;
  file.resize(file.size() + 3000);
  Outcome outcome = read_all(directory, file);
  REQUIRE_FALSE(outcome.error.has_value());
  REQUIRE(outcome.truncated);
  REQUIRE(outcome.events.size() == sample.events.size());

  EventMaker maker(1);
  Event large;
  const auto bytes = maker.bytes(5000);
  large.writes = {{0, bytes}};
  std::filesystem::remove(directory / "events");
  Writer writer(directory.path());
  writer.append(large);
  writer.finish();
  file = testing::read_file(directory / "events");
  std::fill(file.end() - 2000, file.end(), std::byte{0});
  outcome = read_all(directory, file);
  REQUIRE_FALSE(outcome.error.has_value());
  REQUIRE(outcome.truncated);
  // The same damage with a chunk behind it is no lost end.
  for (const std::byte byte : sample.file) file.push_back(byte);
  REQUIRE(read_all(directory, file).error == ErrorKind::bad_input);
}

TEST_CASE("a newer version is refused by name") {
  TemporaryDirectory directory;
  const Sample sample = make_sample(directory);
  ChunkHeader header;
  std::memcpy(&header, sample.file.data(), sizeof header);
  header.version += 7;
  Outcome outcome = read_all(directory, with_header(header, std::span(sample.file).subspan(sizeof header)));
  REQUIRE(outcome.error == ErrorKind::unsupported);
  REQUIRE_THAT(outcome.message, Catch::Contains("version 8") && Catch::Contains("version 1"));

  // With a longer header, as a newer version may have it.
  header.header_length = 72;
  std::vector<std::byte> longer(72);
  std::memcpy(longer.data(), &header, 48);
  const uint64_t checksum = XXH3_64bits(longer.data(), 64);
  std::memcpy(longer.data() + 64, &checksum, 8);
  outcome = read_all(directory, longer);
  REQUIRE(outcome.error == ErrorKind::unsupported);
  longer[50] = std::byte{1};
  REQUIRE(read_all(directory, longer).error == ErrorKind::bad_input);
  header.header_length = 0xffffffff;
  REQUIRE(read_all(directory, with_header(header, {})).error == ErrorKind::bad_input);
}

TEST_CASE("other files are refused") {
  TemporaryDirectory directory;
  const auto text = std::as_bytes(std::span("#!/bin/sh\necho this is no log\n"));
  const Outcome outcome = read_all(directory, Bytes(text.begin(), text.end()));
  REQUIRE(outcome.error == ErrorKind::bad_input);
  REQUIRE_THAT(outcome.message, Catch::Contains("not a log"));
  REQUIRE_THROWS_AS(Reader(directory / "nowhere"), Error);
  std::filesystem::remove(directory / "events");
  std::filesystem::create_directory(directory / "events");
  REQUIRE_THROWS_WITH(Reader(directory.path()), Catch::Contains("not a regular file"));
}

TEST_CASE("hostile lengths are refused before anything is allocated") {
  TemporaryDirectory directory;
  const Bytes zeros(64);
  const Bytes good = seal(zeros);
  ChunkHeader header;
  std::memcpy(&header, good.data(), sizeof header);
  const auto frame = std::span(good).subspan(sizeof header);
  struct Case {
    const char* name;
    uint64_t raw, compressed;
    bool truncated;
  };
  const Case cases[] = {
      {"payload 2^63", uint64_t{1} << 63, frame.size(), false},
      {"payload one word too long", kMaxPayloadBytes + 8, frame.size(), false},
      {"payload of no whole words", 63, frame.size(), false},
      {"payload empty", 0, frame.size(), false},
      {"payload shorter than the frame says", 56, frame.size(), false},
      {"payload longer than the frame says", kMaxPayloadBytes, frame.size(), false},
      {"compressed 2^64 - 1", 64, ~uint64_t{0}, false},
      {"compressed far beyond the end", 64, 60 << 20, true},
      {"compressed one byte beyond the end", 64, frame.size() + 1, true},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    header.raw_length = c.raw;
    header.compressed_length = c.compressed;
    const Outcome outcome = read_all(directory, with_header(header, frame));
    REQUIRE(outcome.truncated == c.truncated);
    REQUIRE(outcome.error.has_value() != c.truncated);
    if (!c.truncated) REQUIRE(*outcome.error == ErrorKind::bad_input);
  }
  // A frame that decompresses to more than it says.
  Bytes bomb(1 << 20);
  const Bytes sealed = seal(bomb);
  std::memcpy(&header, sealed.data(), sizeof header);
  header.raw_length = 4096;
  REQUIRE(read_all(directory, with_header(header, std::span(sealed).subspan(sizeof header))).error ==
          ErrorKind::bad_input);
}

TEST_CASE("forged messages are refused") {
  TemporaryDirectory directory;
  REQUIRE(read_all(directory, forge(fill_minimal)).events.size() == 1);
  struct Case {
    const char* message;  // part of the error's text
    std::function<void(log::Chunk::Builder)> change;
  };
  const Case cases[] = {
      {"no event", [](auto c) { c.initDigests(0); }},
      {"starts with event 7", [](auto c) { c.setFirstEvent(7); }},
      {"shape 1 of 1", [](auto c) { set_data([&](auto d) { c.setShapeIndexes(d); }, {1}); }},
      {"shapeIndexes", [](auto c) { set_data([&](auto d) { c.setShapeIndexes(d); }, {}); }},
      {"times",
       [](auto c) {
         set_data([&](auto d) { c.setTimes(d); }, {0xff, 0xff});
       }},
      {"left over",
       [](auto c) {
         set_data([&](auto d) { c.setTimes(d); }, {0, 0});
       }},
      {"left over", [](auto c) { c.initOutputDigests(1); }},
      {"unknown event kind", [](auto c) { c.getShapes()[0].setKind(kLastEventKind + 1); }},
      {"slots", [](auto c) { c.getShapes()[0].setWrites(0xffffffff); }},
      {"slots", [](auto c) { c.getShapes()[0].setOperands(kMaxEventSlots + 1); }},
      {"masks", [](auto c) { c.getShapes()[0].setOperands(kMaxEventSlots); }},
      {"registers",
       [](auto c) {
         set_data([&](auto d) { c.getShapes()[0].setRegisters(d); }, std::vector<uint8_t>(300));
       }},
      {"outputDigests", [](auto c) { c.getShapes()[0].initOutputs(2); }},
      {"deltas",
       [](auto c) {
         c.getShapes()[0].setOperands(1);
         set_data([&](auto d) { c.setMasks(d); }, {1});
       }},
      {"lack bytes",
       [](auto c) {
         c.getShapes()[0].setWrites(1);
         set_data([&](auto d) { c.setMasks(d); }, {2});
         set_data([&](auto d) { c.setDeltas(d); }, {20});  // length 10
         set_data([&](auto d) { c.setSmallBytes(d); }, {1, 2, 3});
       }},
      {"more than 4194304 bytes",
       [](auto c) {
         c.getShapes()[0].setWrites(1);
         set_data([&](auto d) { c.setMasks(d); }, {2});
         set_data([&](auto d) { c.setDeltas(d); }, {0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1});
       }},
      {"2 extras for 1 events", [](auto c) { c.initExtras(2); }},
      {"left over", [](auto c) { c.initExtras(1)[0].setEvent(3); }},
      {"FPU",
       [](auto c) {
         set_data([&](auto d) { c.initExtras(1)[0].setFpu(d); }, {1, 2});
       }},
      {"memory digest has 0 bytes", [](auto c) { c.initExtras(1)[0].initMemory(1); }},
      {"unknown change of mappings",
       [](auto c) { c.initExtras(1)[0].initSpaceOps(1)[0].setKind(kLastSpaceOpKind + 1); }},
      {"name has 3 bytes",
       [](auto c) {
         auto ops = c.initExtras(1)[0].initSpaceOps(1);
         set_data([&](auto d) { ops[0].setBlob(d); }, {1, 2, 3});
       }},
      {"code patch", [](auto c) { c.initExtras(1)[0].initPatches(1); }},
      {"more than 262144 entries", [](auto c) { c.initExtras(1)[0].initMemory(kMaxListEntries + 1); }},
  };
  for (const Case& c : cases) {
    INFO(c.message);
    const Outcome outcome = read_all(directory, forge([&](auto chunk) {
                                       fill_minimal(chunk);
                                       c.change(chunk);
                                     }));
    REQUIRE(outcome.error == ErrorKind::bad_input);
    REQUIRE_THAT(outcome.message, Catch::Contains(c.message) && Catch::Contains("chunk 0 at offset 0"));
  }
}

TEST_CASE("lists without bytes can't make the reader work for long") {
  // Cap'n Proto lists of empty structures may claim 2^29 entries in one pointer word.
  TemporaryDirectory directory;
  for (const unsigned field : {0U, 1U}) {
    Bytes payload = unseal(forge(fill_minimal));
    // Segment table, root pointer, two data words, then the pointers in the order of the schema: shapes
    // first.
    const size_t pointer = 8 + 8 + 2 * 8 + 8 * (field == 0 ? 0 : 9);
    const size_t end = payload.size();
    payload.resize(end + 8);
    const auto words = static_cast<uint32_t>(payload.size() / 8 - 1);
    std::memcpy(payload.data() + 4, &words, 4);
    const uint64_t offset = (end - pointer - 8) / 8;
    const uint64_t list = 1 | offset << 2 | uint64_t{7} << 32;  // composite list of 0 words...
    const uint64_t tag = uint64_t{(1 << 29) - 1} << 2;          // ... and 2^29 - 1 entries of no size
    std::memcpy(payload.data() + pointer, &list, 8);
    std::memcpy(payload.data() + end, &tag, 8);
    const auto start = std::chrono::steady_clock::now();
    const Outcome outcome = read_all(directory, seal(payload));
    REQUIRE_THAT(outcome.message, Catch::Contains("traversal limit"));
    REQUIRE(outcome.error == ErrorKind::bad_input);
    REQUIRE(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
  }
}

TEST_CASE("mutated payloads never harm the reader") {
  TemporaryDirectory directory;
  EventMaker maker(21);
  Writer writer(directory.path());
  for (const Event& event : maker.make(40)) writer.append(event);
  writer.finish();
  const Bytes payload = unseal(testing::read_file(directory / "events"));
  const auto stop = std::chrono::steady_clock::now() + std::chrono::seconds(4);
  std::mt19937_64 random(1);
  uint64_t runs = 0, refused = 0;
  for (; runs < 20000 && std::chrono::steady_clock::now() < stop; runs++) {
    Bytes mutated = payload;
    for (uint64_t i = 1 + random() % 4; i > 0; i--) {
      // Half of the changes hit the first words, where pointers and counts are.
      const size_t at =
          random() % (random() % 2 != 0 ? mutated.size() : std::min<size_t>(mutated.size(), 256));
      const uint64_t kind = random() % 3;
      if (kind == 0) mutated[at] = static_cast<std::byte>(random());
      if (kind == 1) mutated[at] ^= static_cast<std::byte>(1 << random() % 8);
      if (kind == 2)
        std::memcpy(mutated.data() + at / 8 * 8, payload.data() + random() % (payload.size() / 8) * 8, 8);
    }
    const Outcome outcome = read_all(directory, seal(mutated));
    if (outcome.error) {
      REQUIRE(*outcome.error == ErrorKind::bad_input);
      refused++;
    }
  }
  INFO(runs << " runs");
  REQUIRE(runs > 100);
  REQUIRE(refused > runs / 10);  // the mutations do reach what the reader checks
}

}  // namespace aftercheck::recording
