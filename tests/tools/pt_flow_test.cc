// `aftercheck pt` on recordings: calls, coverage and plans of a program whose every call is known.
#include <catch2/catch.hpp>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "recording/pt_log.h"
#include "tool_runner.h"

namespace aftercheck::test {
namespace {

using Catch::Matchers::Contains;
using nlohmann::json;

// The guest, recorded once with a trace by the soft vCPU.
const Workplace& recorded() {
  static const Workplace place;
  static const Finished done =
      run_tool({"record", "--machine=soft", "--pt=soft", "-o", "r", PT_GUEST}, place.path());
  INFO(done.err);
  REQUIRE(done.status == 0);
  REQUIRE(done.out == "done\n");
  return place;
}

Finished run_on_recording(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "pt");
  arguments.push_back("r");
  return run_tool(arguments, recorded().path());
}

// Stacks from `main` on, with their instructions.
std::map<std::string, uint64_t> folded() {
  const Finished done = run_on_recording({"flow", "--folded", "stacks"});
  INFO(done.err);
  REQUIRE(done.status == 0);
  std::istringstream lines(read_file(recorded() / "stacks"));
  std::map<std::string, uint64_t> stacks;
  for (std::string line; std::getline(lines, line);) {
    const size_t space = line.rfind(' ');
    REQUIRE(space != std::string::npos);
    REQUIRE(line.starts_with("r;"));
    const size_t main = line.find(";main");
    stacks[main == std::string::npos ? line.substr(0, space) : line.substr(main + 1, space - main - 1)] +=
        std::stoull(line.substr(space + 1));
  }
  return stacks;
}

uint32_t line_with(const std::string& mark) {
  std::ifstream source(PT_GUEST_SOURCE);
  std::string text;
  for (uint32_t line = 1; std::getline(source, text); ++line)
    if (text.find("// line: " + mark) != std::string::npos) return line;
  return 0;
}

}  // namespace

TEST_CASE("folded stacks are the program's calls, through longjmp, exceptions, signals and tail calls") {
  const auto stacks = folded();
  std::string all;
  for (const auto& [stack, count] : stacks)
    if (stack.starts_with("main")) all += stack + "\n";
  INFO(all);
  std::string deep = "main";
  for (int depth = 0; depth <= 20; ++depth) deep += ";recursive";
  for (const std::string& expected : {
           std::string("main"),
           std::string("main;looks_up;leaf"),
           deep,
           deep.substr(0, deep.size() - 10) + ";leaf",
           std::string("main;jumps_out;jumps_out;jumps_out;jumps_out;jumps_out;jumps_out"),
           std::string("main;after_longjmp;leaf"),
           std::string("main;throws;throws;throws;throws;throws;throws"),
           std::string("main;after_catch;leaf"),
           std::string("main;raises;leaf"),
           std::string("main;after_signal;leaf"),
           std::string("main;tail_called"),
           std::string("main;leaf"),
       })
    CHECK(stacks.contains(expected));
  CHECK_FALSE(stacks.contains(deep + ";leaf"));
  CHECK_FALSE(stacks.contains("main;jumps_out;leaf"));
  CHECK_FALSE(stacks.contains("main;throws;leaf"));
  CHECK_FALSE(stacks.contains("main;never_called;leaf"));
  bool handler = false;
  for (const auto& [stack, count] : stacks)
    handler |= stack.starts_with("main;raises;") && stack.ends_with(";on_signal;leaf");
  CHECK(handler);
  // The loop's instructions are known: as many as leaf has, a thousand times.
  CHECK(stacks.at("main;looks_up;leaf") % 1000 == 0);
}

TEST_CASE("all outputs agree on how many instructions were executed") {
  const Finished stats = run_on_recording({"flow", "--stats", "--json"});
  REQUIRE(stats.status == 0);
  const json totals = json::parse(stats.out);
  CHECK(totals["errors"].empty());
  uint64_t in_stacks = 0;
  for (const auto& [stack, count] : folded()) in_stacks += count;
  CHECK(in_stacks == totals["instructions"]);

  const Finished text = run_on_recording({"flow", "--json"});
  uint64_t in_text = 0;
  for (const json& entry : json_lines(text.out))
    if (entry.contains("instructions")) in_text += entry["instructions"].get<uint64_t>();
  CHECK(in_text == totals["instructions"]);
}

