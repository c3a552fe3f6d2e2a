// What an event's answer says: bytes as they were noted, and nothing of what went away.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <vector>

#include "recording/writer.h"
#include "syscall_fixture.h"

using namespace aftercheck;
using namespace aftercheck::test;

namespace {

constexpr Range kPlace{kMainWindow.start + (1ULL << 34), kMainWindow.start + (1ULL << 34) + (16 << 20)};

struct Written {
  uint64_t address = 0;
  std::string bytes;
  friend bool operator==(const Written&, const Written&) = default;
};

struct AnswerFixture : ProcessFixture {
  AnswerFixture() {
    REQUIRE(memory.map_anonymous(answer, kPlace, PROT_READ | PROT_WRITE, false) == 0);
    taken();
  }
  std::vector<Written> taken() {
    answer.move_to(event);
    std::vector<Written> all;
    for (const recording::MemoryWrite& write : event.writes)
      all.push_back({write.address, {reinterpret_cast<const char*>(write.bytes.data()), write.bytes.size()}});
    return all;
  }
  static char* at(uint64_t offset) { return reinterpret_cast<char*>(kPlace.start + offset); }

  recording::Event event;
};

}  // namespace

TEST_CASE("an answer has the bytes of the moment when they were noted, in order", "[answer]") {
  AnswerFixture guest;
  std::memcpy(guest.at(0), "first", 5);
  guest.answer.written(kPlace.start, 5);
  std::memcpy(guest.at(0), "other", 5);  // another thread, say
  CHECK(guest.taken() == std::vector<Written>{{kPlace.start, "first"}});
  guest.answer.written(kPlace.start, 5);
  CHECK(guest.answer.write(kPlace.start + 1, "xx", 2));
  CHECK(guest.taken() == std::vector<Written>{{kPlace.start, "other"}, {kPlace.start + 1, "xx"}});
  CHECK(guest.taken().empty());
}

TEST_CASE("what was noted in a mapping that went away is not in the answer", "[answer]") {
  AnswerFixture guest;
  const uint64_t page = kPlace.start + kPageSize;
  std::string text(3 * kPageSize, 'a');
  text.replace(2 * kPageSize + 7, 3, "xyz");
  REQUIRE(guest.answer.write(page - 2, text.data(), text.size()));
  SECTION("unmapped") {
    REQUIRE(guest.memory.unmap(guest.answer, {page, page + 2 * kPageSize}) == 0);
    CHECK(guest.taken() ==
          std::vector<Written>{{page - 2, "aa"},
                               {page + 2 * kPageSize, text.substr(2 * kPageSize + 2, kPageSize - 2)}});
  }
  SECTION("mapped anew") {
    REQUIRE(guest.memory.map_anonymous(guest.answer, kPlace, PROT_READ | PROT_WRITE, false) == 0);
    CHECK(guest.taken().empty());
  }
  SECTION("discarded") {
    REQUIRE(guest.memory.discard(guest.answer, {page, page + 3 * kPageSize}) == 0);
    CHECK(guest.taken() == std::vector<Written>{{page - 2, "aa"}});
  }
  SECTION("by execve") {
    guest.memory.clear(guest.answer);
    CHECK(guest.taken().empty());
    REQUIRE(guest.event.space_ops.size() == 1);
  }
}

TEST_CASE("more than an entry of the log holds is noted too", "[answer]") {
  AnswerFixture guest;
  const uint64_t size = recording::kMaxEventBytes + 5;
  std::memset(guest.at(0), 'b', size);
  guest.answer.written(kPlace.start + size, 3);
  guest.answer.written(kPlace.start, size);
  const std::vector<Written> written = guest.taken();
  REQUIRE(written.size() == 2);
  CHECK(written[1].bytes == std::string(size, 'b'));
}

TEST_CASE("a read into a mapping beyond its file's end fails and is recorded", "[answer]") {
  SystemCalls guest;
  const long fd = guest.call(SYS_open, guest.text(guest.directory.write("short", "text")), O_RDWR);
  const long zero = guest.call(SYS_open, guest.text("/dev/zero"), O_RDONLY);
  const long mapped = guest.call(SYS_mmap, 0, 3 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  REQUIRE(mapped > 0);
  CHECK(guest.call(SYS_read, zero, mapped + kPageSize, kPageSize) == -EFAULT);
  CHECK(guest.noted_bytes == 0);
  CHECK(guest.call(SYS_uname, mapped + kPageSize - 100) == -EFAULT);
  CHECK(guest.noted_bytes == 100);
}
