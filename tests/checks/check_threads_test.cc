// Checks of programs with several threads.
#include "check_fixture.h"

namespace aftercheck::test {
namespace {

using Catch::Matchers::Contains;

const Workplace& recorded() {
  static const Workplace place;
  static const bool done = [] {
    REQUIRE(record_guest(place, {"threads"}).status == 0);
    return true;
  }();
  REQUIRE(done);
  return place;
}

std::string around(std::string before, const std::string& thread, const char* after) {
  return before.append(thread).append(after);
}

}  // namespace

TEST_CASE("check: a hit is its thread's, ghosts are everybody's") {
  const json report = check_json(recorded());
  const json& site = site_at(report, "id != 2 || *round != 7");
  CHECK(site["hits"] == 60);
  REQUIRE(site["failed"] == 1);
  const json& hit = site["failures"][0];
  const std::string thread = hit["thread"].dump();  // in the order in which they began
  CHECK(hit["thread"] >= 1);
  CHECK(hit["thread"] <= 3);
  CHECK_THAT(hit["position"].get<std::string>(), Contains(around(":t", thread, ".e")));
  CHECK(hit["stack"][0]["function"] == "visit");
  CHECK(hit["stack"][1]["function"] == "work");
  const json& block = site_at(report, "14");
  REQUIRE(block["failed"] == 1);
  CHECK(block["failures"][0]["hit"] == 60);

  const Finished text = check_guest(recorded(), {"--machine=soft", "--html", "page.html"});
  CHECK_THAT(text.out, Contains(around(" in thread ", thread, ": after event")));
  CHECK_THAT(read_file(recorded() / "page.html"), Contains(around(" in thread ", thread, ", after event")));
}

TEST_CASE("check: threads' hits are the same on each machine, and in parts") {
  const json report = check_json(recorded());
  for (const std::string machine : {"kvm", "translated"}) {
    if (!works_on(machine, recorded())) continue;
    INFO(machine);
    CHECK(comparable(check_json(recorded(), {"--machine=" + machine}))["sites"] ==
          comparable(report)["sites"]);
  }
  const std::vector<std::string> one = {"--machine=soft", "--site", "threads.c:13"};
  std::vector<std::string> parts = one;
  parts.insert(parts.end(), {"--jobs", "3"});
  CHECK(comparable(check_json(recorded(), parts))["sites"] ==
        comparable(check_json(recorded(), one))["sites"]);
}

TEST_CASE("check: --at takes a hit's thread, and no other") {
  const json report = check_json(recorded());
  const json& hit = site_at(report, "id != 2 || *round != 7")["failures"][0];
  std::string position = hit["position"];
  const json again = check_json(recorded(), {"--machine=soft", "--at", position});
  CHECK(site_at(again, "id != 2 || *round != 7")["failures"][0]["address"] == hit["address"]);
  const std::string thread = hit["thread"].dump();
  const size_t at = position.find(":t") + 2;
  const std::string after = position.substr(at + thread.size());
  position.resize(at);
  position.append("7").append(after);
  const Finished other = check_guest(recorded(), {"--machine=soft", "--at", position});
  CHECK(other.status == 2);
  CHECK_THAT(other.err, Contains(around("thread ", thread, " that runs")));
}

}  // namespace aftercheck::test