TEST_CASE("coverage has each line's executions, and lines that were not reached") {
  const Finished done = run_on_recording({"flow", "--lcov", "run.info"});
  INFO(done.err);
  REQUIRE(done.status == 0);
  std::istringstream lines(read_file(recorded() / "run.info"));
  std::map<uint32_t, uint64_t> counts;
  std::map<std::string, uint64_t> calls;
  uint64_t reached = 0, found = 0, said_reached = 0, said_found = 0;
  bool ours = false, open = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("SF:")) {
      CHECK_FALSE(open);
      open = true;
      ours = std::filesystem::weakly_canonical(line.substr(3)) ==
             std::filesystem::weakly_canonical(PT_GUEST_SOURCE);
    } else if (line == "end_of_record") {
      open = false;
    } else if (ours && line.starts_with("DA:")) {
      const size_t comma = line.find(',');
      const uint64_t count = std::stoull(line.substr(comma + 1));
      counts[static_cast<uint32_t>(std::stoul(line.substr(3)))] = count;
      ++found;
      reached += count != 0;
    } else if (ours && line.starts_with("FNDA:")) {
      calls[line.substr(line.find(',') + 1)] = std::stoull(line.substr(5));
    } else if (ours && line.starts_with("LF:")) {
      said_found = std::stoull(line.substr(3));
    } else if (ours && line.starts_with("LH:")) {
      said_reached = std::stoull(line.substr(3));
    }
  }
  CHECK_FALSE(open);
  CHECK(found == said_found);
  CHECK(reached == said_reached);
  CHECK(counts[line_with("loop")] == 1000);
  CHECK(counts[line_with("leaf")] == 1000 + 20 + 1 + 5);
  REQUIRE(counts.contains(line_with("never")));
  CHECK(counts[line_with("never")] == 0);
  CHECK(calls["recursive"] == 21);
  CHECK(calls["on_signal"] == 1);
  CHECK(calls["never_called"] == 0);
}

TEST_CASE("Chrome's trace opens and closes every call, in time, up to its limit") {
  for (const uint64_t limit : {uint64_t{1000000}, uint64_t{50}}) {
    const Finished done =
        run_on_recording({"flow", "--chrome", "calls.json", "--chrome-limit", std::to_string(limit)});
    INFO(done.err);
    REQUIRE(done.status == 0);
    const json trace = json::parse(read_file(recorded() / "calls.json"));
    int depth = 0;
    double now = 0;
    uint64_t begun = 0;
    std::set<std::string> names;
    for (const json& event : trace["traceEvents"]) {
      if (event["ph"] == "M") continue;
      REQUIRE(event["ts"].get<double>() >= now);
      now = event["ts"];
      if (event["ph"] == "B") {
        ++depth;
        ++begun;
        names.insert(event["name"]);
      } else {
        REQUIRE(event["ph"] == "E");
        REQUIRE(--depth >= 0);
      }
    }
    CHECK(depth == 0);
    if (limit == 50) {
      CHECK(begun == 50);
      CHECK_THAT(done.err, Contains("calls were left out; raise --chrome-limit"));
    } else {
      for (const char* name : {"main", "recursive", "on_signal", "after_catch", "tail_called"})
        CHECK(names.contains(name));
    }
  }
}

TEST_CASE("a plan names event, stops and what the naive way costs") {
  const Finished done = run_on_recording({"plan", "--to", "leaf:1010", "--json"});
  INFO(done.err);
  REQUIRE(done.status == 0);
  const json plan = json::parse(done.out);
  // 1,000 in the loop, then those that come back from the recursion: what is behind the loop is a better
  // start.
  CHECK(plan["nth_in_segment"] == 1010);
  CHECK(plan["naive_stops"] == 1010);
  CHECK(plan["optimal"] == true);
  CHECK(plan["stops"].get<uint64_t>() <= 12);
  CHECK(plan["chain"].size() >= 2);
  CHECK(plan["chain"].back()["address"] == plan["address"]);

  const std::string event = std::to_string(plan["event"].get<uint64_t>());
  const Finished same = run_on_recording(
      {"plan", "--to", plan["address"].get<std::string>() + ":1010", "--event", event, "--json"});
  CHECK(json::parse(same.out)["chain"] == plan["chain"]);
  CHECK_THAT(run_on_recording({"plan", "--to", "leaf:5000"}).err, Contains("1026 times in the trace"));
  CHECK_THAT(run_on_recording({"plan", "--to", "never_called"}).err,
             Contains("is executed 0 times in the trace"));
  CHECK_THAT(run_on_recording({"plan", "--to", "no_such_function"}).err, Contains("write an address"));
  CHECK(run_on_recording({"plan", "--to", "leaf:0"}).status == 2);
}

TEST_CASE("exits of the digest and marks of the dump name the recording's events") {
  const Finished digest = run_on_recording({"digest", "--json"});
  REQUIRE(digest.status == 0);
  uint64_t last = 0, exits = 0;
  for (const json& entry : json_lines(digest.out)) {
    if (entry.contains("totals")) {
      CHECK(entry["exits"] == exits);
      CHECK(entry["damaged"] == 0);
      continue;
    }
    REQUIRE(entry.contains("event"));
    CHECK(entry["event"].get<uint64_t>() > last);
    last = entry["event"];
    ++exits;
  }
  CHECK(exits > 10);
  CHECK_THAT(run_on_recording({"dump"}).out, Contains("--        event 1\n"));
  CHECK_THAT(run_on_recording({"flow", "--limit", "200"}).out, Contains("-- event 1\n"));
  CHECK_THAT(run_on_recording({"flow", "--branches"}).out, Contains("recursive+"));
}

