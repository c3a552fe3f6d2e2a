// Checks of programs with child processes.
#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "check_fixture.h"

namespace aftercheck::test {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

constexpr const char* kRounds = "*round != 2";

const json& logs_of(const json& report) {
  for (const json& site : report["sites"])
    if (site["kind"] == "log") return site["logged"];
  FAIL("no site that logs");
  return report;
}

// False where this host can't record on that machine.
bool record_on(const Workplace& place, const std::string& machine, std::vector<std::string> command,
               std::vector<std::string> options = {}) {
  command[0] = guest_path(command[0]);
  options.insert(options.begin(), {"record", "-o", "recording", "--machine=" + machine});
  options.emplace_back("--");
  options.insert(options.end(), command.begin(), command.end());
  const Finished finished = run_tool(options, place.path());
  if (finished.status == 4) {
    WARN("SKIPPED: " << machine << " can't be used on this host, so nothing was recorded on it");
    return false;
  }
  INFO(finished.err);
  REQUIRE(finished.status == 0);
  return true;
}

const Workplace& family() {
  static const Workplace place;
  static const bool done = record_on(place, "soft", {"family"});
  REQUIRE(done);
  return place;
}

const Workplace& workers() {
  static const Workplace place;
  static const bool done = record_on(place, "soft", {"workers", guest_path("requests")});
  REQUIRE(done);
  return place;
}

// What each process's checks have logged, in order.
std::map<unsigned, std::vector<std::string>> logs_by_process(const json& report) {
  std::map<unsigned, std::vector<std::string>> all;
  for (const json& hit : logs_of(report)) all[hit["process"]].push_back(hit["logs"][0]);
  return all;
}

// A fork copies what the checks have counted so far, execve takes it away, and threads share it.
const std::map<unsigned, std::vector<std::string>> kFamilyLogs = {
    {0,
     {"parent: 1 seen, 1 of them mine", "parent: 2 seen, 2 of them mine", "parent: 3 seen, 3 of them mine",
      "parent: 4 seen, 4 of them mine", "parent: 5 seen, 5 of them mine"}},
    {1,
     {"child: 3 seen, 1 of them mine", "child: 4 seen, 2 of them mine", "child: 5 seen, 3 of them mine",
      "child: 6 seen, 4 of them mine"}},
    {2,
     {"grandchild: 4 seen, 1 of them mine", "grandchild: 5 seen, 2 of them mine",
      "grandchild: 6 seen, 3 of them mine"}},
    // Before these come six of threads, in some order.
    {3, {"alone: 1 seen, 1 of them mine", "alone: 2 seen, 2 of them mine", "alone: 3 seen, 3 of them mine"}}};

void check_family(const json& report) {
  CHECK(report["verdict"] == "failed");
  REQUIRE(report["processes"].size() == 4);
  const std::vector<std::pair<unsigned, unsigned>> hits = {{0, 15}, {1, 12}, {2, 9}, {3, 27}};
  for (const auto& [number, count] : hits) {
    const json& process = report["processes"][number];
    CHECK(process["process"] == number);
    CHECK(process["hits"] == count);
    CHECK(process["failed"] == 1);
    CHECK(process["verdict"] == "failed");
  }
  CHECK(report["processes"][2]["parent"]["process"] == 1);
  CHECK(report["processes"][3]["command"][1] == "alone");

  const json& site = site_at(report, kRounds);
  CHECK(site["hits"] == 21);
  CHECK(site["failed"] == 4);
  std::vector<std::tuple<unsigned, unsigned, std::string>> failures;  // process, number of the hit, message
  for (const json& hit : site["failures"]) {
    const unsigned number = hit["process"];
    failures.emplace_back(number, hit["hit"], hit["messages"][0]);
    CHECK(hit["pid"] == report["processes"][number]["pid"]);
    CHECK(hit["command"] == report["processes"][number]["command"]);
    CHECK(hit.contains("thread") == (number == 3));
    CHECK(hit["stack"][0]["function"] == "visit");
    CHECK(hit["stack"][1]["function"] == "visits_of");
  }
  // As they happened: whoever waits for another one comes after it.
  using Failures = std::vector<std::tuple<unsigned, unsigned, std::string>>;
  CHECK(failures == Failures{{2, 3, "grandchild, round 2"},
                             {1, 4, "child, round 2"},
                             {3, 9, "alone, round 2"},
                             {0, 5, "parent, round 2"}});
  auto logs = logs_by_process(report);
  REQUIRE(logs[3].size() == 9);
  std::set<std::string> threads;
  for (unsigned i = 0; i < 6; ++i) {
    const std::string& text = logs[3][i];
    threads.insert(text.substr(0, text.find(':')));
    CHECK_THAT(text, Contains(": " + std::to_string(i + 3) + " seen"));
  }
  CHECK(threads == std::set<std::string>{"one", "two", "three"});
  logs[3].erase(logs[3].begin(), logs[3].begin() + 6);
  CHECK(logs == kFamilyLogs);
}

void check_recorded_on(const std::string& machine) {
  const Workplace place;
  if (!record_on(place, machine, {"family"})) return;
  json first;
  for (const std::string replayed : {"soft", "translated", "kvm"}) {
    if (replayed != "soft" && !works_on(replayed, place)) continue;
    INFO("replayed: " << replayed);
    const json report = check_json(place, {"--machine=" + replayed});
    check_family(report);
    if (first.is_null()) first = report;
    CHECK(comparable(report)["sites"] == comparable(first)["sites"]);
    CHECK(report["processes"] == first["processes"]);
  }
}

}  // namespace

