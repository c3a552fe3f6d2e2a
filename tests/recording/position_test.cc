// Positions and their text.
#include "recording/position.h"

#include <catch2/catch.hpp>

#include "base/error.h"

namespace aftercheck::recording {
namespace {

Digest128 some_digest() {
  Digest128 digest{};
  for (size_t i = 0; i < digest.size(); ++i) digest[i] = static_cast<uint8_t>(i * 16 + 15 - i);
  return digest;
}

std::string error_of(const std::string& text) {
  try {
    parse_position(text);
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::usage);
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("positions: every form has one text, which is read as the same position") {
  const Arrival arrival{0x401136, 3};
  const FullState state{0x207cf5f37000, 0x0123456789abcdef, some_digest()};
  struct Case {
    Position position;
    std::string text;
  };
  const Case cases[] = {
      {{{}, 0, {}, 0, {}}, "e0"},
      {{{}, 0, {}, 1234, {}}, "e1234"},
      {{0x3fa29c01, 0, {}, 1234, {}}, "3fa29c01:e1234"},
      {{0x1, 0, {}, UINT64_MAX, {}}, "00000001:e18446744073709551615"},
      {{0, 0, {}, 5, {}}, "00000000:e5"},
      {{{}, 7, {}, 5, {}}, "p7.e5"},
      {{{}, 0, 2, 5, {}}, "t2.e5"},
      {{UINT32_MAX, UINT32_MAX, UINT32_MAX, 5, {}}, "ffffffff:p4294967295.t4294967295.e5"},
      {{{}, 0, {}, 1234, arrival}, "e1234+0x401136#3"},
      {{{}, 0, {}, 1, Arrival{UINT64_MAX, UINT64_MAX}}, "e1+0xffffffffffffffff#18446744073709551615"},
      {{0x3fa29c01, 1, 2, 9, arrival}, "3fa29c01:p1.t2.e9+0x401136#3"},
      {{{}, 0, {}, 9, state}, "e9+0x207cf5f37000=0123456789abcdef/0f1e2d3c4b5a69788796a5b4c3d2e1f0"},
      {{{}, 0, {}, 9, FullState{}}, "e9+0x0=0000000000000000/00000000000000000000000000000000"},
      {{0xabcdef01, 0, 3, 9, state},
       "abcdef01:t3.e9+0x207cf5f37000=0123456789abcdef/0f1e2d3c4b5a69788796a5b4c3d2e1f0"},
  };
  for (const Case& c : cases) {
    INFO(c.text);
    CHECK(to_text(c.position) == c.text);
    CHECK(parse_position(c.text) == c.position);
  }
}

TEST_CASE("positions: what may be left out") {
  CHECK(parse_position("1234") == Position{{}, 0, {}, 1234, {}});
  CHECK(parse_position("0") == Position{});
  CHECK(parse_position("p0.t0.e7") == Position{{}, 0, 0, 7, {}});
  CHECK(parse_position("3fa29c01:7") == Position{0x3fa29c01, 0, {}, 7, {}});
  CHECK(parse_position("7+0x10") == Position{{}, 0, {}, 7, Arrival{0x10, 1}});
  CHECK(parse_position("e7+0x10#1") == parse_position("7+0x10"));
  CHECK(parse_position("3FA29C01:e7+0xABC") == Position{0x3fa29c01, 0, {}, 7, Arrival{0xabc, 1}});
}

TEST_CASE("positions: wrong texts are told what was expected, and where") {
  struct Case {
    const char *text, *expected, *at;
  };
  const Case cases[] = {
      {"", "an event's number", "\"\""},
      {"e", "an event's number", "\"\""},
      {"x", "an event's number", "\"x\""},
      {"-1", "an event's number", "\"-1\""},
      {"e-1", "an event's number", "\"-1\""},
      {" 1", "an event's number", "\" 1\""},
      {"ee1", "an event's number", "\"e1\""},
      {"E1", "an event's number", "\"E1\""},
      {"0x10", "the end", "\"x10\""},
      {"1 ", "the end", "\" \""},
      {"e1.", "the end", "\".\""},
      {"e1#2", "the end", "\"#2\""},
      {"18446744073709551616", "an event's number", "\"18446744073709551616\""},
      {"e1+", "an address that starts with 0x", "\"\""},
      {"e1+401136", "an address that starts with 0x", "\"401136\""},
      {"e1+0x", "an address", "\"\""},
      {"e1+0xg", "an address", "\"g\""},
      {"e1+0x10000000000000000", "an address", "\"10000000000000000\""},
      {"e1+0x10#", "a count", "\"\""},
      {"e1+0x10#0", "a count from 1 on", "\"\""},
      {"e1+0x10#x", "a count", "\"x\""},
      {"e1+0x10#1#2", "the end", "\"#2\""},
      {"e1+0x10#1=2", "the end", "\"=2\""},
      {"e1+0x10=", "sixteen hexadecimal digits", "\"\""},
      {"e1+0x10=123", "sixteen hexadecimal digits", "\"123\""},
      {"e1+0x10=-123456789abcdef", "sixteen hexadecimal digits", "\"-123456789abcdef\""},
      {"e1+0x10=0123456789abcdef", "\"/\"", "\"\""},
      {"e1+0x10=0123456789abcdef0/", "\"/\"", "\"0/\""},
      {"e1+0x10=0123456789abcdef/", "thirty-two hexadecimal digits", "\"\""},
      {"e1+0x10=0123456789abcdef/0123456789abcdef0123456789abcde", "thirty-two hexadecimal digits", "\"e\""},
      {"e1+0x10=0123456789abcdef/0123456789abcdef0123456789abcdef0", "the end", "\"0\""},
      {"e1+0x10=0123456789abcdef/0123456789abcdef0123456789abcdeg", "thirty-two hexadecimal digits",
       "\"eg\""},
      {"3fa29c0:e1", "eight hexadecimal digits", "\"3fa29c0:e1\""},
      {"3fa29c012:e1", "eight hexadecimal digits", "\"3fa29c012:e1\""},
      {"3fa29c0g:e1", "eight hexadecimal digits", "\"3fa29c0g:e1\""},
      {":e1", "eight hexadecimal digits", "\":e1\""},
      {"p1e1", "a process's number and \".\"", "\"e1\""},
      {"p.e1", "a process's number and \".\"", "\".e1\""},
      {"p4294967296.e1", "a process's number", ""},
      {"t4294967296.e1", "a thread's number", ""},
      {"t1", "a thread's number and \".\"", "\"\""},
      {"t1.p1.e1", "an event's number", "\"p1.e1\""},
  };
  for (const Case& c : cases) {
    INFO(c.text);
    const std::string error = error_of(c.text);
    CHECK_THAT(error,
               Catch::Contains(std::string("position \"") + c.text + "\": ") &&
                   Catch::Contains(std::string(c.expected) + (*c.at == '\0' ? "" : " expected at ") + c.at) &&
                   Catch::Contains("eEVENT"));
  }
}

TEST_CASE("positions: every cut of a whole text is a position or an error of usage") {
  const std::string whole =
      to_text({0xabcdef01, 4, 3, 90, FullState{0x207cf5f37000, 0x0123456789abcdef, some_digest()}});
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string error = error_of(whole.substr(0, size));
    INFO(whole.substr(0, size));
    CHECK((error == "no error" || error.find("position \"") == 0));
  }
  CHECK(error_of(whole + std::string(1, '\0')) != "no error");
}

TEST_CASE("positions: of which recording") {
  Meta meta;
  meta.writer = "aftercheck 1";
  meta.command = {"a", "b"};
  meta.start_time_ns = 5;
  const uint32_t id = recording_id(meta);
  CHECK(recording_id(meta) == id);
  Meta other = meta;
  other.environment = {"X=1"};
  other.working_directory = "/elsewhere";
  CHECK(recording_id(other) == id);
  for (int change = 0; change < 4; ++change) {
    other = meta;
    if (change == 0) other.writer = "aftercheck 2";
    if (change == 1) other.command = {"ab"};
    if (change == 2) other.command = {"a b"};
    if (change == 3) other.start_time_ns = 6;
    INFO(change);
    CHECK(recording_id(other) != id);
  }
  Position position;
  position.event = 3;
  CHECK_NOTHROW(check_belongs(position, meta));
  position.recording = id;
  CHECK_NOTHROW(check_belongs(position, meta));
  position.process = 1;
  CHECK_THROWS_WITH(check_belongs(position, meta),
                    Catch::Contains(to_text(position)) && Catch::Contains("this is process 0"));
  position.process = 0;
  for (const std::optional<uint32_t> thread : {std::optional<uint32_t>(), std::optional(4U)}) {
    position.thread = thread;
    CHECK_NOTHROW(check_belongs(position, meta));
    CHECK_NOTHROW(check_thread(position, 4));
  }
  CHECK_THROWS_WITH(check_thread(position, 0),
                    Catch::Contains(to_text(position)) && Catch::Contains("thread 0 that runs"));
  position.thread.reset();
  position.recording = id ^ 1;
  try {
    check_belongs(position, meta);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::usage);
    CHECK_THAT(error.what(), Catch::Contains(to_text(position)) && Catch::Contains("another recording") &&
                                 Catch::Contains(fmt::format("{:08x}", id)));
  }
}

}  // namespace aftercheck::recording
