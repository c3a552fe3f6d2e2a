// Checks that live on what earlier checks left in ghost memory give the same answer whatever is asked for.
#include "check_fixture.h"

namespace aftercheck::test {

namespace {

// The report of checks on the soft vCPU, which sets pages aside, or as translated code, which journals
// stores.
json check_on(const std::string& machine, const Workplace& place, std::vector<std::string> options) {
  options.push_back("--machine=" + machine);
  return check_json(place, options);
}

}  // namespace

TEST_CASE("ghosts: a filter changes what is reported, not what the checks find") {
  const std::string machine = GENERATE("soft", "auto");
  const Workplace place;
  record_guest(place, {"verdicts"});
  const char* const kLimit = "--check-limit=20";  // one of its checks is endless
  const json all = check_on(machine, place, {kLimit});
  const json& whole = site_at(all, "28");  // counts its own hits in a ghost, fails at the third
  REQUIRE(whole["failed"] == 1);

  const json one = check_on(machine, place, {kLimit, "--site", "verdicts.c:28"});
  REQUIRE(one["sites"].size() == 1);
  CHECK(site_at(one, "28")["failures"][0]["messages"] == whole["failures"][0]["messages"]);
  CHECK(site_at(one, "28")["logged"] == whole["logged"]);

  // Another site's log shows the ghost that the block counts in.
  const json& logged = site_at(all, "27");
  const json only_log = check_on(machine, place, {kLimit, "--site", "verdicts.c:27"});
  CHECK(site_at(only_log, "27")["logged"].size() == 10);
  for (size_t i = 0; i < 10; ++i)
    CHECK(site_at(only_log, "27")["logged"][i]["logs"] == logged["logged"][i]["logs"]);

  // The third hit alone still is the third.
  const json third = check_on(machine, place, {kLimit, "--site", "verdicts.c:28", "--hits", "3"});
  CHECK(site_at(third, "28")["checked"] == 1);
  CHECK(site_at(third, "28")["failed"] == 1);
  const json second = check_on(machine, place, {kLimit, "--site", "verdicts.c:28", "--hits", "2"});
  CHECK(site_at(second, "28")["checked"] == 1);
  CHECK(site_at(second, "28")["failed"] == 0);
}

TEST_CASE("ghosts: hits outside of the wanted events feed ghosts and are not counted") {
  const std::string machine = GENERATE("soft", "auto");
  const Workplace place;
  record_guest(place, {"verdicts"});
  const char* const kLimit = "--check-limit=1";
  const json all = check_on(machine, place, {kLimit});
  const json& logged = site_at(all, "27");
  REQUIRE(logged["hits"] == 10);
  const auto first = logged["logged"].front()["event"].get<uint64_t>(),
             last = logged["logged"].back()["event"].get<uint64_t>();
  REQUIRE(first > 0);
  for (const std::string& events : {std::to_string(last + 1) + "-", "-" + std::to_string(first - 1)}) {
    INFO(events);
    const json none = check_on(machine, place, {kLimit, "--events", events});
    CHECK(site_at(none, "27")["hits"] == 0);
    CHECK(site_at(none, "27")["checked"] == 0);
  }
}

TEST_CASE("ghosts: their contents outlive changes of their page's rights, and checks that leave them alone") {
  const Workplace place;
  record_guest(place, {"memories"});
  for (const std::string machine : {"soft", "kvm", "translated"}) {
    if (machine != "soft" && !works_on(machine, place)) continue;
    const json report = check_json(place, {"--machine=" + machine});
    for (const json& site : report["sites"]) {
      INFO(site["line"] << ": " << site["failures"]);
      CHECK(site["hits"] == (site["text"] == "i >= 0" ? 1500 : 6));
      CHECK(site["failed"] == 0);
      CHECK(site["passed"] == site["hits"]);
    }
  }
}

}  // namespace aftercheck::test