TEST_CASE("check: parent, child, grandchild, threads and an executed program, recorded on the soft vCPU") {
  check_recorded_on("soft");
}
TEST_CASE("check: parent, child, grandchild, threads and an executed program, recorded translated") {
  check_recorded_on("translated");
}
TEST_CASE("check: parent, child, grandchild, threads and an executed program, recorded on KVM") {
  check_recorded_on("kvm");
}

TEST_CASE("check: each process alone has what it has among all") {
  for (const Workplace* place : {&family(), &workers()}) {
    const json all = check_json(*place);
    for (const json& process : all["processes"]) {
      const unsigned number = process["process"];
      INFO("process " << number);
      const json one = check_json(*place, {"--machine=soft", "--process", std::to_string(number)});
      CHECK(one["processes"] == json::array({process}));
      for (const json& site : one["sites"]) {
        const json& same = site_at(all, site["text"]);
        for (const char* list : {"failures", "logged"}) {
          json those = json::array();
          for (const json& hit : same[list])
            if (hit["process"] == number) those.push_back(hit);
          CHECK(site[list] == those);
        }
      }
    }
  }
}

TEST_CASE("check: the position of a child's hit leads to it again") {
  const json all = check_json(family());
  for (const json& hit : site_at(all, kRounds)["failures"]) {
    const std::string position = hit["position"];
    INFO(position);
    CHECK_THAT(hit["again"].get<std::string>(), Contains(" --at " + position));
    const json again = check_json(family(), {"--machine=soft", "--at", position});
    REQUIRE(site_at(again, kRounds)["failed"] == 1);
    const json& same = site_at(again, kRounds)["failures"][0];
    for (const char* part : {"process", "event", "position", "address", "stack", "messages"})
      CHECK(same[part] == hit[part]);
  }
}

TEST_CASE("check: the report names processes and threads") {
  const Finished text = check_guest(family(), {"--machine=soft", "--html", "page.html", "--show-output"});
  CHECK(text.status == 1);
  CHECK_THAT(text.out, StartsWith("alone\nparent\nFAILED ") && Contains(" in process 2 (pid ") &&
                           Contains("family alone), thread 0: after event") &&
                           Contains("in 4 of 4 processes, 63 checked: 1 failed, in 4 hits") &&
                           Contains(" process 1: child: 3 seen"));
  CHECK(text.err.empty());
  CHECK_THAT(read_file(family() / "page.html"),
             Contains("family alone), thread 0, after event") && Contains("<h2>Processes</h2>"));
  for (int i = 0; i < 3; ++i)
    CHECK(check_guest(family(), {"--machine=soft", "--show-output"}).out ==
          check_guest(family(), {"--machine=soft", "--show-output"}).out);
  const json one = check_json(family(), {"--machine=soft", "--limit-failures=2"});
  const json& few = site_at(one, kRounds)["failures"];
  REQUIRE(few.size() == 2);
  CHECK(few[0]["process"] == 2);
  CHECK(few[1]["process"] == 1);
}

