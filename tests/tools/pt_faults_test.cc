// `aftercheck pt` on the smallest traces that once showed a fault in it, on made-up code.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "tool_runner.h"

namespace aftercheck::test {
namespace {

using Catch::Matchers::Contains;
using nlohmann::json;

std::string bytes(std::initializer_list<int> list) {
  std::string text;
  for (const int byte : list) text += static_cast<char>(byte);
  return text;
}

// PSB+ of 64-bit code without an address, as while tracing is off.
std::string psb() {
  std::string text;
  for (int i = 0; i < 8; ++i) text += "\x02\x82";
  return text + bytes({0x99, 0x01, 0x02, 0x23});
}

// Packets with all six bytes of an address below 2^47.
std::string with_ip(int opcode, uint64_t ip) {
  std::string text(1, static_cast<char>(0x60 | opcode));
  for (int i = 0; i < 6; ++i) text += static_cast<char>(ip >> (8 * i));
  return text;
}
std::string pge(uint64_t ip) { return with_ip(0x11, ip); }
std::string tip(uint64_t ip) { return with_ip(0x0d, ip); }
std::string fup(uint64_t ip) { return with_ip(0x1d, ip); }
const std::string pgd = "\x01";

// perf.data as a pipe's stream: a trace of thread 77, and `code` mapped at an address from byte 0x1000 of a
// file.
std::string perf_data(const std::string& trace, const std::string& file, uint64_t address,
                      const std::string& filter = "") {
  std::string text = "PERFILE2";
  const auto put = [&text](uint64_t value, int size) {
    for (int i = 0; i < size; ++i) text += static_cast<char>(value >> (8 * i));
  };
  put(16, 8);
  const std::string path = file + std::string(8 - file.size() % 8, '\0');
  put(10 | (8 + 64 + path.size()) << 48, 8);  // MMAP2
  put(77 | uint64_t{77} << 32, 8);
  for (const uint64_t word :
       {address, uint64_t{0x1000}, uint64_t{0x1000}, uint64_t{0}, uint64_t{0}, uint64_t{0}})
    put(word, 8);
  put(5, 8);  // readable, executable
  text += path;
  if (!filter.empty()) {
    const std::string padded = filter + std::string(8 - filter.size() % 8, '\0');
    put(70 | (8 + 8 + 17 * 8 + padded.size()) << 48, 8);  // AUXTRACE_INFO of Intel PT
    put(1, 8);
    for (int i = 0; i < 16; ++i) put(0, 8);
    put(padded.size(), 8);
    text += padded;
  }
  put(71 | uint64_t{48} << 48, 8);  // AUXTRACE
  for (const uint64_t word : {trace.size(), size_t{0}, size_t{0}, uint64_t{77} << 32, size_t{0xffffffff}})
    put(word, 8);
  return text + trace;
}

Finished run(std::vector<std::string> arguments, const Workplace& place) {
  arguments.insert(arguments.begin(), "pt");
  return run_tool(arguments, place.path());
}

}  // namespace

TEST_CASE("a plan in a raw trace counts executions over all its segments") {
  const Workplace place;
  // 1000: nop; jnz 1000; syscall
  write_file(place / "code", bytes({0x90, 0x75, 0xfd, 0x0f, 0x05}));
  std::string trace = psb();
  // Three segments of 3, 1 and 4 executions of the NOP; the host interrupts within the last.
  trace += pge(0x1000) + bytes({0x1c}) + pgd;  // TTN
  trace += pge(0x1000) + bytes({0x04}) + pgd;  // N
  trace += pge(0x1000) + bytes({0x06}) + fup(0x1000) + pgd + pge(0x1000) + bytes({0x1c}) + pgd;
  write_file(place / "trace", trace);
  const auto plan = [&](const std::string& to, std::vector<std::string> more = {}) {
    std::vector<std::string> words{"plan", "--to", to, "--json", "--image", "code@0x1000", "trace"};
    words.insert(words.begin() + 1, more.begin(), more.end());
    return run(words, place);
  };
  const struct {
    int hit;
    int segment, in_segment;
  } hits[] = {{1, 0, 1}, {3, 0, 3}, {4, 1, 1}, {5, 2, 1}, {6, 2, 2}, {8, 2, 4}};
  const json first = json::parse(plan("0x1000").out);
  CHECK(first["naive_stops"] == 1);
  const uint64_t base = first["segment"];
  for (const auto& hit : hits) {
    INFO(hit.hit);
    const Finished done = plan("0x1000:" + std::to_string(hit.hit));
    INFO(done.err);
    REQUIRE(done.status == 0);
    const json found = json::parse(done.out);
    CHECK(found["segment"] == base + static_cast<uint64_t>(hit.segment));
    CHECK(found["nth_in_segment"] == hit.in_segment);
    CHECK(found["naive_stops"] == hit.in_segment);
  }
  CHECK_THAT(plan("0x1000:9").err, Contains("is executed 8 times in the trace, so there is no hit 9"));
  const std::string last = std::to_string(base + 2);
  CHECK(json::parse(plan("0x1000:4", {"--event", last}).out)["nth_in_segment"] == 4);
  CHECK_THAT(plan("0x1000:3", {"--event", std::to_string(base + 1)}).err,
             Contains("is executed 1 times in segment " + std::to_string(base + 1)));
}

TEST_CASE("bytes that are no packets are damage in every command, with or without code") {
  const Workplace place;
  write_file(place / "code", bytes({0x90, 0x0f, 0x05}));
  write_file(place / "off", psb() + std::string(200, '\xff'));
  write_file(place / "on", psb() + pge(0x1000) + std::string(200, '\xff'));
  for (const char* trace : {"off", "on"}) {
    INFO(trace);
    for (const char* command : {"dump", "digest", "flow"}) {
      const Finished done = run({command, trace}, place);
      INFO(command << ": " << done.out << done.err);
      CHECK(done.status == 2);
      CHECK_THAT(done.err, Contains("in 1 places the bytes are no Intel PT packets"));
    }
    const Finished flow = run({"flow", "--image", "code@0x1000", "--stats", "--json", trace}, place);
    CHECK(flow.status == 2);
    CHECK(json::parse(flow.out)["errors"] == json{{"the bytes are no Intel PT packet", 1}});
  }
}

TEST_CASE("a file that is larger than what is read at once and has its only PSB across a seam is a trace") {
  const Workplace place;
  for (const size_t before : {262'143u, 262'137u, 262'129u, 262'144u, 600'000u}) {
    INFO(before);
    write_file(place / "trace", std::string(before, '\x05') + psb());
    for (const char* command : {"dump", "digest", "flow"}) {
      const Finished done = run({command, "trace"}, place);
      INFO(command << ": " << done.err);
      CHECK(done.status == 0);
    }
  }
}

TEST_CASE("perf.data whose files have moved: --symfs finds them, addresses are those of its mappings") {
  const Workplace place;
  std::filesystem::create_directories(place / "root/gone/bin");
  std::filesystem::create_directory(place / "flat");
  const std::string file = std::string(0x1000, '\0') + bytes({0x90, 0x75, 0xfd, 0x0f, 0x05});
  write_file(place / "root/gone/bin/program", file);
  write_file(place / "flat/program", file);
  const uint64_t base = 0x555555554000;  // of a position-independent program
  const std::string trace = psb() + pge(base) + bytes({0x1c}) + pgd + psb();
  write_file(place / "perf.data", perf_data(trace, "/gone/bin/program", base));
  for (const char* where : {"root", "flat"}) {
    INFO(where);
    const Finished flow = run({"flow", "--symfs", where, "--stats", "--json", "perf.data"}, place);
    INFO(flow.err);
    CHECK(flow.status == 0);
    CHECK(json::parse(flow.out)["instructions"] == 7);
    const Finished plan =
        run({"plan", "--symfs", where, "--to", "0x555555554000:3", "--json", "perf.data"}, place);
    INFO(plan.err);
    CHECK(plan.status == 0);
    CHECK(json::parse(plan.out)["nth_in_segment"] == 3);
  }
  const Finished without = run({"flow", "-q", "perf.data"}, place);
  CHECK(without.status == 0);
  CHECK_THAT(without.err, Contains("code is missing: /gone/bin/program"));
  CHECK_THAT(run({"flow", "-q", "--symfs", "nowhere", "perf.data"}, place).err,
             Contains("code is missing: nowhere/gone/bin/program"));
  write_file(place / "raw", trace);
  CHECK_THAT(run({"flow", "--symfs", "flat", "raw"}, place).err, Contains("--symfs is for perf.data"));
}

TEST_CASE("a compressed return is a contradiction unless its call may lie in missing code") {
  const Workplace place;
  // 1000: jmp rax    1002: nop; ret    1004: call 1002; syscall
  write_file(place / "code", bytes({0xff, 0xe0, 0x90, 0xc3, 0xe8, 0xf9, 0xff, 0xff, 0xff, 0x0f, 0x05}));
  const auto flow = [&](const std::string& trace) {
    write_file(place / "trace", trace);
    const Finished done = run({"flow", "--image", "code@0x1000", "--stats", "--json", "trace"}, place);
    INFO(done.err);
    return std::pair(done, json::parse(done.out)["errors"]);
  };
  const std::string call_and_end = tip(0x1004) + bytes({0x06}) + pgd;  // returns by a taken outcome
  // To 9000, where there is no code; it calls 1002, which returns; then it goes to 1004.
  const auto [done, errors] =
      flow(psb() + pge(0x1000) + tip(0x9000) + tip(0x1002) + bytes({0x06}) + call_and_end);
  CHECK(done.status == 0);
  CHECK(errors == json{{"the code image has no instruction there", 1},
                       {"compressed return whose call could not be followed", 1}});
  CHECK(json::parse(done.out)["instructions"] == 1 + 2 + 1 + 2 + 1);
  CHECK_THAT(done.err, Contains("in 1 places a function returned whose call could not be followed"));
  // A PSB before the return, which is compressed only by calls behind it: what was missing is no excuse.
  const auto [behind, behind_errors] =
      flow(psb() + pge(0x1000) + tip(0x9000) + tip(0x1002) + psb() + bytes({0x06}) + call_and_end);
  CHECK(behind.status == 2);
  CHECK(behind_errors["compressed return without a call before it"] == 1);
  const auto [plain, plain_errors] = flow(psb() + pge(0x1000) + tip(0x1002) + bytes({0x06}) + call_and_end);
  CHECK(plain.status == 2);
  CHECK(plain_errors == json{{"compressed return without a call before it", 1}});
}

TEST_CASE("errata of the processor that --cpu names, in every command") {
  const Workplace place;
  // 1000: nop; call 1010    1010: nop; syscall
  write_file(place / "code",
             bytes({0x90, 0xe8, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x90, 0x0f, 0x05}));
  // SKD007: a CYC whose second byte is the first of an OVF.
  write_file(place / "overflow", psb() + pge(0x1000) + bytes({0x07, 0x02, 0xf3}) + fup(0x1010) + pgd);
  CHECK_THAT(run({"dump", "--cpu", "6/94", "overflow"}, place).out, Contains("OVF"));
  const auto digest = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"digest", "--totals", "--json", "overflow"});
    return json::parse(run(more, place).out);
  };
  CHECK(digest({"--cpu", "6/94"})["overflows"] == 1);
  CHECK(digest({"--cpu", "6/94"})["unverified_exits"] == 1);
  CHECK(digest({})["overflows"] == 0);
  // SKZ84: a TMA with reserved bits.
  write_file(place / "tma", psb() + bytes({0x02, 0x73, 1, 2, 0xff, 0, 0}) + pge(0x1010) + pgd);
  CHECK(run({"dump", "tma"}, place).status == 2);
  for (const char* command : {"dump", "digest", "flow"})
    CHECK(run({command, "--cpu", "6/85", "tma"}, place).status == 0);
  // SKL014: the call leaves the filter.
  write_file(place / "left", psb() + pge(0x1000) + pgd);
  const auto instructions = [&](std::vector<std::string> more) {
    more.insert(more.begin(),
                {"flow", "--cpu", "6/94", "--image", "code@0x1000", "--stats", "--json", "left"});
    return json::parse(run(more, place).out)["instructions"].get<int>();
  };
  CHECK(instructions({"--filter", "0x1000-0x100f"}) == 2);
  // perf.data has the filter, as a range of the file.
  write_file(place / "file", std::string(0x1000, '\0') + read_file(place / "code"));
  const auto of_perf_data = [&](const std::string& filter) {
    write_file(place / "perf.data", perf_data(psb() + pge(0x555555554000) + pgd + psb(),
                                              (place / "file").string(), 0x555555554000, filter));
    const Finished done = run({"flow", "--cpu", "6/94", "--stats", "--json", "perf.data"}, place);
    INFO(done.err);
    return json::parse(done.out)["instructions"].get<int>();
  };
  CHECK(of_perf_data("filter 0x1000/0x10@" + (place / "file").string()) == 2);
  CHECK(of_perf_data("filter 0x1000/0x20@" + (place / "file").string()) == 4);
  CHECK(of_perf_data("filter 0x1000/0x10@/other/file") == 4);
  CHECK(instructions({}) == 4);
}

}  // namespace aftercheck::test
