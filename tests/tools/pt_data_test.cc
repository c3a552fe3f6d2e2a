// `aftercheck pt` on traces of real processors (../shared/pt-data), and on command lines and files that make
// no sense.
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/base/sanitized.h"
#include "tool_runner.h"

namespace aftercheck::test {
namespace {

namespace fs = std::filesystem;
using Catch::Matchers::Contains;
using nlohmann::json;

std::optional<std::string> data_folder() {
  const char* variable = std::getenv("AFTERCHECK_PT_DATA");
  const std::string path = variable != nullptr ? variable : AFTERCHECK_PT_DATA_DEFAULT;
  if (fs::is_directory(path)) return path;
  std::printf("SKIPPED: no real PT traces at %s; set AFTERCHECK_PT_DATA to the pt-data folder\n",
              path.c_str());
  return std::nullopt;
}

// A trace, how its code is named, and how many instructions libipt finds.
struct RealTrace {
  const char* name;
  std::vector<std::string> code;
  uint64_t instructions;
};

std::vector<RealTrace> real_traces(const std::string& folder) {
  const auto pages = [&](const char* name) {
    return std::vector<std::string>{"--pages", folder + "/" + name + "/image", "--cpu", "6/94",
                                    "--noretcomp"};
  };
  return {
      {"qemu", pages("qemu"), 9'635'736},
      {"foo", pages("foo"), 117'967},
      {"avscript_32", pages("avscript_32"), 1'114'194},
      {"icelake_tip", pages("icelake_tip"), 15},
      {"dynamorio_v2",
       {"--image", folder + "/dynamorio_v2/hello@0x401000:0x1000:0x87000", "--cpu", "6/85"},
       59'225},
      {"dynamorio_v5", {"--image", folder + "/dynamorio_v5/hello", "--cpu", "6/85"}, 6},
  };
}

Finished run(std::vector<std::string> arguments, const Workplace& place) {
  arguments.insert(arguments.begin(), "pt");
  return run_tool(arguments, place.path());
}

}  // namespace

TEST_CASE("real traces go through all commands, and flow finds every instruction") {
  const auto folder = data_folder();
  if (!folder) return;
  const Workplace place;
  for (const RealTrace& trace : real_traces(*folder)) {
    INFO(trace.name);
    const std::string file = *folder + "/" + trace.name + "/trace.pt";
    CHECK(run({"dump", "--kind", "TIP,FUP", file}, place).status == 0);
    const Finished digest = run({"digest", "--totals", "--json", file}, place);
    CHECK(digest.status == 0);
    CHECK(json::parse(digest.out)["damaged"] == 0);
    std::vector<std::string> flow{"flow",   "--stats", "--json",   "--folded", "stacks",
                                  "--lcov", "lines",   "--chrome", "c",        file};
    flow.insert(flow.end() - 1, trace.code.begin(), trace.code.end());
    const Finished done = run(flow, place);
    INFO(done.err);
    CHECK(done.status == 0);
    CHECK(json::parse(done.out)["instructions"] == trace.instructions);
    uint64_t in_stacks = 0;
    std::istringstream lines(read_file(place / "stacks"));
    for (std::string line; std::getline(lines, line);) in_stacks += std::stoull(line.substr(line.rfind(' ')));
    CHECK(in_stacks == trace.instructions);
    CHECK_NOTHROW(json::parse(read_file(place / "c")));
  }
}

TEST_CASE("plans in real traces: every execution that is counted has one") {
  const auto folder = data_folder();
  if (!folder) return;
  const Workplace place;
  const auto plan = [&](const std::string& to) {
    return run({"plan", "--to", to, "--json", "--pages", *folder + "/qemu/image", *folder + "/qemu/trace.pt"},
               place);
  };
  const Finished first = plan("0x555555ba2831");
  INFO(first.err);
  CHECK(first.status == 0);
  CHECK(json::parse(first.out)["nth_in_segment"] == 1);
  CHECK(plan("0x555555ba2831:251").status == 0);
  CHECK_THAT(plan("0x555555ba2831:252").err, Contains("is executed 251 times in the trace, so there is no"));
}

TEST_CASE("perf.data is read as a file and as a pipe's stream, missing files are warned of") {
  const auto folder = data_folder();
  if (!folder) return;
  const Workplace place;
  for (const char* name : {"perf.data", "perf.data.piped"}) {
    const std::string file = *folder + "/perf_data/" + name;
    CHECK(run({"dump", file}, place).status == 0);
    const Finished digest = run({"digest", "--totals", file}, place);
    CHECK(digest.status == 0);
    CHECK_THAT(digest.err, Contains("return compression"));
    const Finished flow = run({"flow", "-q", file}, place);
    CHECK(flow.status == 0);
    CHECK_THAT(flow.err, Contains("code is missing: /") && Contains("the code that ran is not at hand"));
  }
}

TEST_CASE("a trace cut at any byte gives what comes before the cut") {
  const auto folder = data_folder();
  if (!folder) return;
  const Workplace place;
  for (const RealTrace& trace : real_traces(*folder)) {
    const std::string bytes = read_file(*folder + "/" + trace.name + "/trace.pt").substr(0, 60'000);
    write_file(place / "whole", bytes);
    const std::string whole = run({"dump", "whole"}, place).out;
    // Every byte of the smallest, some of the others; under sanitizers a third of these.
    constexpr size_t kEvery = kSanitized ? 3 : 1;
    const bool small = bytes.size() < 1000;
    const size_t step = kEvery * (small ? 1 : bytes.size() / 12 + 1);
    for (size_t size = 0; size < bytes.size(); size += step) {
      INFO(trace.name << " cut at " << size);
      write_file(place / "cut", bytes.substr(0, size));
      const Finished dump = run({"dump", "cut"}, place);
      CHECK(dump.signal == 0);
      CHECK((dump.status == 0 || dump.status == 2));
      // The last two lines may be a run of PAD that was cut, and the packet that was.
      std::istringstream ours(dump.out), theirs(whole);
      std::vector<std::string> lines;
      for (std::string line; std::getline(ours, line);) lines.push_back(line);
      for (size_t i = 0; i + 2 < lines.size(); ++i) {
        std::string line;
        std::getline(theirs, line);
        REQUIRE(lines[i] == line);
      }
      if (small && size % 8 != 0) continue;
      std::vector<std::string> flow{"flow", "--stats", "--json", "cut"};
      flow.insert(flow.end() - 1, trace.code.begin(), trace.code.end());
      const Finished done = run(flow, place);
      CHECK(done.signal == 0);
      CHECK(json::parse(done.out)["instructions"].get<uint64_t>() <= trace.instructions);
      CHECK(run({"digest", "--totals", "cut"}, place).signal == 0);
    }
  }
}

TEST_CASE("what pt commands can't do is said in one line, with status 2") {
  const Workplace place;
  write_file(place / "empty", "");
  write_file(place / "junk", std::string(1000, '\x05'));
  write_file(place / "perf", "PERFILE2 is how such a file begins");
  const struct {
    std::vector<std::string> arguments;
    int status;
    const char* says;
  } cases[] = {
      {{"dmup", "x"}, 2, "no command pt dmup (did you mean dump?); see `aftercheck pt --help`"},
      {{"flow"}, 2, "INPUT is required; see `aftercheck pt flow --help`"},
      {{"flow", "--brnaches", "x"}, 2, "did you mean --branches?"},
      {{"dump", "nothing"}, 2, "nothing: can't open: No such file"},
      {{"dump", "--kind", "TOP", "empty"}, 2, "--kind TOP: no such packet; there are PAD PSB"},
      {{"dump", "empty"}, 0, ""},
      {{"dump", "junk"}, 2, "junk: trace: there is no PSB, with which every Intel PT trace begins"},
      {{"digest", "junk"}, 2, "there is no PSB"},
      {{"flow", "junk"}, 2, "there is no PSB"},
      {{"plan", "--to", "0x10", "junk"}, 2, "there is no PSB"},
      {{"dump", "perf"}, 2, "perf: offset 8: header size"},
      {{"flow", "--image", "empty", "junk"}, 2, "empty: is no ELF file"},
      {{"flow", "--image", "empty@5x", "junk"}, 2, "--image empty@5x: `5x` is no number"},
      {{"flow", "--image", "junk@0x1000:2", "junk"}, 2, "write FILE@ADDRESS or FILE@ADDRESS:OFFSET:SIZE"},
      {{"flow", "--image", "junk@0xffffffffffffff00", "junk"}, 2, "passes the end of the address space"},
      {{"flow", "--image", "junk@0x1000:5000:1", "junk"}, 2, "has 1000 bytes, none at offset"},
      {{"flow", "--pages", "junk", "junk"}, 2, "junk.addr: can't be opened"},
      {{"flow", "--cpu", "6", "junk"}, 2, "write FAMILY/MODEL"},
      {{"dump", "--cpu", "6", "junk"}, 2, "write FAMILY/MODEL"},
      {{"digest", "--cpu", "x/5", "junk"}, 2, "--cpu x/5: `x` is no number"},
      {{"flow", "--filter", "0x1000", "junk"}, 2, "write FIRST-LAST"},
      {{"flow", "--bits", "48", "junk"}, 2, "--bits"},
      {{"flow", "--lcov", "no/such/folder", "junk"}, 2, "no/such/folder: can't be written"},
      {{"plan", "junk"}, 2, "--to is required"},
      {{"plan", "--to", "0xzz", "junk"}, 2, "0xzz is no address"},
      {{"plan", "--to", "0x10", "--stream", "3", "junk"}, 2, "there are 1 streams"},
  };
  for (const auto& c : cases) {
    const Finished done = run(c.arguments, place);
    std::string line;
    for (const std::string& word : c.arguments) line += word + " ";
    INFO(line << "-> " << done.err);
    CHECK(done.status == c.status);
    CHECK_THAT(done.err, Contains(c.says));
    CHECK(std::count(done.err.begin(), done.err.end(), '\n') == (c.status == 0 ? 0 : 1));
  }
  CHECK(run({}, place).status == 2);
  CHECK_THAT(run({"plan", "--help"}, place).out, Contains("Usage: aftercheck pt plan"));
}

}  // namespace aftercheck::test
