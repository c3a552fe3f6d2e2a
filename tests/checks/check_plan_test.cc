// Landing by plan gives what landing at every hit gives, with fewer stops.
#include "check_fixture.h"

namespace aftercheck::test {
namespace {

json without_stops(json report) {
  report.erase("stops");
  return comparable(std::move(report));
}

struct Both {
  json planned, naive;
};

Both check_both(const Workplace& place, std::vector<std::string> options) {
  const json planned = check_json(place, options);
  options.emplace_back("--no-plan");
  return {planned, check_json(place, options)};
}

}  // namespace

TEST_CASE("plans: the same report as with a stop at every hit, with fewer stops") {
  const Workplace place;
  Finished recorded =
      run_tool({"record", "-o", "recording", "--pt=soft", "--", guest_path("requests")}, place.path());
  REQUIRE(recorded.status == 0);
  struct Choice {
    std::vector<std::string> options;
    double share;  // of the naive stops that the plan may need
  };
  const Choice choice = GENERATE(Choice{{"--hits", "17", "--site", "requests.c:14"}, 1},
                                 Choice{{"--hits", "50000", "--site", "requests.c:14"}, 0.02},
                                 Choice{{"--hits", "every 7000", "--site", "requests.c:14"}, 0.05},
                                 Choice{{"--hits", "20-25"}, 0.05}, Choice{{"--hits", "first 3"}, 0.05},
                                 Choice{{"--hits", "40", "--site", "requests.c:24"}, 1});
  INFO(choice.options[1]);
  for (const char* machine : {"--machine=soft", "--machine=auto"}) {
    std::vector<std::string> options = choice.options;
    options.emplace_back(machine);
    const Both both = check_both(place, options);
    CHECK(without_stops(both.planned) == without_stops(both.naive));
    const auto planned = both.planned["stops"].get<uint64_t>(), naive = both.naive["stops"].get<uint64_t>();
    INFO(planned << " of " << naive << " stops");
    CHECK(static_cast<double>(planned) <= choice.share * static_cast<double>(naive));
    CHECK(naive > 0);
  }
}

TEST_CASE("plans: a recording without a trace is checked all the same") {
  const Workplace place;
  record_guest(place, {"requests"});
  const Both both = check_both(place, {"--machine=soft", "--hits", "every 7000"});
  CHECK(both.planned["stops"] == both.naive["stops"]);
  CHECK(without_stops(both.planned) == without_stops(both.naive));
}

}  // namespace aftercheck::test
