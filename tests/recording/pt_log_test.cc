// The PT log: what is written comes back, whatever is cut or damaged gives an error or a clean end.
#include "recording/pt_log.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>
#include <random>

#include "base/error.h"
#include "event_maker.h"

namespace aftercheck::recording {
namespace {

using testing::TemporaryDirectory;
namespace fs = std::filesystem;

// What a trace said, as text with the data joined.
struct Content {
  std::vector<uint8_t> bytes;
  std::vector<std::string> entries;
  bool operator==(const Content&) const = default;
};

Content read_all(PtLogReader& reader) {
  Content content;
  while (const PtRecord* record = reader.next()) {
    if (record->kind == PtRecord::Kind::data) {
      if (record->offset != content.bytes.size()) FAIL("data at " << record->offset);
      content.bytes.insert(content.bytes.end(), record->bytes.begin(), record->bytes.end());
      continue;
    }
    if (record->offset != content.bytes.size()) FAIL("entry at " << record->offset);
    content.entries.push_back(fmt::format("{} {} {} {} {}", static_cast<int>(record->kind), record->offset,
                                          record->event, record->flags, record->lost_bytes));
  }
  return content;
}

PtFormat sample_format() {
  return {.source = PtSource::perf,
          .return_compression = true,
          .family = 6,
          .model = 0x9e,
          .stepping = 10,
          .capabilities = "psb_cyc=1"};
}

// Random data, marks and losses; what they are goes to `content`.
void write_random(const fs::path& directory, unsigned seed, unsigned pieces, Content& content, bool finish) {
  std::mt19937 random(seed);
  PtLogWriter writer(directory, 0, sample_format());
  uint64_t event = 0;
  for (unsigned i = 0; i < pieces; ++i) {
    std::vector<uint8_t> bytes(random() % 20000);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() % 7);
    writer.data(bytes);
    content.bytes.insert(content.bytes.end(), bytes.begin(), bytes.end());
    if (random() % 3 == 0) {
      event += random() % 1000;
      writer.mark(event);
      content.entries.push_back(fmt::format("1 {} {} 0 0", content.bytes.size(), event));
    }
    if (random() % 10 == 0) {
      writer.loss(pt_loss::kTruncated, i);
      content.entries.push_back(fmt::format("2 {} 0 1 {}", content.bytes.size(), i));
    }
  }
  REQUIRE(writer.aux_bytes() == content.bytes.size());
  if (finish)
    writer.finish();
  else
    writer.flush_older_than(std::chrono::milliseconds(0));
}

std::vector<char> bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void put_bytes(const fs::path& path, const std::vector<char>& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

TEST_CASE("a PT log gives back what was written, from any offset on") {
  TemporaryDirectory directory;
  Content expected;
  write_random(directory.path(), 1, 600, expected, true);
  REQUIRE(expected.bytes.size() > (5 << 20));
  REQUIRE(pt_threads(directory.path()) == std::vector<uint32_t>{0});

  PtLogReader reader(directory.path(), 0);
  CHECK(reader.format().source == PtSource::perf);
  CHECK(reader.format().return_compression);
  CHECK(reader.format().model == 0x9e);
  CHECK(reader.format().capabilities == "psb_cyc=1");
  CHECK(read_all(reader) == expected);
  CHECK_FALSE(reader.truncated());

  for (const uint64_t offset : {uint64_t{0}, uint64_t{1} << 20, uint64_t{3'333'333}, expected.bytes.size()}) {
    reader.seek(offset);
    const PtRecord* record = reader.next();
    while (record != nullptr && record->kind != PtRecord::Kind::data) record = reader.next();
    if (offset < expected.bytes.size()) {
      REQUIRE(record != nullptr);
      CHECK(record->offset <= offset);
      CHECK(offset - record->offset < (1 << 20));
      CHECK(record->bytes[0] == expected.bytes[record->offset]);
    }
  }
  const PtSummary summary = summarize_pt(directory.path(), 0);
  CHECK(summary.complete);
  CHECK(summary.aux_bytes == expected.bytes.size());
  CHECK(summary.marks + summary.losses == expected.entries.size());
  CHECK(summary.problem.empty());
}

TEST_CASE("a PT log that is cut anywhere is read up to its last whole chunk") {
  TemporaryDirectory directory;
  Content expected;
  write_random(directory.path(), 2, 300, expected, true);
  const fs::path path = directory.path() / "pt/0";
  const std::vector<char> whole = bytes_of(path);
  std::mt19937 random(3);
  size_t readable = 0;
  for (int i = 0; i < 60; ++i) {
    const size_t size = random() % whole.size();
    put_bytes(path, {whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)});
    try {
      PtLogReader reader(directory.path(), 0);
      const Content content = read_all(reader);
      std::string why;
      REQUIRE(reader.truncated(&why));
      CHECK_THAT(why, Catch::Contains("pt/0") && Catch::Contains("killed"));
      REQUIRE(content.bytes.size() <= expected.bytes.size());
      CHECK(std::equal(content.bytes.begin(), content.bytes.end(), expected.bytes.begin()));
      CHECK_FALSE(summarize_pt(directory.path(), 0).complete);
      ++readable;
    } catch (const Error& error) {
      CHECK_THAT(error.what(),
                 Catch::Contains("ends at offset " + std::to_string(size) + ", before its first chunk"));
    }
  }
  CHECK(readable > 20);
}

TEST_CASE("a trace whose writer died has no end") {
  TemporaryDirectory directory;
  Content expected;
  write_random(directory.path(), 4, 3, expected, true);
  const fs::path path = directory.path() / "pt/0";
  fs::remove_all(directory.path() / "pt");
  expected = {};
  {
    PtLogWriter writer(directory.path(), 0, sample_format());
    const std::vector<uint8_t> bytes(100, 1);
    writer.data(bytes);
    writer.flush_older_than(std::chrono::milliseconds(0));
    const std::vector<char> now = bytes_of(path);
    writer.finish();
    put_bytes(path, now);
  }
  PtLogReader reader(directory.path(), 0);
  CHECK(read_all(reader).bytes.size() == 100);
  CHECK(reader.truncated());
}

TEST_CASE("every damaged byte of a PT log is noticed") {
  TemporaryDirectory directory;
  Content expected;
  write_random(directory.path(), 5, 40, expected, true);
  const fs::path path = directory.path() / "pt/0";
  const std::vector<char> whole = bytes_of(path);
  std::mt19937 random(6);
  for (int i = 0; i < 400; ++i) {
    std::vector<char> damaged = whole;
    char& byte = damaged[i < 100 ? static_cast<size_t>(i) : random() % whole.size()];
    byte = static_cast<char>(byte ^ (1 << random() % 8));
    put_bytes(path, damaged);
    try {
      PtLogReader reader(directory.path(), 0);
      read_all(reader);
      FAIL("damage " << i << " was not noticed");
    } catch (const Error& error) {
      CHECK_THAT(error.what(), Catch::Contains("pt/0"));
    }
    CHECK_FALSE(summarize_pt(directory.path(), 0).file_bytes > whole.size());
  }
}

TEST_CASE("damage within a chunk's payload names that chunk") {
  TemporaryDirectory directory;
  PtFormat format = sample_format();
  format.source = static_cast<PtSource>(77);
  PtLogWriter(directory.path(), 0, format).finish();
  CHECK_THROWS_WITH(PtLogReader(directory.path(), 0),
                    Catch::Contains("pt/0: chunk 0 at offset 0: unknown source 77"));
}

}  // namespace
}  // namespace aftercheck::recording