TEST_CASE("check: a process is named by its program, however deep the directory is") {
  const Workplace place;
  const std::filesystem::path directory = place / std::string(100, 'd');
  std::filesystem::create_directory(directory);
  std::filesystem::copy_file(guest_path("family"), directory / "family");
  const Finished recorded = run_tool(
      {"record", "-o", "recording", "--machine=soft", "--", (directory / "family").string()}, place.path());
  INFO(recorded.err);
  REQUIRE(recorded.status == 0);
  CHECK_THAT(check_guest(place, {"--machine=soft"}).out,
             Contains(", family): after event") && Contains(", family alone), thread 0: after event"));
}

TEST_CASE("check: a program that is executed in the same place has no ghosts of the one before") {
  const Workplace place;
  REQUIRE(record_on(place, "soft", {"family", "exec"}, {"--no-aslr"}));
  for (const std::string machine : {"soft", "translated", "kvm"}) {
    if (machine != "soft" && !works_on(machine, place)) continue;
    INFO(machine);
    const json report = check_json(place, {"--machine=" + machine});
    CHECK_FALSE(report.contains("processes"));
    std::vector<std::string> logs;
    for (const json& hit : logs_of(report)) logs.push_back(hit["logs"][0]);
    CHECK(logs == std::vector<std::string>{"parent: 1 seen, 1 of them mine", "parent: 2 seen, 2 of them mine",
                                           "alone: 1 seen, 1 of them mine", "alone: 2 seen, 2 of them mine",
                                           "alone: 3 seen, 3 of them mine"});
  }
}

TEST_CASE("check: sites of programs that some processes execute") {
  const json all = check_json(workers());
  const json& step = site_at(all, "number % 16 != 15");
  CHECK(step["hits"] == 40 + 20 + 13);
  CHECK(step["failed"] == 2 + 1);
  CHECK(site_at(all, "value < 32700")["hits"].get<unsigned>() > 1000);
  for (const json& hit : site_at(all, "value < 32700")["failures"]) CHECK(hit["process"] == 3);
  const Finished one =
      check_guest(workers(), {"--machine=soft", "--site", "workers.c:14", "--file", "requests.c", "--file",
                              "workers.c", "--function", "nobody", "--function", "*"});
  CHECK(one.status == 1);
  CHECK_THAT(one.err, Contains("warning: --function nobody: no VAssert is there") && !Contains("--site") &&
                          !Contains("--file"));
  const Finished none = check_guest(workers(), {"--machine=soft", "--function", "nobody"});
  CHECK(none.status == 2);
  CHECK_THAT(none.err, Contains("none of the 4 VAsserts is wanted"));
}

TEST_CASE("check: a child in parts, from checkpoints and without") {
  const std::vector<std::string> child = {"--machine=soft", "--process=1"};
  for (const bool kept : {false, true}) {
    INFO("checkpoints: " << kept);
    const Workplace place;
    REQUIRE(
        record_on(place, "soft", {"workers"},
                  kept ? std::vector<std::string>{"--checkpoint-every=1ms"} : std::vector<std::string>{}));
    const json report = comparable(check_json(place, child));
    const json& step = site_at(report, "number % 16 != 15");
    REQUIRE(step["failed"] == 2);
    const auto with = [&](std::vector<std::string> more) {
      more.insert(more.begin(), child.begin(), child.end());
      return comparable(check_json(place, more));
    };
    CHECK(with({"--jobs=3"})["sites"] == report["sites"]);
    const std::string event = step["failures"][1]["event"].dump();
    std::string span = event;
    span.append("-").append(event);
    const json part = with({"--events", span});
    const json& same = site_at(part, "number % 16 != 15");
    REQUIRE(same["failures"].size() == 1);
    CHECK(same["failures"][0]["messages"] == step["failures"][1]["messages"]);
  }
}

TEST_CASE("check: what is asked of one process is refused of several") {
  const auto check = [](const std::vector<std::string>& options) {
    const Finished refused = check_guest(family(), options);
    CHECK(refused.status == 2);
    CHECK(refused.out.empty());
    return refused.err;
  };
  CHECK_THAT(check({"--events=1-2"}), Contains("--events are those of one process"));
  CHECK_THAT(check({"--jobs=2"}), Contains("--process"));
  CHECK_THAT(check({"--process=9"}), Contains("no process 9"));
  CHECK_THAT(check({"--process=1", "--at=p2.e1+0x10#1"}), Contains("is of process 2, not of process 1"));
  const Finished by_folder =
      run_tool({"check", "recording/processes/1", "--machine=soft", "--json"}, family().path());
  CHECK(by_folder.status == 1);
  CHECK(json::parse(by_folder.out)["processes"][0]["process"] == 1);
}

