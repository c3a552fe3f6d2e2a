#include "recording/store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>
#include <set>
#include <span>

#include "base/error.h"
#include "event_maker.h"
#include "recording/digest.h"

namespace aftercheck::recording {
namespace {

using testing::EventMaker;
using testing::read_file;
using testing::TemporaryDirectory;
using testing::write_file;

UniqueFd open_file(const std::filesystem::path& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  REQUIRE(fd);
  return fd;
}

std::vector<std::byte> content(const Store::Blob& blob) {
  std::vector<std::byte> bytes(blob.size + 1);
  const ssize_t n = pread(blob.fd.get(), bytes.data(), bytes.size(), 0);
  REQUIRE(n == static_cast<ssize_t>(blob.size));
  bytes.resize(blob.size);
  return bytes;
}

size_t count_files(const std::filesystem::path& directory) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(directory), {}));
}

std::vector<std::byte> part(const std::vector<std::byte>& bytes, size_t offset, size_t length) {
  offset = std::min(offset, bytes.size());
  const auto first = bytes.begin() + static_cast<ptrdiff_t>(offset);
  return {first, first + static_cast<ptrdiff_t>(std::min(length, bytes.size() - offset))};
}

}  // namespace

TEST_CASE("ranges of a file are kept under their hash") {
  TemporaryDirectory directory;
  EventMaker maker(3);
  const auto bytes = maker.bytes((3 << 20) + 123);
  write_file(directory / "file", bytes);
  const UniqueFd fd = open_file(directory / "file");
  REQUIRE(lseek(fd.get(), 77, SEEK_SET) == 77);
  Store store(directory.path(), true);
  struct Range {
    uint64_t offset, length;
  };
  // Aligned for a reflink and not, to the end, beyond it, nothing.
  const Range ranges[] = {{0, 4096},
                          {4096, 8192},
                          {0, ~uint64_t{0}},
                          {8192, ~uint64_t{0}},
                          {1, 5000},
                          {4096, 100},
                          {3 << 20, 123},
                          {3 << 20, 1 << 20},
                          {0, 0},
                          {4 << 20, 10},
                          {4096, (3 << 20) + 123 - 4096}};
  uint64_t total = 0;
  std::set<std::string> names;
  for (const Range& range : ranges) {
    INFO(range.offset << " + " << range.length);
    const auto expected = part(bytes, range.offset, range.length);
    const Store::Blob blob = store.add(fd.get(), range.offset, range.length);
    REQUIRE(blob.size == expected.size());
    REQUIRE(blob.name == digest128(expected));
    REQUIRE(content(blob) == expected);
    REQUIRE(read_file(directory.path() / "store" / to_hex(blob.name)) == expected);
    REQUIRE((fcntl(blob.fd.get(), F_GETFL) & O_ACCMODE) == O_RDONLY);
    REQUIRE(is_own_fd(blob.fd.get()));
    if (names.insert(to_hex(blob.name)).second) total += expected.size();
    const Store::Blob again = store.open(blob.name);
    REQUIRE(content(again) == expected);
  }
  REQUIRE(lseek(fd.get(), 0, SEEK_CUR) == 77);
  REQUIRE(store.size() == total);
  REQUIRE(count_files(directory / "store") == names.size());  // no temporary files stay
}

TEST_CASE("a kept file is not hit by later changes") {
  TemporaryDirectory directory;
  EventMaker maker(4);
  const auto bytes = maker.bytes(64 << 10);
  write_file(directory / "file", bytes);
  Store store(directory.path(), true);
  const Store::Blob blob = store.add(open_file(directory / "file").get(), 0, ~uint64_t{0});
  write_file(directory / "file", maker.bytes(100));
  REQUIRE(content(blob) == bytes);
  REQUIRE(content(Store(directory.path(), false).open(blob.name)) == bytes);
}

TEST_CASE("a reader may hold any number of kept files") {
  TemporaryDirectory directory;
  EventMaker maker(5);
  std::vector<Digest128> names;
  Store store(directory.path(), true);
  for (size_t i = 0; i < 100; ++i) {
    write_file(directory / "file", maker.bytes(10));
    names.push_back(store.add(open_file(directory / "file").get(), 0, ~uint64_t{0}).name);
  }
  Store reader(directory.path(), false);
  std::vector<Store::Blob> held;
  for (const Digest128& name : names) held.push_back(reader.open(name));
  REQUIRE(held.size() == 100);
}

TEST_CASE("a kept file that is a link to nowhere is named with what it leads to") {
  TemporaryDirectory directory;
  write_file(directory / "file", std::vector<std::byte>(10));
  Store store(directory.path(), true);
  const Digest128 name = store.add(open_file(directory / "file").get(), 0, ~uint64_t{0}).name;
  const std::filesystem::path kept = directory / "store" / to_hex(name);
  for (const char* target : {"/nowhere/at/all", "/dev/null/below"}) {
    std::filesystem::remove(kept);
    std::filesystem::create_symlink(target, kept);
    REQUIRE_THROWS_WITH(Store(directory.path(), false).open(name),
                        Catch::Contains(to_hex(name)) && Catch::Contains(std::string("a link to ") + target));
  }
}

