// `aftercheck check` of parts of a recording: by jobs, from checkpoints, some events, one hit. What the whole
// has is what the parts have.
#include <algorithm>
#include <utility>

#include "check_fixture.h"
#include "tests/base/sanitized.h"

namespace aftercheck::test {

using Catch::Matchers::Contains;

TEST_CASE("check: jobs find what one process finds") {
  const Workplace place;
  REQUIRE(record_guest(place, {"hits", "30000"}).status == 0);
  json report = comparable(check_json(place, {"--machine=soft", "--check-limit=1"}));
  for (const char* jobs : {"2", "3", "50"}) {
    json split = comparable(check_json(place, {"--machine=soft", "--check-limit=1", "--jobs", jobs}));
    // Each job opens pages of its own.
    split["pages_opened"] = report["pages_opened"];
    CHECK(split == report);
  }
  CHECK(check_guest(place, {"--jobs=2", "--hits=1"}).status == 2);
  CHECK(check_guest(place, {"--jobs=0"}).status == 2);

  const Workplace ghosts;
  record_guest(ghosts, {"verdicts"});
  const std::vector<std::string> options = {"--machine=soft", "--check-limit=1"};
  const Finished alone = check_guest(ghosts, options);
  const Finished together = check_guest(ghosts, {"--machine=soft", "--check-limit=1", "--jobs=2"});
  CHECK(together.status == 1);
  CHECK_THAT(together.out, Catch::Matchers::StartsWith(alone.out) && Contains("ghost state"));
}

namespace {

// What must be the same however the events were reached.
json found(json report) {
  report = comparable(std::move(report));
  for (const char* name : {"stops", "pages_opened", "jobs", "remark"}) report.erase(name);
  return report;
}

void make_checkpoints(const Workplace& place) {
  const Finished made = run_tool({"checkpoint", "--machine=soft", "--every", "0", "recording"}, place.path());
  INFO(made.err);
  REQUIRE(made.status == 0);
}

// Jobs by fork, then jobs from checkpoints, against one process.
void check_jobs(const std::string& machine, const std::vector<std::string>& guest) {
  const Workplace place;
  record_guest(place, guest);
  if (machine == "--machine=kvm" && !works_on("kvm", place)) return;
  const std::vector<std::string> alone = {machine, "--check-limit=1"};
  const json report = found(check_json(place, alone));
  const std::string shown = check_guest(place, {machine, "--check-limit=1", "--show-output"}).out;
  for (const bool kept : {false, true}) {
    if (kept) make_checkpoints(place);
    for (const char* jobs : {"3", "7"}) {
      if (machine == "--machine=kvm" && *jobs == '7') continue;  // its time goes into stops
      INFO("jobs: " << jobs << ", checkpoints: " << kept);
      std::vector<std::string> options = alone;
      options.insert(options.end(), {"--jobs", jobs});
      CHECK(found(check_json(place, options)) == report);
      options.emplace_back("--show-output");
      // With ghost state a remark follows.
      CHECK_THAT(check_guest(place, options).out, Catch::Matchers::StartsWith(shown));
    }
    CHECK(found(check_json(place, alone)) == report);
  }
}

}  // namespace

TEST_CASE("check: jobs from checkpoints and by fork, on the soft vCPU") {
  check_jobs("--machine=soft", {"requests"});
}
TEST_CASE("check: jobs from checkpoints and by fork, on KVM") { check_jobs("--machine=kvm", {"requests"}); }
TEST_CASE("check: jobs and libraries that come and go, on the soft vCPU") {
  check_jobs("--machine=soft", {"loads", AFTERCHECK_VASSERT_GUESTS});
}
TEST_CASE("check: jobs with ghost state, on the soft vCPU") { check_jobs("--machine=soft", {"verdicts"}); }
TEST_CASE("check: jobs with ghost state, on KVM") { check_jobs("--machine=kvm", {"verdicts"}); }

TEST_CASE("check: jobs number hits by the program and within other checks as one replay does") {
  check_jobs("--machine=soft", {"rounds"});
  const Workplace place;
  record_guest(place, {"rounds"});
  const json report = check_json(place);
  unsigned nested = 0;
  for (const json& hit : site_at(report, "i % 5 != 3")["failures"]) nested += hit.contains("nested") ? 1 : 0;
  CHECK(nested > 3);
  CHECK(site_at(report, "i % 5 != 3")["failures"].size() > nested + 5);
  for (const char* most : {"1", "4"})
    CHECK(found(check_json(place, {"--machine=soft", "--limit-failures", most, "--jobs=3"})) ==
          found(check_json(place, {"--machine=soft", "--limit-failures", most})));
}

TEST_CASE("check: jobs give up endless checks where one replay does") {
  for (const char* endless : {"2", "3", "6"}) {
    INFO(endless << " endless");
    check_jobs("--machine=soft", {"endless", endless});
    const Workplace place;
    record_guest(place, {"endless", endless});
    const json report = check_json(place, {"--machine=soft", "--check-limit=1", "--jobs=3"});
    CHECK(report["sites"][0]["hits"] == 60);
    const bool given_up = *endless != '2';
    CHECK(report["sites"][0]["not_completed"] == (given_up ? 3 : 2));
    CHECK((report["sites"][0]["checked"] < 60) == given_up);
    const Finished told = check_guest(place, {"--machine=soft", "--check-limit=1", "--jobs=3"});
    CHECK((told.out.find("checks ran into the limit") != std::string::npos) == given_up);
  }
}

TEST_CASE("check: jobs count the sites of libraries that were there in some of their parts only") {
  check_jobs("--machine=soft", {"visits", AFTERCHECK_VASSERT_GUESTS});
  const Workplace place;
  record_guest(place, {"visits", AFTERCHECK_VASSERT_GUESTS});
  for (const char* jobs : {"1", "2", "3", "5"}) {
    INFO(jobs << " jobs");
    const json report = check_json(place, {"--machine=soft", "--site=other.c:8", "--jobs", jobs});
    CHECK(report["sites_found"] == 2);
    CHECK(report["sites"].size() == 1);
    const Finished none = check_guest(place, {"--machine=soft", "--function=nobody", "--jobs", jobs});
    CHECK(none.status == 2);
    CHECK_THAT(none.err, Contains("none of the 2 VAsserts is wanted"));
  }
}

TEST_CASE("check: a job without a machine is one error, of what the host lacks") {
  const Workplace place;
  record_guest(place, {"rounds"});
  How how;
  how.environment = {"LD_PRELOAD=" NO_ENGINE_IN_CHILDREN, "ASAN_OPTIONS=verify_asan_link_order=0"};
  const auto check = [&](const char* jobs) {
    return run_tool({"check", "recording", "--machine=soft", "--jobs", jobs}, place.path(), how);
  };
  CHECK(check("1").status == 1);
  for (const bool kept : {false, true}) {
    if (kept) make_checkpoints(place);
    for (const char* jobs : {"2", "5"}) {
      INFO(jobs << " jobs, checkpoints: " << kept);
      const Finished refused = check(jobs);
      CHECK(refused.status == 4);
      CHECK(refused.out.empty());
      CHECK_THAT(refused.err, Catch::Matchers::StartsWith("aftercheck: Unicorn can't make an x86-64 CPU"));
      CHECK(std::count(refused.err.begin(), refused.err.end(), '\n') == 1);
    }
  }
}

TEST_CASE("check: events and positions behind the recording's end are an error") {
  const Workplace place;
  record_guest(place, {"rounds"});
  // The last two entries are exit_group() and the end: nothing runs after them.
  const uint64_t last = json_lines(run_tool({"dump", "--json", "recording"}, place.path()).out).size() - 1;
  const auto text = [](uint64_t event) { return std::to_string(event); };
  for (const bool kept : {false, true}) {
    if (kept) make_checkpoints(place);
    for (const uint64_t event : {last - 1, last, last + 1, last + 1000, UINT64_MAX - 1, UINT64_MAX})
      for (const std::string& span : {text(event), text(event) + "-", text(event) + "-" + text(UINT64_MAX)})
        for (const char* jobs : {"1", "3"}) {
          INFO(span << ", " << jobs << " jobs, checkpoints: " << kept);
          const Finished refused = check_guest(place, {"--machine=soft", "--events", span, "--jobs", jobs});
          CHECK(refused.status == 2);
          CHECK(refused.out.empty());
          CHECK_THAT(refused.err, Contains("nothing runs after event " + text(event)) &&
                                      Contains("ends with event " + text(last - 1)));
        }
    for (const uint64_t event : {last - 1, last, last + 1000}) {
      const Finished refused = check_guest(place, {"--machine=soft", "--at", "e" + text(event) + "+0x10#1"});
      CHECK(refused.status == 2);
      CHECK_THAT(refused.err, Contains("nothing runs after event " + text(event)));
    }
    // A span may end behind the end, and there may be more jobs than events.
    const json whole = found(check_json(place));
    for (const char* jobs : {"1", "3", "256"}) {
      INFO(jobs << " jobs, checkpoints: " << kept);
      CHECK(found(check_json(place, {"--machine=soft", "--jobs", jobs})) == whole);
      for (const uint64_t first : {last - 4, last - 2})
        CHECK(found(check_json(place, {"--machine=soft", "--jobs", jobs, "--events",
                                       text(first) + "-" + text(last + 50)})) ==
              found(check_json(place, {"--machine=soft", "--events", text(first) + "-"})));
    }
  }
}

TEST_CASE("check: some events, and one hit, with checkpoints and without") {
  for (const char* guest : {"hits", "verdicts"}) {
    const Workplace place;
    record_guest(place, {guest, "9000"});
    const json whole = check_json(place, {"--machine=soft", "--check-limit=1"});
    std::vector<std::vector<std::string>> asked;
    // Every failure by its position, and its event alone.
    for (const json& site : whole["sites"])
      for (const json& hit : site["failures"]) {
        if (!hit.contains("position")) continue;  // within another check
        asked.push_back({"--at", hit["position"]});
        const std::string event = std::to_string(hit["event"].get<uint64_t>());
        asked.push_back({"--events", event});
        asked.push_back({"--events", event + "-"});
        asked.push_back({"--events", "-" + event});
      }
    REQUIRE(asked.size() > 8);
    constexpr size_t kMost = kSanitized ? 8 : 24;
    asked.resize(std::min(asked.size(), kMost));
    std::vector<json> reports;
    for (std::vector<std::string> options : asked) {
      INFO(options[0] << " " << options[1]);
      options.insert(options.end(), {"--machine=soft", "--check-limit=1"});
      reports.push_back(found(check_json(place, options)));
      size_t failures = 0;
      for (const json& site : reports.back()["sites"]) failures += site["failures"].size();
      CHECK(failures >= 1);
      if (options[0] == "--at") CHECK(failures == 1);
    }
    make_checkpoints(place);
    for (size_t i = 0; i < asked.size(); ++i) {
      std::vector<std::string> options = asked[i];
      INFO(options[0] << " " << options[1]);
      options.insert(options.end(), {"--machine=soft", "--check-limit=1"});
      CHECK(found(check_json(place, options))["sites"] == reports[i]["sites"]);
    }
    for (const char* wrong : {"e5", "5", "e1+0x10=0123456789abcdef/0123456789abcdef0123456789abcdef", "x"}) {
      const Finished refused = check_guest(place, {"--at", wrong});
      CHECK(refused.status == 2);
      CHECK_THAT(refused.err, Contains(wrong));
    }
    CHECK(check_guest(place, {"--at", "e5+0x10", "--events", "1-2"}).status == 2);
    CHECK(check_guest(place, {"--at", "e5+0x10", "--jobs", "2"}).status == 2);
    CHECK(check_guest(place, {"--at", "00000001:e5+0x10"}).status == 2);
  }
}

}  // namespace aftercheck::test