TEST_CASE(
    "a processor's trace of a recording has the code of all events, and its plans count from exit to exit") {
  const Workplace place;
  std::filesystem::copy(recorded() / "r", place / "r", std::filesystem::copy_options::recursive);
  // The same bytes as a processor's, which has no marks.
  {
    recording::PtLogReader reader(recorded() / "r", 0);
    std::filesystem::remove_all(place / "r" / "pt");
    recording::PtFormat format = reader.format();
    format.source = recording::PtSource::perf;
    recording::PtLogWriter writer(place / "r", 0, format);
    while (const recording::PtRecord* record = reader.next())
      if (record->kind == recording::PtRecord::Kind::data) writer.data(record->bytes);
    writer.finish();
  }
  const auto run = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "pt");
    arguments.push_back("r");
    return run_tool(arguments, place.path());
  };
  const Finished flow = run({"flow", "--stats", "--json"});
  INFO(flow.err);
  CHECK(flow.status == 0);
  CHECK_THAT(flow.err, !Contains("--replay"));
  CHECK(json::parse(flow.out)["errors"].empty());
  CHECK(json::parse(flow.out)["instructions"] ==
        json::parse(run_on_recording({"flow", "--stats", "--json"}).out)["instructions"]);
  const Finished plan = run({"plan", "--to", "leaf:1010", "--json"});
  INFO(plan.err);
  REQUIRE(plan.status == 0);
  const json theirs = json::parse(run_on_recording({"plan", "--to", "leaf:1010", "--json"}).out);
  CHECK(json::parse(plan.out)["chain"] == theirs["chain"]);
  CHECK(json::parse(plan.out).contains("segment"));
  CHECK_FALSE(json::parse(plan.out).contains("event"));
  const Finished refused = run({"flow", "--replay"});
  CHECK(refused.status == 2);
  CHECK_THAT(refused.err, Contains("pt synth --force"));
}

TEST_CASE("events of a recording are told with the function that the program was in") {
  const Finished dump = run_tool({"dump", "--symbols", "r"}, recorded().path());
  CHECK(dump.status == 0);
  CHECK_THAT(dump.out, Contains("in __write+") || Contains("in write+") || Contains("in __GI___libc_write+"));
  const Finished lines = run_tool({"dump", "--symbols", "--json", "r"}, recorded().path());
  CHECK_THAT(lines.out, Contains("\"symbol\":\"") && Contains("(libc.so.6)"));
}

TEST_CASE("a recording without a trace is told how to get one, and takes no --image") {
  const Workplace place;
  record_hello(place);
  const Finished none = run_tool({"pt", "flow", "recording"}, place.path());
  CHECK(none.status == 2);
  CHECK_THAT(none.err, Contains("no Intel PT data") && Contains("pt synth"));
  CHECK_THAT(run_on_recording({"flow", "--image", PT_GUEST}).err, Contains("a recording has its code"));
  CHECK_THAT(run_tool({"pt", "dump", "/tmp"}, place.path()).err, Contains("not a recording"));
}

TEST_CASE("code that the program wrote is followed along a replay") {
  const Workplace place;
  const Finished recorded =
      run_tool({"record", "--machine=soft", "--pt=soft", "-o", "r", PT_JIT_GUEST}, place.path());
  INFO(recorded.err);
  REQUIRE(recorded.status == 0);
  std::istringstream words(recorded.out);
  std::string in_turn, both, file, before_end, behind;
  REQUIRE(words >> in_turn >> both >> file >> before_end >> behind);

  const Finished without = run_tool({"pt", "flow", "--json", "r"}, place.path());
  CHECK(without.status == 0);
  CHECK_THAT(without.err, Contains("--replay gets it"));

  std::string first;
  for (const char* machine : {"auto", "soft"}) {
    const Finished done =
        run_tool({"pt", "flow", "--json", "--replay", "--machine", machine, "r"}, place.path());
    INFO(machine << ": " << done.err);
    CHECK(done.status == 0);
    CHECK(done.err.empty());
    std::map<std::string, uint64_t> instructions;
    for (const json& entry : json_lines(done.out))
      if (entry.contains("block")) instructions[entry["block"]] += entry["instructions"].get<uint64_t>();
    uint64_t expected = 0;
    for (unsigned round = 0; round < 100; ++round) expected += 1 + round % 7 + 1;
    CHECK(instructions[in_turn] == expected + 10);
    CHECK(instructions[both] == expected);
    CHECK(instructions[file] == 6 + 3);
    CHECK(instructions[before_end] == 2 + 5);  // the first time its second page is not executable yet
    CHECK(instructions[behind] == 3);
    const bool same = first.empty() || first == done.out;
    CHECK(same);
    first = done.out;
  }
}

TEST_CASE("replay along a trace is for recordings whose trace has events in it") {
  const Workplace place;
  write_file(place / "raw", "\x02\x82");
  const Finished raw = run_tool({"pt", "flow", "--replay", "raw"}, place.path());
  CHECK(raw.status == 2);
  CHECK_THAT(raw.err, Contains("--replay is for recordings"));
  CHECK(run_tool({"pt", "flow", "--machine=soft", "raw"}, place.path()).status == 2);
}

}  // namespace aftercheck::test