TEST_CASE("files without a size or a place are kept too") {
  TemporaryDirectory directory;
  Store store(directory.path(), true);
  const Store::Blob version = store.add(open_file("/proc/version").get(), 0, 1 << 20);
  REQUIRE(version.size > 10);
  const Store::Blob zeros = store.add(open_file("/dev/zero").get(), 0, 3 << 20);
  REQUIRE(zeros.size == 3 << 20);
  const UniqueFd memory(memfd_create("aftercheck-test", MFD_CLOEXEC));
  REQUIRE(write(memory.get(), "abcdef", 6) == 6);
  REQUIRE(store.add(memory.get(), 2, 3).name == digest128(std::as_bytes(std::span("cde", 3))));
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  REQUIRE_THROWS_WITH(store.add(ends[0], 0, 10), Catch::Contains("ESPIPE"));
  close(ends[0]);
  close(ends[1]);
  REQUIRE(count_files(directory / "store") == 3);
}

TEST_CASE("descriptors don't leak") {
  TemporaryDirectory directory;
  Store store(directory.path(), true);
  write_file(directory / "file", std::vector<std::byte>(5000));
  const UniqueFd fd = open_file(directory / "file");
  const size_t before = count_files("/proc/self/fd");
  for (int i = 0; i < 200; i++) {
    const Store::Blob blob = store.add(fd.get(), 0, 5000);
    store.open(blob.name);
  }
  REQUIRE_THROWS_AS(store.open(Digest128{}), Error);
  REQUIRE_THROWS_AS(store.add(-1, 0, 10), Error);
  REQUIRE(count_files("/proc/self/fd") == before);
}

TEST_CASE("a missing or damaged blob is named") {
  TemporaryDirectory directory;
  EventMaker maker(5);
  Store store(directory.path(), true);
  const auto bytes = maker.bytes(10000);
  write_file(directory / "file", bytes);
  const UniqueFd fd = open_file(directory / "file");
  const Digest128 name = store.add(fd.get(), 0, 10000).name;
  const auto path = directory.path() / "store" / to_hex(name);
  const auto message_of = [&](const Digest128& which) {
    try {
      store.open(which);
    } catch (const Error& e) {
      REQUIRE(e.kind() == ErrorKind::bad_input);
      return std::string(e.what());
    }
    return std::string("no error");
  };
  Digest128 other = name;
  other[0] ^= 1;
  REQUIRE_THAT(message_of(other), Catch::Contains(to_hex(other)) && Catch::Contains("missing"));
  for (const size_t size : {size_t{0}, size_t{9999}, size_t{10000}, size_t{10001}}) {
    auto damaged = bytes;
    damaged.resize(size);
    if (size == 10000) damaged[5000] ^= std::byte{1};
    std::filesystem::remove(path);
    write_file(path, damaged);
    REQUIRE_THAT(message_of(name), Catch::Contains(path.string()) && Catch::Contains("damaged"));
  }
  // Keeping the same bytes again mends the store.
  REQUIRE(content(store.add(fd.get(), 0, 10000)) == bytes);
  REQUIRE(content(store.open(name)) == bytes);
  std::filesystem::remove(path);
  REQUIRE(mkfifo(path.c_str(), 0600) == 0);
  REQUIRE_THAT(message_of(name), Catch::Contains("not a regular file"));
}

TEST_CASE("a store that can't be written says so and stays clean") {
  TemporaryDirectory directory;
  REQUIRE_THROWS_AS(Store(directory / "nowhere", true), Error);
  Store store(directory.path(), true);
  const UniqueFd zero = open_file("/dev/zero");
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{1 << 20, before.rlim_max};
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
  std::string message;
  try {
    store.add(zero.get(), 0, 2 << 20);
  } catch (const Error& e) {
    message = e.what();
  }
  REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
  std::signal(SIGXFSZ, handler);
  REQUIRE_THAT(message, Catch::Contains("EFBIG"));
  REQUIRE(count_files(directory / "store") == 0);
}