TEST_CASE("check: a process whose log is damaged takes nothing from the others") {
  const Workplace place;
  REQUIRE(record_on(place, "soft", {"family"}));
  std::filesystem::resize_file(place / "recording/processes/2/events", 100);
  const Finished cut = check_guest(place, {"--machine=soft"});
  CHECK(cut.status == 1);
  CHECK_THAT(cut.err, Contains("process 2 (pid ") && Contains("has no end"));
  CHECK_THAT(cut.out, Contains("1 failed, in 3 hits"));
  write_file(place / "recording/processes/2/events", "something else");
  const Finished damaged = check_guest(place, {"--machine=soft"});
  CHECK(damaged.status == 2);
  CHECK_THAT(damaged.err, Contains("process 2 (pid "));
  CHECK_THAT(damaged.out, Contains("1 failed, in 3 hits"));
  const Finished told = check_guest(place, {"--machine=soft", "--json"});
  CHECK(told.status == 2);
  const json report = json::parse(told.out);
  CHECK(report["verdict"] == "error");
  CHECK(report["processes"][2]["verdict"] == "error");
  CHECK(report["processes"][3]["verdict"] == "failed");
  // The first process's log ends before its second child begins.
  std::filesystem::resize_file(place / "recording/events", 1000);
  const Finished unreached = check_guest(place, {"--machine=soft"});
  CHECK_THAT(unreached.err, Contains("was not checked: its parent's replay did not come to where it begins"));
}

TEST_CASE("check: a child that reads its own code is told as what left the recording") {
  const Workplace place;
  const std::string commands = guest_path("family") + "; " + guest_path("own_code") + "; true";
  const Finished recorded =
      run_tool({"record", "-o", "recording", "--machine=soft", "--", "sh", "-c", commands}, place.path());
  INFO(recorded.err);
  REQUIRE(recorded.status == 0);
  const Finished finished = check_guest(place, {"--machine=soft", "--json"});
  CHECK(finished.status == 3);
  CHECK_THAT(finished.err, Contains(": process 5 (pid ") && Contains("own_code): ") &&
                               Contains("the program reads its own code"));
  const json report = json::parse(finished.out);
  CHECK(report["verdict"] == "divergence");
  CHECK(report["processes"][0]["verdict"] == "held");
  CHECK(report["processes"][4]["verdict"] == "failed");
  CHECK(report["processes"][5]["verdict"] == "divergence");
  CHECK(site_at(report, kRounds)["failed"] == 4);
}

TEST_CASE("check: processes that share memory, together or one of them") {
  for (const std::string recorded : {"soft", "translated"}) {
    const Workplace place;
    if (!record_on(place, recorded, {"shared"})) continue;
    json first;
    for (const std::string machine : {"soft", "translated", "kvm"}) {
      if (machine != "soft" && !works_on(machine, place)) continue;
      INFO("recorded: " << recorded << ", replayed: " << machine);
      const json report = check_json(place, {"--machine=" + machine});
      std::vector<std::string> counts;
      const json& site = site_at(report, "now % 25 != 0");
      for (const json& hit : site["failures"]) counts.push_back(hit["messages"][0]);
      std::ranges::sort(counts);
      CHECK(counts == std::vector<std::string>{"count 100", "count 25", "count 50", "count 75"});
      CHECK(site["hits"] == 120);
      for (const auto& [process, logs] : logs_by_process(report)) CHECK(logs.back() == "40 of mine");
      if (first.is_null()) first = report;
      CHECK(comparable(report)["sites"] == comparable(first)["sites"]);
    }
    const json& hit = site_at(first, "now % 25 != 0")["failures"][0];
    const json again = check_json(place, {"--machine=soft", "--at", hit["position"]});
    CHECK(site_at(again, "now % 25 != 0")["failures"][0]["messages"] == hit["messages"]);
    CHECK(again["processes"].size() == 1);
    const Finished parent =
        check_guest(place, {"--machine=soft", "--process=0", "--jobs=2", "--show-output"});
    CHECK_THAT(parent.out, StartsWith("120 0\n") && Contains("shares memory with others"));
  }
}

}  // namespace aftercheck::test
