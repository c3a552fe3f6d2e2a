// Events through writer and reader.
#include <fmt/format.h>
#include <sys/mman.h>
#include <zstd.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "base/error.h"
#include "event_maker.h"
#include "recording/format.h"
#include "recording/reader.h"
#include "recording/writer.h"

namespace aftercheck::recording {
namespace {

using testing::EventMaker;
using testing::TemporaryDirectory;
using testing::to_text;

Event end_event() {
  Event event;
  event.kind = EventKind::end;
  event.operands = {static_cast<uint64_t>(EndReason::exited), 0};
  return event;
}

// Reads everything and compares it with `events`.
void check_same(const std::filesystem::path& directory, const std::vector<Event>& events) {
  Reader reader(directory);
  for (size_t i = 0; i < events.size(); i++) {
    const Event* event = reader.next();
    REQUIRE(event != nullptr);
    REQUIRE(reader.number() == i);
    const std::string found = to_text(*event), expected = to_text(events[i]);
    REQUIRE(found == expected);
  }
  REQUIRE(reader.next() == nullptr);
  REQUIRE(reader.next() == nullptr);
  REQUIRE(reader.progress() == 1);
}

}  // namespace

TEST_CASE("random events come back as they were") {
  const uint64_t seed = GENERATE(1, 2, 3);
  TemporaryDirectory directory;
  EventMaker maker(seed);
  std::vector<Event> events = maker.make(5000);
  events.push_back(end_event());
  {
    Writer writer(directory.path());
    for (size_t i = 0; i < events.size(); i++) {
      writer.append(events[i]);
      if (i % 1000 == 999) writer.flush();
    }
    writer.finish();
    REQUIRE(writer.statistics().events == events.size());
    REQUIRE(writer.statistics().chunks >= 5);
    REQUIRE(writer.statistics().written_bytes == std::filesystem::file_size(directory / "events"));
    REQUIRE_FALSE(writer.failed());
  }
  check_same(directory.path(), events);
  Reader reader(directory.path());
  while (reader.next() != nullptr) {
  }
  REQUIRE_FALSE(reader.truncated());
}

TEST_CASE("a count of branches is that of its own event only") {
  TemporaryDirectory directory;
  std::vector<Event> events(5);
  events[0].kind = EventKind::start;
  for (size_t i = 1; i < 4; ++i) events[i].kind = EventKind::asynchronous;
  events[1].branches = UINT64_MAX - 1;
  events[3].branches = 0;
  events[4] = end_event();
  Writer writer(directory.path());
  for (const Event& event : events) writer.append(event);
  writer.finish();
  check_same(directory.path(), events);
}

TEST_CASE("a log without its end event is truncated") {
  TemporaryDirectory directory;
  EventMaker maker(1);
  Writer writer(directory.path());
  writer.append(maker.make());
  writer.finish();
  Reader reader(directory.path());
  REQUIRE_FALSE(reader.truncated());  // not known yet
  REQUIRE(reader.next() != nullptr);
  REQUIRE(reader.next() == nullptr);
  std::string why;
  REQUIRE(reader.truncated(&why));
  REQUIRE(why.find("without an `end` event") != std::string::npos);
}

TEST_CASE("bulk data spans chunks, stays whole and costs no more than plain zstd") {
  TemporaryDirectory directory;
  // Text-like: words of a small vocabulary, so that compression has something to find.
  std::mt19937_64 random(7);
  std::string data;
  while (data.size() < (20 << 20)) data += fmt::format("{:x} ", random() % 4096 * (random() % 64));
  Writer writer(directory.path());
  constexpr size_t kPiece = 64 << 10;
  size_t pieces = 0;
  for (size_t at = 0; at < data.size(); at += kPiece, pieces++) {
    Event event;
    event.kind = EventKind::syscall;
    event.time_ns = pieces * 20000;
    event.rip = 0x200000123456;
    event.digest = static_cast<uint32_t>(random());
    const auto piece = std::as_bytes(std::span(data)).subspan(at, std::min(kPiece, data.size() - at));
    event.operands = {0, 3, 0x200000400000, kPiece, 0, 0, 0};
    event.registers = {{0, piece.size()}};
    event.writes = {{0x200000400000, piece}};
    writer.append(event);
  }
  writer.append(end_event());
  writer.finish();
  REQUIRE(writer.statistics().chunks >= 3);

  std::string plain(ZSTD_compressBound(data.size()), '\0');
  const size_t plain_size = ZSTD_compress(plain.data(), plain.size(), data.data(), data.size(), 3);
  INFO("log " << writer.statistics().written_bytes << " plain zstd " << plain_size);
  REQUIRE(static_cast<double>(writer.statistics().written_bytes) <= 1.02 * static_cast<double>(plain_size));

  Reader reader(directory.path());
  std::string found;
  uint64_t chunks = 0, offset = 1;
  while (const Event* event = reader.next()) {
    for (const MemoryWrite& write : event->writes)
      found.append(reinterpret_cast<const char*>(write.bytes.data()), write.bytes.size());
    if (reader.chunk_offset() != offset) chunks++;
    offset = reader.chunk_offset();
  }
  REQUIRE(chunks == writer.statistics().chunks);
  REQUIRE(found == data);
}

TEST_CASE("a small system call takes at most 20 bytes") {
  TemporaryDirectory directory;
  EventMaker maker(5);
  Writer writer(directory.path());
  constexpr int kEvents = 100000;
  for (int i = 0; i < kEvents; i++) writer.append(maker.small_syscall());
  writer.finish();
  const double each = static_cast<double>(writer.statistics().written_bytes) / kEvents;
  // Half of the calls write 16 random bytes: 8 bytes per call on average that no compression can save.
  INFO(each << " bytes per event");
  REQUIRE(each <= 20 + 8);
}

TEST_CASE("an event beyond the limits is refused and the log goes on without it") {
  TemporaryDirectory directory;
  Writer writer(directory.path());
  const std::vector<std::byte> large(kMaxEventBytes + 1);
  Event event;
  event.writes = {{0x1000, large}};
  REQUIRE_THROWS_AS(writer.append(event), Error);
  event.writes = {{0x1000, std::span(large).first(kMaxEventBytes)}};
  writer.append(event);
  Event fpu;
  fpu.fpu.resize(100);
  REQUIRE_THROWS_AS(writer.append(fpu), Error);
  writer.finish();
  check_same(directory.path(), {event});
}

TEST_CASE("the largest events come back too") {
  TemporaryDirectory directory;
  EventMaker maker(9);
  const auto bytes = maker.bytes(kMaxEventBytes / 2);
  Event event;
  event.kind = EventKind::syscall;
  event.patches.resize(kMaxListEntries);
  event.memory.resize(100000);
  event.operands.resize(kMaxEventSlots / 2, ~uint64_t{0});
  for (size_t i = 0; i < bytes.size(); i += 16) event.writes.push_back({i, std::span(bytes).subspan(i, 16)});
  event.writes.push_back({0, bytes});
  event.operands.resize(event.operands.size() - 2);
  Event outputs;
  outputs.outputs.resize(kMaxListEntries);
  Writer writer(directory.path());
  const std::vector<Event> events = {event, outputs, event, outputs};
  for (const Event& e : events) writer.append(e);
  writer.finish();
  check_same(directory.path(), events);
}

TEST_CASE("bytes that can't be read are refused and the log goes on without them") {
  TemporaryDirectory directory;
  void* pages = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(pages != MAP_FAILED);
  std::memset(pages, 'x', 8192);
  REQUIRE(mprotect(static_cast<char*>(pages) + 4096, 4096, PROT_NONE) == 0);
  const std::span<const std::byte> bytes(static_cast<const std::byte*>(pages), 8192);
  Writer writer(directory.path());
  Event good;
  good.writes = {{1, bytes.first(100)}, {2, bytes.first(4096)}};
  Event bad = good;
  bad.writes.push_back({3, bytes.subspan(4000, 200)});
  writer.append(good);
  REQUIRE_THROWS_WITH(writer.append(bad), Catch::Contains("memory write at 0x3"));
  writer.append(good);
  writer.finish();
  check_same(directory.path(), {good, good});
  munmap(pages, 8192);
}

TEST_CASE("varints and zigzag") {
  for (const uint64_t value :
       {uint64_t{0}, uint64_t{1}, uint64_t{127}, uint64_t{128}, uint64_t{1} << 63, ~uint64_t{0}}) {
    std::byte buffer[kMaxVarintBytes];
    std::span<const std::byte> in(buffer, put_varint(buffer, value));
    uint64_t found = 1;
    REQUIRE(take_varint(in, found));
    REQUIRE(found == value);
    REQUIRE(in.empty());
    REQUIRE(unzigzag(zigzag(value)) == value);
  }
  REQUIRE(zigzag(0 - uint64_t{1}) == 1);
  const std::vector<std::byte> endless(11, std::byte{0xff});
  std::span<const std::byte> in(endless);
  uint64_t value = 0;
  REQUIRE_FALSE(take_varint(in, value));
  in = std::span(endless).first(3);
  REQUIRE_FALSE(take_varint(in, value));
}

}  // namespace aftercheck::recording
