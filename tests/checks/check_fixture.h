// Records programs with VAsserts and checks them as a user would.
#pragma once

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/tools/tool_runner.h"

namespace aftercheck::test {

using nlohmann::json;

inline std::string guest_path(const std::string& name) {
  return std::string(AFTERCHECK_VASSERT_GUESTS "/") + name;
}

// Records into `recording` on the soft vCPU, which every host has.
inline Finished record_guest(const Workplace& place, std::vector<std::string> command) {
  command[0] = guest_path(command[0]);
  command.insert(command.begin(), {"record", "-o", "recording", "--machine=soft", "--"});
  Finished finished = run_tool(command, place.path());
  INFO(finished.err);
  REQUIRE(finished.signal == 0);
  return finished;
}

inline Finished check_guest(const Workplace& place, std::vector<std::string> options) {
  options.insert(options.begin(), {"check", "recording"});
  return run_tool(options, place.path());
}

inline json check_json(const Workplace& place, std::vector<std::string> options = {"--machine=soft"}) {
  options.emplace_back("--json");
  const Finished finished = check_guest(place, options);
  INFO(finished.err);
  REQUIRE((finished.status == 0 || finished.status == 1));
  return json::parse(finished.out);
}

// The site whose text or file:line ends so.
inline const json& site_at(const json& report, const std::string& text) {
  for (const json& site : report["sites"])
    if (site["text"] == text || text == std::to_string(site["line"].get<unsigned>())) return site;
  FAIL("no site " << text);
  return report;
}

// What must be the same whatever the replay runs on.
inline json comparable(json report) {
  for (const char* name : {"machine", "seconds", "remark", "pages_opened"}) report.erase(name);
  for (json& site : report["sites"])
    for (json& hit : site["failures"]) hit.erase("again");
  return report;
}

inline bool works_on(const std::string& machine, const Workplace& place) {
  const bool works = check_guest(place, {"--machine=" + machine, "--hits", "1"}).status != 4;
  if (!works)
    WARN("SKIPPED: " << machine << " can't be used on this host, so replays on it were not compared");
  return works;
}

}  // namespace aftercheck::test
