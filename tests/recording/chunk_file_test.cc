// Chunk files of a kind of the test's own: what the kinds have in common.
#include "recording/chunk_file.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <fstream>
#include <functional>

#include "event_maker.h"

namespace aftercheck::recording {
namespace {

using testing::TemporaryDirectory;
using Bytes = std::vector<std::byte>;

constexpr ChunkKind kKind =
    chunk_kind<ChunkHeader>(0x1122334455667788, 3, 1 << 20, "test version", ": not a test's file");

Bytes some_bytes(size_t size) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; i++) bytes[i] = static_cast<std::byte>(i * i >> 7);
  return bytes;
}

void append(ChunkFileWriter& file, std::span<const std::byte> payload, size_t piece) {
  ChunkHeader header;
  header.raw_length = payload.size();
  file.begin(payload.size());
  for (size_t at = 0; at < payload.size(); at += piece)
    file.add(payload.subspan(at, std::min(piece, payload.size() - at)));
  file.end(header);
}

const size_t kSizes[] = {100'001, 0, 7, 1 << 20};

Bytes sample(const TemporaryDirectory& directory) {
  ChunkFileWriter file(directory / "sample", kKind, {});
  for (const size_t size : kSizes) append(file, some_bytes(size), size == 7 ? 2 : 300'000);
  file.sync();
  REQUIRE(file.sequence() == std::size(kSizes));
  Bytes bytes = testing::read_file(directory / "sample");
  REQUIRE(bytes.size() == file.size());
  std::filesystem::remove(directory / "sample");
  return bytes;
}

// Reads `bytes` as a file and gives the number of good chunks.
size_t read_chunks(const TemporaryDirectory& directory, const Bytes& bytes,
                   std::string* incomplete = nullptr) {
  testing::write_file(directory / "file", bytes);
  ChunkFileReader file(directory / "file", kKind);
  ChunkHeader header;
  size_t count = 0;
  for (; file.load_header(header) && file.load_payload(header.raw_length); count++) {
    REQUIRE(file.place().sequence == count);
    const Bytes expected = some_bytes(kSizes[count]);
    REQUIRE(std::ranges::equal(file.payload(), expected));
    REQUIRE(file.words().size() == (expected.size() + 7) / 8);
  }
  if (incomplete != nullptr) *incomplete = file.incomplete();
  return count;
}

ErrorKind failure(const TemporaryDirectory& directory, const Bytes& bytes, const char* message) {
  try {
    read_chunks(directory, bytes);
  } catch (const Error& error) {
    CHECK_THAT(error.what(), Catch::Contains("/file") && Catch::Contains(message));
    return error.kind();
  }
  FAIL("no error: " << message);
  return ErrorKind::internal;
}

Bytes with_header(Bytes bytes, const std::function<void(ChunkHeader&)>& change) {
  ChunkHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  change(header);
  header.header_checksum = header_checksum(header);
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

}  // namespace

TEST_CASE("chunks of a file come back, whatever pieces they were given in") {
  TemporaryDirectory directory;
  const Bytes whole = sample(directory);
  std::string incomplete;
  CHECK(read_chunks(directory, whole, &incomplete) == std::size(kSizes));
  CHECK(incomplete.empty());
  for (size_t size = 0; size < whole.size(); size += 1 + size / 20) {
    INFO("cut to " << size);
    const size_t count =
        read_chunks(directory, {whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size)}, &incomplete);
    CHECK(count < std::size(kSizes));
    if (size != 0 && size < sizeof(ChunkHeader)) CHECK_THAT(incomplete, Catch::Contains("offset 0 on"));
  }
  Bytes zeros = whole;
  zeros.resize(whole.size() + 3000);
  CHECK(read_chunks(directory, zeros, &incomplete) == std::size(kSizes));
  CHECK_THAT(incomplete, Catch::Contains("the last 3000 bytes"));
}

TEST_CASE("what is no chunk of this kind is refused by name") {
  TemporaryDirectory directory;
  const Bytes whole = sample(directory);
  CHECK(failure(directory, some_bytes(4000), "file: not a test's file") == ErrorKind::bad_input);
  CHECK(failure(directory, with_header(whole, [](auto& h) { h.magic++; }), "not a test's file") ==
        ErrorKind::bad_input);
  CHECK(failure(directory, with_header(whole, [](auto& h) { h.version = 4; }),
                "test version 4, this program reads version 3") == ErrorKind::unsupported);
  CHECK(failure(directory, with_header(whole, [](auto& h) { h.sequence = 9; }),
                "chunk 0 at offset 0: its number is 9") == ErrorKind::bad_input);
  CHECK(failure(directory, with_header(whole, [](auto& h) { h.raw_length = (1 << 20) + 1; }),
                "at most 1048576") == ErrorKind::bad_input);
  CHECK(failure(directory, with_header(whole, [](auto& h) { h.raw_length--; }), "zstd frame") ==
        ErrorKind::bad_input);
  CHECK(failure(directory, with_header(whole, [](auto& h) { h.compressed_length = ~uint64_t{0}; }),
                "claims 18446744073709551615 bytes") == ErrorKind::bad_input);
  Bytes damaged = whole;
  damaged[sizeof(ChunkHeader) + 20] ^= std::byte{1};
  CHECK(failure(directory, damaged, "checksum of its payload") == ErrorKind::bad_input);
}

TEST_CASE("a reader of chunks passes over some and goes to others") {
  TemporaryDirectory directory;
  testing::write_file(directory / "file", sample(directory));
  ChunkFileReader file(directory / "file", kKind);
  ChunkHeader header;
  std::vector<ChunkPlace> places;
  while (file.load_header(header)) {
    places.push_back(file.place());
    REQUIRE(file.skip());
  }
  REQUIRE(places.size() == std::size(kSizes));
  CHECK(file.next_offset() == file.size());
  file.go_to(places[2]);
  REQUIRE(file.load_header(header));
  REQUIRE(file.load_payload(header.raw_length));
  CHECK(std::ranges::equal(file.payload(), some_bytes(7)));
  CHECK_THAT(file.where(), Catch::Contains("file: chunk 2 at offset "));
  file.go_to({places[2].offset, 1});
  CHECK_THROWS_WITH(file.load_header(header), Catch::Contains("its number is 2"));
  file.go_to({places[2].offset + 8, 2});
  CHECK_THROWS_WITH(file.load_header(header), Catch::Contains("wrong magic"));
  file.go_to({file.size() + 1, 4});
  CHECK_FALSE(file.load_header(header));
  file.go_to({~uint64_t{0}, 4});
  CHECK_FALSE(file.load_header(header));
}

TEST_CASE("a chunk that no reader would take is not written") {
  TemporaryDirectory directory;
  ChunkFileWriter file(directory / "file", kKind, {});
  append(file, some_bytes(10), 10);
  const uint64_t size = file.size();
  CHECK_THROWS_WITH(file.begin((1 << 20) + 1), Catch::Contains("/file: a chunk has 1048577 bytes"));
  ChunkHeader header;
  file.begin(10);
  file.add(some_bytes(9));
  CHECK_THROWS_WITH(file.end(header), Catch::Contains("a chunk of 10 bytes got 9"));
  CHECK(std::filesystem::file_size(directory / "file") == size);
  CHECK_THROWS_WITH(ChunkFileWriter(directory / "file", kKind, {}), Catch::Contains("EEXIST"));
  CHECK_THROWS_WITH(ChunkFileWriter(directory / "other", kKind, {.level = 1000}),
                    Catch::Contains("zstd level 1000"));
  CHECK_FALSE(std::filesystem::exists(directory / "other"));
}

TEST_CASE("a file that somebody changed is told from the one that was written") {
  const TemporaryDirectory directory;
  const std::string path = directory / "sample";
  ChunkFileWriter file(path, kKind, {});
  file.verify();
  for (const size_t size : kSizes) append(file, some_bytes(size), 300'000);
  file.sync();
  file.verify();
  const Bytes written = testing::read_file(path);
  const auto complaint = [&]() -> std::string {
    try {
      file.verify();
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::io);
      return error.what();
    }
    return {};
  };
  {
    std::fstream in_place(path, std::ios::binary | std::ios::in | std::ios::out);
    in_place.seekp(static_cast<std::streamoff>(written.size() / 2));
    in_place.put(static_cast<char>(~static_cast<uint8_t>(written[written.size() / 2])));
  }
  CHECK(complaint().find(" are not those that were written: somebody changed it") != std::string::npos);
  std::filesystem::resize_file(path, written.size() - 1);
  CHECK(complaint().find(" instead of the ") != std::string::npos);
  std::filesystem::rename(path, path + "-moved");
  CHECK(complaint().find("No such file") != std::string::npos);
  testing::write_file(path, written);
  CHECK(complaint().find("another file") != std::string::npos);
}

}  // namespace aftercheck::recording
