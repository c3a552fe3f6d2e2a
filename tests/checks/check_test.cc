// `aftercheck check`: what checks come to.
#include <cstdlib>
#include <iostream>

#include "check_fixture.h"
#include "tests/base/sanitized.h"

namespace aftercheck::test {
namespace {

using Catch::Matchers::Contains;

std::string only_verdict(const json& site) {
  REQUIRE(site["failures"].size() == 1);
  return site["failures"][0]["verdict"];
}

// Sites of one function by their order in the file.
std::vector<json> sites_in(const json& report, const std::string& function) {
  std::vector<json> sites;
  for (const json& site : report["sites"])
    if (site["function"] == function) sites.push_back(site);
  return sites;
}

}  // namespace

TEST_CASE("check: a program with AVX2, whose checks may have it as translated code") {
  const Workplace place;
  for (const std::string machine : {"kvm", "translated"}) {
    const std::string directory = "recording-" + machine;
    const Finished recorded =
        run_tool({"record", "-o", directory, "--cpu=v3", "--machine=" + machine, "--", guest_path("vectors")},
                 place.path());
    if (recorded.status == 4) {
      std::cout << "SKIPPED: " << recorded.err << std::endl;
      continue;
    }
    CHECK(recorded.out == "8180\n");
    const Finished checked = run_tool({"check", directory, "--machine=" + machine, "--json"}, place.path());
    INFO(checked.err);
    const json report = json::parse(checked.out);
    CHECK(site_at(report, "i < 4")["passed"] == 4);
    CHECK(site_at(report, "i < 4")["failed"] == 1);
    const json& with_avx = site_at(report, "sum(values) == 8 * (i + 1)");
    CHECK(with_avx["passed"] == 5);
    if (machine == "kvm") {
      const json walled =
          json::parse(run_tool({"check", directory, "--untrusted", "--json"}, place.path()).out);
      CHECK(site_at(walled, "i < 4")["passed"] == 4);
      const json& refused = site_at(walled, "sum(values) == 8 * (i + 1)");
      CHECK(refused["passed"] == 0);
      CHECK(refused["failures"][0]["verdict"] == "unsupported");
      CHECK_THAT(refused["failures"][0].dump(),
                 Contains("the soft vCPU can't execute `v") && Contains("CPU model v3"));
    }
    // The program's vector registers are its own.
    CHECK(run_tool({"replay", directory, "--machine=" + machine}, place.path()).out == "8180\n");
  }
}

TEST_CASE("check: every verdict, with what the check said") {
  const Workplace place;
  REQUIRE(record_guest(place, {"verdicts"}).status == 0);
  const json report = check_json(place, {"--machine=soft", "--check-limit=50"});
  CHECK(report["verdict"] == "failed");

  const json& plain = site_at(report, "i < 7");
  CHECK(plain["hits"] == 10);
  CHECK(plain["failed"] == 3);
  CHECK(plain["passed"] == 7);
  CHECK(plain["failures"][0]["hit"] == 8);
  CHECK(plain["failures"][0]["stack"][0]["function"] == "work");
  CHECK(plain["failures"][0]["stack"][1]["function"] == "main");
  CHECK_THAT(plain["failures"][0]["stack"][1]["file"].get<std::string>(), Contains("verdicts.c"));

  const json& message = site_at(report, "items[i] >= 0");
  CHECK(message["failed"] == 1);
  CHECK(message["failures"][0]["messages"] == json::array({"item 5 is -85"}));

  // Ghost variables live on from check to check; everything else is as the program has it.
  const json& log = report["sites"][2];
  CHECK(log["kind"] == "log");
  for (unsigned i = 0; i < 10; ++i)
    CHECK(log["logged"][i]["logs"][0] == "work on " + std::to_string(i) + ", seen " + std::to_string(3 + i));
  CHECK(report["ghost_memory"] == true);

  const json& block = report["sites"][3];
  CHECK(block["failed"] == 1);
  CHECK(block["failures"][0]["hit"] == 3);
  CHECK(block["failures"][0]["messages"] == json::array({"the third time, sum -997"}));
  CHECK(block["logged"][0]["output"] == "block 0 of 999\n");

  const std::vector<json> broken = sites_in(report, "broken");
  REQUIRE(broken.size() == 7);
  const std::vector<std::string> verdicts = {
      "fault", "fault", "endless", "touches the world", "fault", "touches the world", "fault"};
  const std::vector<std::string> details = {"0x8",     "exception 0",    "50000000 instructions", "openat",
                                            "SIGABRT", "exit_group(0x3", "memory fault: write"};
  for (size_t i = 0; i < broken.size(); ++i) {
    INFO(broken[i].dump(1));
    CHECK(broken[i]["not_completed"] == 1);
    CHECK(only_verdict(broken[i]) == verdicts[i]);
    CHECK_THAT(broken[i]["failures"][0]["detail"].get<std::string>(), Contains(details[i]));
  }
  // Where the check ended, down to the site's function.
  CHECK_THAT(broken[4]["failures"][0]["stack"].dump(),
             Contains("abort") && Contains("broken") && Contains("main"));
}

namespace {

void check_same_as_soft(const std::string& machine) {
  const std::vector<std::vector<std::string>> guests = {
      {"verdicts"},      {"nested"},       {"exceptions"},
      {"exceptions-O0"}, {"hits", "3000"}, {"loads", AFTERCHECK_VASSERT_GUESTS}};
  for (const auto& guest : guests) {
    INFO(guest[0]);
    const Workplace place;
    REQUIRE(record_guest(place, guest).status == 0);
    const std::string limit = "--check-limit=20";
    const json first = comparable(check_json(place, {"--machine=soft", limit}));
    if (machine != "soft" && !works_on(machine, place)) return;
    CHECK(comparable(check_json(place, {"--machine=" + machine, limit})) == first);
  }
}

}  // namespace

TEST_CASE("check: the same from the soft vCPU every time") { check_same_as_soft("soft"); }
TEST_CASE("check: the same from KVM as from the soft vCPU") { check_same_as_soft("kvm"); }
TEST_CASE("check: the same from the translated machine as from the soft vCPU") {
  check_same_as_soft("translated");
}

TEST_CASE("check: blocks as the only VAsserts") {
  const Workplace place;
  REQUIRE(record_guest(place, {"only_block"}).out == "done\n");
  const json report = check_json(place);
  REQUIRE(report["sites"].size() == 1);
  CHECK(report["sites"][0]["failures"][0]["messages"] == json::array({"argc is 1"}));
}

TEST_CASE("check: a program that reads its own code is told as what left the recording") {
  const Workplace place;
  REQUIRE_FALSE(record_guest(place, {"own_code"}).out.empty());
  const Finished finished = check_guest(place, {"--json"});
  CHECK(finished.status == 3);
  const json report = json::parse(finished.out);
  CHECK(report["verdict"] == "divergence");
  CHECK_THAT(report["message"].get<std::string>(), Contains("the program reads its own code"));
}

TEST_CASE("check: an exception that leaves a block makes it fail, and does not reach the program") {
  const Workplace place;
  const Finished recorded = record_guest(place, {"block_throws"});
  REQUIRE(recorded.out == "run goes on\n");
  const json report = check_json(place);
  std::vector<unsigned> failed;
  for (const json& site : report["sites"]) {
    CHECK(site["hits"] == 1);
    failed.push_back(site["failed"].get<unsigned>() + site["not_completed"].get<unsigned>());
    if (site["failed"] == 1)
      CHECK(site["failures"][0]["messages"] == json::array({"the check threw an exception"}));
  }
  // The last has no handler around it: it ends in std::terminate, which is no answer of a check either.
  CHECK(failed == std::vector<unsigned>{0, 1, 1, 0, 1});
  CHECK(report["sites"][4]["not_completed"] == 1);
}

TEST_CASE("check: the again line of a nested hit checks it again") {
  const Workplace place;
  REQUIRE(record_guest(place, {"nested"}).status == 0);
  const json report = check_json(place);
  const json& hit = site_at(report, "i < 60")["failures"][1];
  REQUIRE(hit["nested"] == true);
  CHECK_THAT(hit["reached_by"].get<std::string>(), Contains("nested.c:"));
  std::string line = hit["again"];
  const auto after = [&](const std::string& option) {
    const size_t at = line.find(option + " ") + option.size() + 1;
    const std::string value = line.substr(at, line.find(' ', at) - at);
    line.erase(0, at);
    return value;
  };
  const std::string inner = after("--site"), outer = after("--site"), position = after("--at");
  const json again =
      check_json(place, {"--machine=soft", "--site", inner, "--site", outer, "--at", position});
  const json& same = site_at(again, "i < 60");
  REQUIRE(same["failures"].size() == 2);
  for (const char* part : {"event", "position", "address", "stack", "reached_by"})
    CHECK(same["failures"][1][part] == hit[part]);
}

TEST_CASE("check: nothing checked is never silent") {
  const Workplace place;
  REQUIRE(record_guest(place, {"nested"}).status == 0);
  for (const std::vector<std::string>& options : std::vector<std::vector<std::string>>{
           {"--hits=100000"}, {"--events=0-1"}, {"--function", "scaled", "--events=1-2"}}) {
    std::vector<std::string> all = {"--machine=soft"};
    all.insert(all.end(), options.begin(), options.end());
    const Finished checked = check_guest(place, all);
    CHECK(checked.status == 0);
    CHECK_THAT(checked.err, Contains("warning: nothing was checked: "));
    CHECK(check_json(place, all)["nothing_checked"].is_string());
    all.emplace_back("--require-hits");
    const Finished required = check_guest(place, all);
    CHECK(required.status == 1);
    CHECK_THAT(required.err, Contains("nothing was checked: ") && !Contains("warning"));
    CHECK(check_json(place, all)["verdict"] == "failed");
  }
  const Finished checked = check_guest(place, {"--machine=soft", "--require-hits", "--function", "depth"});
  CHECK(checked.status == 0);
  CHECK(checked.err.empty());
  CHECK_FALSE(check_json(place).contains("nothing_checked"));
}

TEST_CASE("check: nested, inlined and recursive sites") {
  const Workplace place;
  REQUIRE(record_guest(place, {"nested"}).status == 0);
  const json report = check_json(place);
  // Three hits by the program's own calls and 50 + 62 from within checks of `total`.
  const json& inner = site_at(report, "i < 60");
  CHECK(inner["hits"] == 1 + 50 + 62);
  CHECK(inner["failed"] == 2);
  CHECK(inner["failures"][0]["nested"] == true);
  CHECK_THAT(inner["failures"][0]["stack"].dump(), Contains("total") && Contains("main"));
  const json& scaled = site_at(report, "factor != 3");
  CHECK(scaled["places"].get<unsigned>() >= 1);
  CHECK(scaled["hits"] == 3);
  CHECK(scaled["failed"] == 1);
  CHECK(site_at(report, "n == 0 || depth(n - 1) == n")["failed"] == 0);
  CHECK(site_at(report, "n >= 0")["hits"].get<unsigned>() > 5);
}

TEST_CASE("check: what checks print is theirs alone") {
  const Workplace place;
  const Finished recorded = record_guest(place, {"speaks"});
  CHECK(recorded.out == "not yet written; 10\n");
  for (const std::string machine : {"soft", "translated"}) {
    if (machine != "soft" && !works_on(machine, place)) continue;
    const json report = check_json(place, {"--machine=" + machine});
    const json& inner = site_at(report, "say(\"inner\")");
    const json& outer = site_at(report, "inner(i) == (i ^ 1) && say(\"after\")");
    REQUIRE(inner["passed"] == 5);
    REQUIRE(outer["passed"] == 2);
    for (const json& hit : inner["logged"]) CHECK(hit["output"] == "inner\n");
    for (const json& hit : outer["logged"]) CHECK(hit["output"] == "after\n");
    CHECK(inner["logged"].size() == 5);
    CHECK(outer["logged"].size() == 2);
  }
}

TEST_CASE("check: checks that come by their own site") {
  // Without optimisation the program goes on right behind the site, where a check is over, too.
  for (const char* guest : {"recursive", "recursive-O0"}) {
    INFO(guest);
    const Workplace place;
    REQUIRE(record_guest(place, {guest}).status == 0);
    const json report = check_json(place);
    // Of the program's own call it is told, too, not only of those within its check.
    const json& again = site_at(report, "n == 0 || again(n - 1) < 0");
    bool own = false;
    for (const json& hit : again["failures"])
      own = own || (!hit.contains("nested") && hit["verdict"] == "failed");
    CHECK(own);
    CHECK(again["failed"] == 2);
    const json& for_ever = site_at(report, "for_ever(n + 1) == 0");
    CHECK(for_ever["failures"][0]["verdict"] == "endless");
    CHECK_THAT(for_ever["failures"][0]["detail"].get<std::string>(),
               Contains("more than 256 checks inside one another"));
  }
}

TEST_CASE("check: C++ with exceptions and templates") {
  for (const char* guest : {"exceptions", "exceptions-O0"}) {
    INFO(guest);
    const Workplace place;
    REQUIRE(record_guest(place, {guest}).status == 0);
    const json report = check_json(place);
    const json& size = site_at(report, "items_.size() <= 3");
    CHECK(size["places"].get<unsigned>() >= 2);
    CHECK(size["hits"] == 7);
    CHECK(size["failed"] == 1);
    const json& sorted = site_at(report, "sorted()");
    CHECK(sorted["hits"] == 2);
    CHECK(sorted["failed"] == 1);
    CHECK_THAT(sorted["failures"][0]["messages"].dump(), Contains("threw an exception"));
    CHECK(site_at(report, "n != 4")["failures"][0]["messages"] == json::array({"even 4"}));
    CHECK(site_at(report, "\"caught %d among %zu\", caught, words.size()")["log_lines"] == 3);
  }
}

TEST_CASE("check: a site that is hit a million times") {
  const Workplace place;
  constexpr unsigned kHits = kSanitized ? 100'000 : 1'000'000;  // sanitizers: a tenth of the speed
  REQUIRE(record_guest(place, {"hits", std::to_string(kHits)}).status == 0);
  const json report = check_json(place, {"--machine=soft", "--check-limit=1"});
  // A check that does not end is given up after three times.
  CHECK(report["sites"][1]["hits"] == 5);
  CHECK(report["sites"][1]["checked"] == 3);
  CHECK(report["sites"][1]["not_completed"] == 3);
  const json& site = report["sites"][0];
  CHECK(site["hits"] == kHits);
  CHECK(site["checked"] == kHits);
  CHECK(site["failed"] == 1);
  CHECK(site["failures"][0]["hit"] == 70008);
  // In the long run no page is opened anew.
  CHECK(report["pages_opened"].get<unsigned>() < 500);
  // The command that the report gives leads to this very hit.
  const uint64_t event = site["failures"][0]["event"];
  const std::string in_segment = std::to_string(site["failures"][0]["hit_in_segment"].get<uint64_t>());
  const json again = check_json(
      place, {"--machine=soft", "--events", std::to_string(event), "--hits", in_segment, "--check-limit=1"});
  CHECK(again["sites"][0]["checked"] == 1);
  CHECK(again["sites"][0]["failed"] == 1);
}

TEST_CASE("check: a check that reads 100 MB, and one that writes 20 MB") {
  const Workplace place;
  const Finished recorded = record_guest(place, {"reads"});
  CHECK(recorded.out == "104857602\n");
  const json report = check_json(place);
  CHECK(report["sites"][0]["failed"] == 0);
  CHECK(report["sites"][1]["failures"][0]["messages"] == json::array({"sum 104857602"}));
  CHECK(report["sites"][1]["not_completed"] == 0);
  CHECK(site_at(report, "\"first %d\", bytes[0]")["logged"][0]["logs"][0] == "first 7");
  CHECK(site_at(report, "\"first again %d\", bytes[0]")["logged"][0]["logs"][0] == "first again 1");
}

TEST_CASE("check: 10,000 sites in one program") {
  const Workplace place;
  REQUIRE(record_guest(place, {"many"}).status == 0);
  const json report = check_json(place);
  CHECK(report["sites"].size() == 10000);
  unsigned failed = 0, hits = 0;
  for (const json& site : report["sites"]) {
    failed += site["failed"].get<unsigned>();
    hits += site["hits"].get<unsigned>();
  }
  CHECK(hits == 10000);
  CHECK(failed == 2);
  CHECK(site_at(report, "values[9999] == 0")["failed"] == 1);
}

TEST_CASE("check: libraries mapped late, twice, unmapped and mapped again") {
  const Workplace place;
  const Finished recorded = record_guest(place, {"loads", AFTERCHECK_VASSERT_GUESTS});
  CHECK(recorded.out == "2\n3 4\n5\n4 6\n");
  const json report = check_json(place);
  const json& site = site_at(report, "value != 3");
  CHECK(site["hits"] == 6);
  CHECK(site["failed"] == 2);
  CHECK(site["places"].get<unsigned>() >= 2);
  // Each mapping has ghost variables of its own, and a new one starts anew.
  std::vector<std::string> calls;
  const json& logs = site_at(report, "\"call %d\", calls")["logged"];
  for (const json& hit : logs) calls.push_back(hit["logs"][0]);
  CHECK(calls == std::vector<std::string>{"call 1", "call 1", "call 2", "call 2", "call 3", "call 1"});
}

TEST_CASE("check: which sites, hits and events") {
  const Workplace place;
  REQUIRE(record_guest(place, {"verdicts"}).status == 0);
  const auto sites = [&](const std::vector<std::string>& options) {
    std::vector<std::string> words = {"--machine=soft", "--check-limit=1"};
    words.insert(words.end(), options.begin(), options.end());
    return check_json(place, words)["sites"];
  };
  CHECK(sites({"--file", "verdicts.*"}).size() == 11);
  CHECK(sites({"--function", "wor?"}).size() == 4);
  const json all = sites({});
  const std::string site = "verdicts.c:" + std::to_string(all[0]["line"].get<unsigned>());
  const std::string next = "guests/verdicts.c:" + std::to_string(all[1]["line"].get<unsigned>());
  CHECK(sites({"--site", site, "--site", next}).size() == 2);
  CHECK(sites({"--site", site, "--hits", "9"})[0]["failures"][0]["hit"] == 9);
  CHECK(sites({"--site", site, "--hits", "5-8"})[0]["checked"] == 4);
  CHECK(sites({"--site", site, "--hits", "first 3"})[0]["checked"] == 3);
  CHECK(sites({"--site", site, "--hits", "every 4"})[0]["checked"] == 3);
  CHECK(sites({"--site", site, "--events", "0-3"})[0]["hits"] == 0);
  CHECK(sites({"--site", site, "--limit-failures", "1"})[0]["failures"].size() == 1);

  CHECK(check_guest(place, {"--site", "other.c:1", "--check-limit=1"}).status == 2);
  for (const char* wrong : {"0", "7-3", "every", "every 0", "some", "-"})
    CHECK(check_guest(place, {"--hits", wrong}).status == 2);
  CHECK(check_guest(place, {"--events", "9-1"}).status == 2);
  CHECK(check_guest(place, {"--site", "verdicts.c"}).status == 2);
}

TEST_CASE("check: exit status, text and the program's output") {
  const Workplace place;
  const Finished recorded = record_guest(place, {"hits", "20000"});
  const Finished held =
      check_guest(place, {"--machine=soft", "--show-output", "--function=step", "--hits=6-"});
  CHECK(held.status == 0);
  CHECK_THAT(held.out, Contains("all held") && Catch::Matchers::StartsWith(recorded.out));
  CHECK(held.err.empty());
  CHECK_THAT(check_guest(place, {"--machine=soft", "--hits=6-"}).out, !Contains("...."));

  const Workplace other;
  record_guest(other, {"verdicts"});
  const Finished failed = check_guest(other, {"--machine=soft", "--check-limit=1", "--html", "page.html"});
  CHECK(failed.status == 1);
  CHECK_THAT(failed.out,
             Contains("i < 7") && Contains("hit 8: after event") && Contains("again: aftercheck check"));
  const std::string page = read_file(other / "page.html");
  CHECK_THAT(page, Contains("i &lt; 7") && !Contains("src=") && !Contains("http"));
}

TEST_CASE("check: a program without VAsserts") {
  const Workplace place;
  write_file(place / "hello", hello_program(), 0755);
  run_tool({"record", "-o", "recording", "--machine=soft", "./hello"}, place.path());
  const Finished checked = check_guest(place, {"--machine=soft"});
  CHECK(checked.status == 0);
  CHECK_THAT(checked.out, Contains("no VAsserts"));
  CHECK_THAT(checked.err, Contains("linked with libvassert.a"));
  CHECK(check_guest(place, {"--machine=soft", "--require-hits"}).status == 1);
}

TEST_CASE("check: a browser shows the page and sorts its table") {
  if (std::system("command -v chromium > /dev/null") != 0) {
    WARN("SKIPPED: chromium is not installed, so the page was not tried in a browser");
    return;
  }
  const Workplace place;
  record_guest(place, {"verdicts"});
  REQUIRE(check_guest(place, {"--machine=soft", "--check-limit=1", "--html", "page.html"}).status == 1);
  // A click on the column of hits; twice, for descending order.
  std::string page = read_file(place / "page.html");
  page.insert(
      page.rfind("</body>"),
      "<script>for (let i = 0; i < 2; ++i) document.querySelectorAll('#sites th button')[4].click();"
      "document.title = [...document.querySelectorAll('#sites tbody tr')].map(r => r.cells[4].textContent)"
      ".join(' ') + ' ' + matchMedia('(prefers-color-scheme: dark)').matches;</script>");
  write_file(place / "page.html", page);
  const std::string command = "timeout 60 chromium --headless --no-sandbox --disable-gpu --user-data-dir='" +
                              (place / "profile").string() + "' --dump-dom 'file://" +
                              (place / "page.html").string() + "' > '" + (place / "dom").string() +
                              "' 2> /dev/null";
  REQUIRE(std::system(command.c_str()) == 0);
  CHECK_THAT(read_file(place / "dom"), Contains("<title>10 10 10 10 1 1 1 1 1 1 1 "));
}

}  // namespace aftercheck::test
