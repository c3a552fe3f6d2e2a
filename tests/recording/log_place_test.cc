// Readers that start in the middle of the log.
#include <catch2/catch.hpp>
#include <thread>

#include "base/error.h"
#include "event_maker.h"
#include "recording/reader.h"
#include "recording/writer.h"

namespace aftercheck::recording {
namespace {

using testing::EventMaker;
using testing::TemporaryDirectory;
using testing::to_text;

// What a reader from the start says of each event.
struct Known {
  std::string text;
  LogPlace place;
};

// A log of chunks with 3, 1 and 4 events and the end; `writer` tells places.
std::vector<Known> write_log(Writer& writer, const TemporaryDirectory& directory) {
  EventMaker maker(17);
  for (const int count : {3, 1, 4}) {
    for (int i = 0; i < count; i++) writer.append(maker.make());
    writer.flush();
  }
  Event end;
  end.kind = EventKind::end;
  writer.append(end);
  writer.finish();
  std::vector<Known> known;
  Reader reader(directory.path());
  CHECK(reader.place() == LogPlace{});
  while (const Event* event = reader.next()) known.push_back({to_text(*event), reader.place()});
  REQUIRE(known.size() == 9);
  CHECK(reader.place() == known.back().place);  // the end of the file is no place
  return known;
}

void check_refused(const TemporaryDirectory& directory, LogPlace place, uint64_t next_event,
                   const char* message) {
  INFO(place.chunk_offset << " " << place.chunk_sequence << " " << place.chunk_first_event << " "
                          << next_event);
  try {
    Reader(directory.path(), place, next_event);
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::bad_input);
    CHECK_THAT(error.what(), Catch::Contains("/events") && Catch::Contains("offset") &&
                                 Catch::Contains(std::to_string(place.chunk_offset)) &&
                                 Catch::Contains(message));
    return;
  }
  FAIL_CHECK("not refused");
}

}  // namespace

TEST_CASE("a reader that starts at a place reads what one from the start does") {
  TemporaryDirectory directory;
  Writer writer(directory.path());
  const std::vector<Known> known = write_log(writer, directory);
  for (size_t from = 0; from < known.size(); from++) {
    const LogPlace& place = known[from].place;
    for (size_t next = place.chunk_first_event; next <= known.size(); next++) {
      // An event of the chunk, or the first of the one after it.
      const bool inside = next < known.size() && known[next].place == place;
      const bool follows = next > from && (next == known.size() || known[next].place != place) &&
                           known[next - 1].place == place;
      if (!inside && !follows) continue;
      INFO("event " << next << " from the chunk of " << from);
      Reader reader(directory.path(), place, next);
      CHECK(reader.place() == place);
      for (size_t i = next; i < known.size(); i++) {
        const Event* event = reader.next();
        REQUIRE(event != nullptr);
        CHECK(reader.number() == i);
        CHECK(reader.place() == known[i].place);
        REQUIRE(to_text(*event) == known[i].text);
      }
      CHECK(reader.next() == nullptr);
      CHECK_FALSE(reader.truncated());
      CHECK(reader.progress() == 1);
    }
  }
}

TEST_CASE("the writer knows the places of what it has written") {
  TemporaryDirectory directory;
  Writer writer(directory.path(), {.flush_interval = std::chrono::hours(1)});
  CHECK_FALSE(writer.place_of(0).has_value());
  EventMaker maker(3);
  writer.append(maker.make());
  CHECK_FALSE(writer.place_of(0).has_value());  // its chunk is open
  writer.flush();
  for (int i = 0; i < 2000 && !writer.place_of(0); i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK(writer.place_of(0) == LogPlace{0, 0, 0});
  CHECK_FALSE(writer.place_of(1).has_value());

  TemporaryDirectory other;
  Writer whole(other.path());
  const std::vector<Known> known = write_log(whole, other);
  for (size_t i = 0; i < known.size(); i++) CHECK(whole.place_of(i) == known[i].place);
  CHECK_FALSE(whole.place_of(known.size()).has_value());
  CHECK_FALSE(whole.place_of(~uint64_t{0}).has_value());
}

TEST_CASE("places that do not fit the log are refused") {
  TemporaryDirectory directory;
  Writer writer(directory.path());
  const std::vector<Known> known = write_log(writer, directory);
  const LogPlace good = known[4].place;  // the chunk of events 4 to 7
  REQUIRE(good.chunk_first_event == 4);
  LogPlace place = good;
  place.chunk_offset++;
  check_refused(directory, place, 4, "wrong magic");
  place.chunk_offset = std::filesystem::file_size(directory / "events");
  check_refused(directory, place, 4, "there is no whole chunk");
  place.chunk_offset = ~uint64_t{0};
  check_refused(directory, place, 4, "there is no whole chunk");
  place = good;
  place.chunk_sequence--;
  check_refused(directory, place, 4, "its number is 2");
  place = good;
  place.chunk_first_event = 5;
  check_refused(directory, place, 5, "event");
  place.chunk_first_event = ~uint64_t{0};
  check_refused(directory, place, 5, "event");
  check_refused(directory, good, 3, "event 3 is neither");
  check_refused(directory, good, 9, "event 9 is neither");
  check_refused(directory, good, ~uint64_t{0}, "neither");
  check_refused(directory, known[0].place, 4, "event 4 is neither");

  // The log was cut after the place had been taken.
  std::filesystem::resize_file(directory / "events", good.chunk_offset + 100);
  check_refused(directory, good, 4, "there is no whole chunk");
  Reader reader(directory.path(), known[3].place, 4);
  CHECK(reader.next() == nullptr);
  std::string why;
  CHECK(reader.truncated(&why));
  CHECK_THAT(why, Catch::Contains("the last 100 bytes"));
}

}  // namespace aftercheck::recording
