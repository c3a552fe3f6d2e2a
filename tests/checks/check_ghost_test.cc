// Checks that live on what earlier checks left in ghost memory give the same answer whatever is asked for.
#include "check_fixture.h"

namespace aftercheck::test {

TEST_CASE("ghosts: a filter changes what is reported, not what the checks find") {
  const Workplace place;
  record_guest(place, {"verdicts"});
  const char* const kLimit = "--check-limit=20";  // one of its checks is endless
  const json all = check_json(place, {kLimit});
  const json& whole = site_at(all, "28");  // counts its own hits in a ghost, fails at the third
  REQUIRE(whole["failed"] == 1);

  const json one = check_json(place, {kLimit, "--site", "verdicts.c:28"});
  REQUIRE(one["sites"].size() == 1);
  CHECK(site_at(one, "28")["failures"][0]["messages"] == whole["failures"][0]["messages"]);
  CHECK(site_at(one, "28")["logged"] == whole["logged"]);

  // Another site's log shows the ghost that the block counts in.
  const json& logged = site_at(all, "27");
  const json only_log = check_json(place, {kLimit, "--site", "verdicts.c:27"});
  CHECK(site_at(only_log, "27")["logged"].size() == 10);
  for (size_t i = 0; i < 10; ++i)
    CHECK(site_at(only_log, "27")["logged"][i]["logs"] == logged["logged"][i]["logs"]);

  // The third hit alone still is the third.
  const json third = check_json(place, {kLimit, "--site", "verdicts.c:28", "--hits", "3"});
  CHECK(site_at(third, "28")["checked"] == 1);
  CHECK(site_at(third, "28")["failed"] == 1);
  const json second = check_json(place, {kLimit, "--site", "verdicts.c:28", "--hits", "2"});
  CHECK(site_at(second, "28")["checked"] == 1);
  CHECK(site_at(second, "28")["failed"] == 0);
}

}  // namespace aftercheck::test