namespace {

// Bytes that can be compressed, by less than what a reader refuses to believe.
std::vector<std::byte> squeezable(size_t size) {
  EventMaker maker(7);
  auto bytes = maker.bytes(size);
  for (size_t i = 0; i < size; ++i)
    if (i % 64 > 3) bytes[i] = std::byte{'x'};
  return bytes;
}

// A store with one blob in it, which lies there compressed.
struct CompressedBlob {
  TemporaryDirectory directory;
  const std::vector<std::byte> bytes = squeezable(10'000);
  Digest128 name{};
  std::filesystem::path path;

  CompressedBlob() {
    Store store(directory.path(), true);
    write_file(directory / "file", bytes);
    store.compress();
    name = store.add(open_file(directory / "file").get(), 0, bytes.size()).name;
    store.finish();
    path = directory.path() / "store" / to_hex(name);
  }
};

}  // namespace

TEST_CASE("blobs are compressed once the recording is finished") {
  TemporaryDirectory directory;
  EventMaker maker(7);
  const auto text = squeezable(3 << 20);
  const auto noise = maker.bytes(1 << 20);
  std::vector<std::byte> odd(5000);  // begins as a compressed blob does
  std::memcpy(odd.data(), "AFTCKBLB", 8);
  std::vector<Digest128> names;
  {
    Store store(directory.path(), true);
    store.compress();
    for (const auto& bytes : {text, noise, odd}) {
      write_file(directory / "file", bytes);
      names.push_back(store.add(open_file(directory / "file").get(), 0, bytes.size()).name);
      std::filesystem::remove(directory / "file");
      REQUIRE(content(store.open(names.back())) == bytes);
    }
    store.finish();
    store.finish();
    REQUIRE(store.size() < noise.size() + text.size() / 4);
    REQUIRE(count_files(directory / "store") == 3);
  }
  Store store(directory.path(), false);
  REQUIRE(content(store.open(names[0])) == text);
  REQUIRE(content(store.open_unread(names[0])) == text);
  REQUIRE(content(store.open(names[1])) == noise);
  REQUIRE(content(store.open(names[2])) == odd);
  // Plain, it is told from a compressed one by its hash.
  std::filesystem::remove(directory.path() / "store" / to_hex(names[2]));
  write_file(directory.path() / "store" / to_hex(names[2]), odd);
  REQUIRE(content(store.open(names[2])) == odd);
}

TEST_CASE("a file that can't be brought to the disk is named") {
  TemporaryDirectory directory;
  Store store(directory.path(), true);
  REQUIRE_THROWS_WITH(store.bring_to_disk(directory / "missing"), Catch::Contains("missing"));
  store.compress();
  store.bring_to_disk(directory / "gone");
  REQUIRE_THROWS_WITH(store.sync(), Catch::Contains("gone: No such file"));
}

TEST_CASE("what is finished before there was time for it is not compressed") {
  TemporaryDirectory directory;
  const auto text = squeezable(3 << 20);
  write_file(directory / "file", text);
  Store store(directory.path(), true);
  store.compress(std::chrono::hours(1));
  const Digest128 name = store.add(open_file(directory / "file").get(), 0, text.size()).name;
  store.bring_to_disk(directory / "file");
  store.bring_to_disk(directory.path());
  store.sync();
  store.finish();
  CHECK(store.size() == text.size());
  CHECK(count_files(directory / "store") == 1);
  CHECK(content(store.open(name)) == text);
}

TEST_CASE("a damaged compressed blob is named or right, whatever byte it is") {
  const CompressedBlob blob;
  const auto& path = blob.path;
  const auto whole = read_file(path);
  REQUIRE(whole.size() < 1000);
  Store store(blob.directory.path(), false);
  // zstd has bits that change nothing.
  const auto refused_or_right = [&] {
    try {
      return content(store.open(blob.name)) == blob.bytes;
    } catch (const Error& error) {
      return std::string(error.what()).find(path.string()) != std::string::npos;
    }
  };
  for (size_t at = 0; at < 2 * whole.size(); ++at) {
    auto damaged = whole;
    if (at < whole.size())
      damaged[at] ^= std::byte{1};
    else
      damaged.resize(at - whole.size());
    std::filesystem::remove(path);
    write_file(path, damaged);
    if (!refused_or_right()) FAIL_CHECK("byte or cut " << at);
  }
}

TEST_CASE("a compressed blob that claims more than its file holds gets no memory") {
  const CompressedBlob blob;
  const auto& path = blob.path;
  // A frame that zstd skips, nearly all of it a hole, in front of the blob's.
  auto whole = read_file(path);
  uint32_t frame = 0;
  std::memcpy(&frame, &whole[32], sizeof frame);
  const uint32_t skipped = 500'000, magic = 0x184d2a50, length = frame + skipped + 8;
  std::vector<std::byte> start(whole.begin(), whole.begin() + 32);
  for (const uint32_t word : {length, magic, skipped})
    for (unsigned shift = 0; shift < 32; shift += 8) start.push_back(static_cast<std::byte>(word >> shift));
  std::filesystem::remove(path);
  write_file(path, start);
  std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  const UniqueFd file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  const auto rest = std::span(whole).subspan(36);
  REQUIRE(pwrite(file.get(), rest.data(), rest.size(), static_cast<off_t>(start.size() + skipped)) ==
          static_cast<ssize_t>(rest.size()));
  Store store(blob.directory.path(), false);
  REQUIRE_THROWS_WITH(store.open(blob.name), Catch::Contains("it has holes"));
}

TEST_CASE("a recording that is not finished has plain blobs") {
  TemporaryDirectory directory;
  const std::vector<std::byte> bytes(3 << 20, std::byte{'x'});
  write_file(directory / "file", bytes);
  Digest128 name{};
  {
    Store store(directory.path(), true);
    store.compress();
    name = store.add(open_file(directory / "file").get(), 0, bytes.size()).name;
  }
  REQUIRE(count_files(directory / "store") == 1);
  REQUIRE(read_file(directory.path() / "store" / to_hex(name)) == bytes);
}

}  // namespace aftercheck::recording
