// What the commands print, where, and how they end.
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <map>
#include <nlohmann/json.hpp>

#include "recording/meta.h"
#include "recording/reader.h"
#include "recording/writer.h"
#include "tool_runner.h"

namespace aftercheck::test {
namespace {

namespace fs = std::filesystem;
using Catch::Matchers::Contains;
using nlohmann::json;

// Copies a recording with one event changed.
void copy_changed(const Workplace& place, const std::string& to, uint64_t number,
                  const std::function<void(recording::Event&)>& change) {
  fs::create_directory(place / to);
  fs::copy(place / "recording/meta", place / (to + "/meta"));
  fs::copy(place / "recording/store", place / (to + "/store"), fs::copy_options::recursive);
  recording::Reader reader(place / "recording");
  recording::Writer writer(place / to);
  while (const recording::Event* event = reader.next()) {
    recording::Event copy = *event;
    if (reader.number() == number) change(copy);
    writer.append(copy);
  }
  writer.finish();
}

uint64_t count_lines(const std::string& text) {
  return static_cast<uint64_t>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace

TEST_CASE("record passes on output and exit status, and says nothing itself") {
  const Workplace place;
  write_file(place / "hello", hello_program(), 0755);
  const Finished recorded = run_tool({"record", "-o", "recording", "./hello"}, place.path());
  CHECK(recorded.status == 3);
  CHECK(recorded.out == "hello\n");
  CHECK(recorded.err == "oops\n");
}

TEST_CASE("record dies of the signal that the program died of") {
  const Workplace place;
  write_file(place / "illegal", illegal_program(), 0755);
  const Finished recorded = run_tool({"record", "./illegal"}, place.path());
  CHECK(recorded.signal == SIGILL);
  const Finished replayed = run_tool({"replay", "--json", "recording-illegal-1"}, place.path());
  CHECK(replayed.status == 0);
  CHECK(json::parse(replayed.out)["end"]["signal"] == SIGILL);
}

TEST_CASE("words after the program are the program's") {
  const Workplace place;
  CHECK(run_tool({"record", "/bin/echo", "-v", "--machine", "--", "x"}, place.path()).out ==
        "-v --machine -- x\n");
  CHECK(run_tool({"record", "--", "/bin/echo", "--help-me"}, place.path()).out == "--help-me\n");
  CHECK(run_tool({"record", "-vo", "here", "/bin/echo", "1"}, place.path()).out == "1\n");
  CHECK(run_tool({"record", "-othere", "--machine=auto", "/bin/echo", "2"}, place.path()).out == "2\n");
  for (const char* made : {"recording-echo-1", "recording-echo-2", "here", "there"})
    CHECK(fs::exists(place / made));
}

TEST_CASE("a recording that could not begin leaves nothing behind") {
  const Workplace place;
  CHECK(run_tool({"record", "./nothing"}, place.path()).status == 2);
  CHECK(run_tool({"record", "-o", "recording", "./nothing"}, place.path()).status == 2);
  CHECK(fs::is_empty(place.path()));
  // On a host without Intel PT this fails after the directory was made.
  const Finished elsewhere = run_tool({"record", "--pt=perf", "--machine=translated", "ls"}, place.path());
  CHECK(elsewhere.status == 2);
  CHECK_THAT(elsewhere.err, Contains("--machine=translated"));
  if (!fs::exists("/sys/bus/event_source/devices/intel_pt")) {
    const Finished traced = run_tool({"record", "--pt=perf", "-o", "traced", "ls"}, place.path());
    CHECK(traced.status == 4);
    CHECK_THAT(traced.err, Contains("intel_pt PMU") && Contains("doctor"));
    CHECK(fs::is_empty(place.path()));
  }
}

TEST_CASE("Option -v and terminals get the recorder's own words, pipes do not") {
  const Workplace place;
  write_file(place / "hello", hello_program(), 0755);
  CHECK_THAT(run_tool({"record", "-v", "./hello"}, place.path()).err, Contains("recording-hello-1"));
  const Finished coloured = run_tool({"record", "./hello"}, place.path(),
                                     {.environment = {"TERM=xterm"}, .error_on_terminal = true});
  CHECK_THAT(coloured.err, Contains("recording-hello-2"));
  const Finished failed =
      run_tool({"record", "./no"}, place.path(), {.environment = {"TERM=xterm"}, .error_on_terminal = true});
  CHECK_THAT(failed.err, Contains("\x1b[") && Contains("./no"));
  const Finished plain = run_tool({"record", "./no"}, place.path(),
                                  {.environment = {"TERM=xterm", "NO_COLOR=1"}, .error_on_terminal = true});
  CHECK_THAT(plain.err, !Contains("\x1b[") && Contains("./no"));
}

TEST_CASE("replay gives the same output on the same descriptors") {
  const Workplace place;
  record_hello(place);
  fs::remove(place / "hello");
  const Finished replayed = run_tool({"replay", "recording"}, place.path());
  CHECK(replayed.status == 0);
  CHECK(replayed.out == "hello\n");
  CHECK(replayed.err == "oops\n");

  const Finished quiet = run_tool({"replay", "-q", "recording"}, place.path());
  CHECK(quiet.status == 0);
  CHECK(quiet.out + quiet.err == "");

  const json verdict = json::parse(run_tool({"replay", "--json", "recording"}, place.path()).out);
  CHECK(verdict["verdict"] == "faithful");
  CHECK(verdict["events"] == 3);
  CHECK(verdict["end"]["exit_status"] == 3);
}

TEST_CASE("replay tells a divergence in text and in JSON") {
  const Workplace place;
  record_hello(place);
  // Event 2 is the write to standard error; let the recording say that it came from elsewhere.
  copy_changed(place, "changed", 2, [](recording::Event& event) { event.rip += 0x10; });
  const Finished replayed = run_tool({"replay", "changed"}, place.path());
  CHECK(replayed.status == 3);
  CHECK(replayed.out == "hello\n");
  CHECK_THAT(replayed.err, Contains("event 2") && Contains("expected: write(") && Contains("came:"));
  const Finished machine_readable = run_tool({"replay", "--json", "changed"}, place.path());
  CHECK(machine_readable.status == 3);
  const json verdict = json::parse(machine_readable.out);
  CHECK(verdict["verdict"] == "divergence");
  CHECK(verdict["event"] == 2);
  CHECK(verdict["expected"] != verdict["actual"]);
  CHECK(verdict.contains("detail"));
}

TEST_CASE("a recording cut short is replayed as far as it goes, with a warning") {
  const Workplace place;
  record_hello(place);
  fs::resize_file(place / "recording/events", fs::file_size(place / "recording/events") - 5);
  const Finished replayed = run_tool({"replay", "recording"}, place.path());
  CHECK(replayed.status == 0);
  CHECK_THAT(replayed.err, Contains("warning") && Contains("no end"));
  const json verdict = json::parse(run_tool({"replay", "--json", "recording"}, place.path()).out);
  CHECK(verdict["verdict"] == "faithful-truncated");
  CHECK(verdict["truncated"] == true);
  const Finished info = run_tool({"info", "recording"}, place.path());
  CHECK(info.status == 0);
  CHECK_THAT(info.out, Contains("cut short"));
  CHECK(json::parse(run_tool({"info", "--json", "recording"}, place.path()).out)["complete"] == false);
  const Finished dump = run_tool({"dump", "recording"}, place.path());
  CHECK(dump.status == 0);
  CHECK_THAT(dump.err, Contains("no end"));
}

TEST_CASE("replay and standard output that can't be written") {
  const Workplace place;
  record_hello(place);
  const Finished full = run_tool({"replay", "recording"}, place.path(), {.output_to = "/dev/full"});
  CHECK(full.status == 2);
  CHECK_THAT(full.err, Contains("ENOSPC"));
  const Finished closed = run_tool({"replay", "recording"}, place.path(), {.close_output = true});
  CHECK(closed.status == 0);
  CHECK(closed.err == "oops\n");
  const Finished unread = run_tool({"replay", "recording"}, place.path(), {.output_without_reader = true});
  CHECK(unread.status == 0);
  CHECK(unread.err == "oops\n");
  CHECK(run_tool({"info", "recording"}, place.path(), {.output_to = "/dev/full"}).status == 2);
}

TEST_CASE("record with standard output closed keeps its own files out of the program's reach") {
  const Workplace place;
  write_file(place / "hello", hello_program(), 0755);
  const Finished recorded =
      run_tool({"record", "-o", "recording", "./hello"}, place.path(), {.close_output = true});
  CHECK(recorded.status == 3);
  CHECK(recorded.err == "oops\n");
  CHECK_THAT(run_tool({"dump", "recording"}, place.path()).out, Contains("EBADF"));
  CHECK(run_tool({"replay", "-q", "recording"}, place.path()).status == 0);
}

TEST_CASE("a full disk stops the program or the recording, and what was written stays good") {
  const Workplace place;
  write_file(place / "random", random_program(), 0755);
  fs::create_directory(place / "small");
  // Room for the first of the log's chunks, which are 8 MiB before compression.
  if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0 ||
      mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount("none", (place / "small").c_str(), "tmpfs", 0, "size=12m") != 0) {
    WARN("SKIPPED: a full disk: no small file system can be mounted here");
    return;
  }
  const std::string stop_or_run = GENERATE("stop", "run");
  const Finished recorded =
      run_tool({"record", "--on-log-error", stop_or_run, "-o", "small/recording", "./random"}, place.path());
  INFO(recorded.err);
  CHECK_THAT(recorded.err, Contains("ENOSPC") && Contains("small/recording") && Contains("incomplete"));
  if (stop_or_run == "stop") {
    CHECK(recorded.status == 2);
    CHECK(recorded.out == "");
    CHECK_THAT(recorded.err, Contains("stopping the program"));
  } else {
    CHECK(recorded.status == 3);
    CHECK(recorded.out == "hello\n");
    CHECK_THAT(recorded.err, Contains("goes on unrecorded"));
  }
  const Finished replayed = run_tool({"replay", "--json", "small/recording"}, place.path());
  CHECK(replayed.status == 0);
  const json verdict = json::parse(replayed.out);
  CHECK(verdict["verdict"] == "faithful-truncated");
  CHECK(verdict["events"].get<uint64_t>() > 100);
  umount((place / "small").c_str());
}

TEST_CASE("replay shows a part of the run, and where it stopped") {
  const Workplace place;
  record_hello(place);
  const auto replay = [&](std::vector<std::string> options) {
    options.insert(options.begin(), "replay");
    options.emplace_back("recording");
    return run_tool(options, place.path());
  };
  // Events 1 and 2 are the calls that write.
  CHECK(replay({"--from", "e1"}).out.empty());
  CHECK(replay({"--from", "e1"}).err == "oops\n");
  CHECK(replay({"--from", "0"}).out == "hello\n");
  CHECK(replay({"--to", "e1"}).out == "hello\n");
  CHECK(replay({"--to", "e1"}).err.empty());
  const Finished part = replay({"--from", "e1", "--to", "e2"});
  CHECK(part.status == 0);
  CHECK(part.out + part.err == "oops\n");
  CHECK(replay({"--from", "e1", "--no-output"}).err.empty());
  CHECK_THAT(replay({"-v", "--to", "e1"}).err, Contains("stopped at ") && Contains(":e1;"));

  const json whole = json::parse(replay({"--json"}).out);
  CHECK(whole["checkpoint"].is_null());
  CHECK(whole.count("position") == 0);
  const json stopped = json::parse(replay({"--json", "--to", "e1"}).out);
  CHECK(stopped["verdict"] == "faithful-so-far");
  CHECK(stopped["events"] == 1);
  CHECK(stopped.count("end") == 0);
  CHECK(stopped["registers"].size() == 20);
  CHECK(stopped["registers"]["rax"] == "0x6");
  const std::string position = stopped["position"];
  const std::string id =
      json::parse(run_tool({"info", "--json", "recording"}, place.path()).out)["recording"];
  CHECK(position == id + ":e1");
  CHECK(json::parse(replay({"--json", "--to", position}).out)["registers"] == stopped["registers"]);
  // An instant comes back as it was asked for: the system call's own address.
  const std::string rip = [&] {
    const std::vector<json> events = json_lines(run_tool({"dump", "--json", "recording"}, place.path()).out);
    return events.at(2)["rip"].get<std::string>();
  }();
  INFO(rip);
  const std::string instant = id + ":e1+" + stopped["registers"]["rip"].get<std::string>() + "#1";
  CHECK(json::parse(replay({"--json", "--to", instant}).out)["position"] == instant);
  CHECK(json::parse(replay({"--json", "--from", instant}).out)["verdict"] == "faithful");

  struct Wrong {
    std::vector<std::string> options;
    std::string message;
  };
  const std::string foreign = (id[0] == '0' ? "1" : "0") + id.substr(1) + ":e1";
  for (const Wrong& wrong :
       {Wrong{{"--from", "soon"}, "an event's number expected"}, Wrong{{"--to", "e1+5"}, "an address"},
        Wrong{{"--from", "e99"}, "the recording ends before it"},
        Wrong{{"--to", "e99"}, "the recording ends before it"}, Wrong{{"--to", foreign}, "another recording"},
        Wrong{{"--from", foreign}, "another recording"}, Wrong{{"--to", "e1+0x10"}, "without it"},
        Wrong{{"--from", "e3+0x10"}, "can't get there"}, Wrong{{"--to", "t1.e1"}, "not thread 1"},
        Wrong{{"--to", "e1", "--from", "e2"}, "before --from"}}) {
    const Finished finished = replay(wrong.options);
    INFO(finished.err);
    CHECK(finished.status == 2);
    CHECK_THAT(finished.err, Contains(wrong.message) && Contains(wrong.options[1]));
  }
}

TEST_CASE("checkpoint makes, lists, verifies and removes") {
  const Workplace place;
  record_hello(place);
  const auto checkpoint = [&](std::vector<std::string> options) {
    options.insert(options.begin(), "checkpoint");
    options.emplace_back("recording");
    return run_tool(options, place.path());
  };
  CHECK(checkpoint({"--list", "--json"}).out == "[]\n");
  CHECK_THAT(checkpoint({"-v"}).err, Contains("shorter than --every"));
  const json made = json::parse(checkpoint({"--every", "0", "--json"}).out);
  CHECK(made["checkpoints"] == 2);  // between three events
  for (const char* name : {"pages", "new_pages", "written_bytes"}) CHECK(made[name].get<uint64_t>() > 0);
  CHECK(made["events"] == 3);
  CHECK(made["truncated"] == false);
  const json listed = json::parse(checkpoint({"--list", "--json"}).out);
  REQUIRE(listed.size() == 2);
  CHECK(listed[0]["event"] == 1);
  CHECK(listed[1]["event"] == 2);
  for (const json& row : listed) CHECK(row["damage"].is_null());
  CHECK(checkpoint({"--verify", "--json"}).out == checkpoint({"--list", "--json"}).out);
  CHECK(count_lines(checkpoint({"--list"}).out) == 2);
  CHECK(json::parse(run_tool({"info", "--json", "recording"}, place.path()).out)["checkpoints"] ==
        json::array({1, 2}));
  CHECK_THAT(run_tool({"info", "recording"}, place.path()).out, Contains("checkpoints"));
  const json near =
      json::parse(run_tool({"replay", "--from", "e2", "--json", "recording"}, place.path()).out);
  CHECK(near["checkpoint"] == 2);
  CHECK(near["events"] == 1);
  CHECK(json::parse(run_tool({"replay", "--json", "recording"}, place.path()).out)["checkpoint"].is_null());
  CHECK(checkpoint({"--remove"}).status == 0);
  CHECK(checkpoint({"--list", "--json"}).out == "[]\n");

  for (const char* every : {"soon", "-1s", "1d", "", "nan", "1e99s"}) {
    const Finished wrong = checkpoint({"--every", every});
    INFO(every);
    CHECK(wrong.status == 2);
    CHECK_THAT(wrong.err, Contains("--every") && Contains("500ms"));
    CHECK(run_tool({"record", "--checkpoint-every", every, "./hello"}, place.path()).status == 2);
  }
  CHECK(checkpoint({"--list", "--remove"}).status == 2);
  CHECK(checkpoint({"--every", "1s", "--remove"}).status == 2);
  CHECK_THAT(run_tool({"checkpoint", "nowhere"}, place.path()).err, Contains("not a recording"));
  CHECK_FALSE(fs::exists(place / "nowhere"));
  CHECK_FALSE(fs::exists(place / "recording-hello-1"));

  run_tool({"record", "--checkpoint-every", "0", "-o", "kept", "./hello"}, place.path());
  CHECK(json::parse(run_tool({"info", "--json", "kept"}, place.path()).out)["checkpoints"] ==
        json::array({1, 2}));
}

TEST_CASE("info tells what a recording holds") {
  const Workplace place;
  record_hello(place);
  const Finished text = run_tool({"info", "-v", "recording"}, place.path());
  CHECK(text.status == 0);
  CHECK_THAT(text.out, Contains("./hello") && Contains("exited with status 3") && Contains("exit_group"));
  const json info = json::parse(run_tool({"info", "--json", "recording"}, place.path()).out);
  CHECK(info["complete"] == true);
  CHECK(info["command"] == json::array({"./hello"}));
  CHECK(info["events"] == 5);
  CHECK(info["events_by_kind"]["syscall"] == 3);
  CHECK(info["system_calls"]["write"] == 2);
  CHECK(info["output_bytes"] == 11);
  CHECK(info["store_bytes"].get<uint64_t>() > 0);
  CHECK(info["log_bytes"].get<uint64_t>() > 0);
}

TEST_CASE("recordings share a store, compressed") {
  const Workplace place;
  fs::create_directory(place / "all");
  const auto record = [&](const char* name) {
    return run_tool({"record", "-o", std::string("all/") + name, "--store", "all/kept", "/bin/true"},
                    place.path());
  };
  const auto kept = [&] {
    std::map<std::string, uintmax_t> sizes;
    for (const auto& entry : fs::directory_iterator(place / "all/kept"))
      sizes[entry.path().filename()] = entry.file_size();
    return sizes;
  };
  CHECK(record("one").status == 0);
  CHECK(fs::is_symlink(place / "all/one/store"));
  const auto first = kept();
  REQUIRE_FALSE(first.empty());
  uintmax_t bytes = 0;
  for (const auto& [name, size] : first) bytes += size;
  CHECK(bytes < fs::file_size("/bin/true") + fs::file_size("/lib/x86_64-linux-gnu/libc.so.6"));
  CHECK(record("two").status == 0);
  CHECK(kept() == first);
  fs::rename(place / "all", place / "moved");
  for (const char* recording : {"moved/one", "moved/two"})
    CHECK(run_tool({"replay", recording}, place.path()).status == 0);
  fs::remove_all(place / "moved/one");
  CHECK(run_tool({"replay", "moved/two"}, place.path()).status == 0);
  fs::remove_all(place / "moved/kept");
  CHECK_THAT(run_tool({"replay", "moved/two"}, place.path()).err,
             Contains("missing from the recording's store"));
  write_file(place / "file", "");
  CHECK(run_tool({"record", "-o", "three", "--store", "file", "/bin/true"}, place.path()).status == 2);
  CHECK_FALSE(fs::exists(place / "three"));
  const Finished here = run_tool({"record", "-o", "three", "--store", ".", "/bin/true"}, place.path());
  CHECK(here.status == 2);
  CHECK_THAT(here.err, Contains("name a folder of its own"));
}

TEST_CASE("dump prints one event a line") {
  const Workplace place;
  record_hello(place);
  const Finished all = run_tool({"dump", "recording"}, place.path());
  CHECK(all.status == 0);
  CHECK(count_lines(all.out) == 5);
  CHECK_THAT(all.out, Contains("write(1, 0x40") && Contains(", 6) = 6") && Contains("exit_group(3) = ?"));
  CHECK(count_lines(run_tool({"dump", "--from", "1", "--to", "2", "recording"}, place.path()).out) == 2);
  CHECK(count_lines(run_tool({"dump", "--limit", "1", "recording"}, place.path()).out) == 1);
  CHECK_THAT(run_tool({"dump", "-v", "recording"}, place.path()).out,
             Contains("map file") && Contains("output of 6 bytes to descriptor 1 (standard output)") &&
                 Contains("rip ="));

  const Finished lines = run_tool({"dump", "--json", "recording"}, place.path());
  const std::vector<json> events = json_lines(lines.out);
  REQUIRE(events.size() == 5);
  CHECK(events[0]["kind"] == "start");
  CHECK(events[1]["call"] == "write");
  CHECK(events[1]["result"] == "6");
  CHECK(events[1]["outputs"][0]["length"] == 6);
  CHECK(events[4]["kind"] == "end");
}

TEST_CASE("automatic: the machine that doctor names, and why") {
  const Workplace place;
  const How caches{.environment = {"XDG_CACHE_HOME=" + (place / "caches").string()}};
  const json report = json::parse(run_tool({"doctor", "--json"}, place.path(), caches).out);
  const json& costs = report["exit_cost_us"];
  CHECK(!report["reason"].get<std::string>().empty());
  // Both or neither.
  CHECK(fs::exists(place / "caches") == (!costs["kvm"].is_null() && !costs["translated"].is_null()));
  run_tool({"record", "-o", "r", "/bin/true"}, place.path(), caches);
  CHECK(json::parse(run_tool({"info", "--json", "r"}, place.path()).out)["machine"] == report["machine"]);
  CHECK(json::parse(run_tool({"replay", "--json", "r"}, place.path(), caches).out)["machine"] ==
        report["machine"]);
  // Without a cache it is measured again.
  CHECK(run_tool({"record", "-o", "r2", "/bin/true"}, place.path(),
                 {.environment = {"XDG_CACHE_HOME=/dev/null", "HOME=/dev/null"}})
            .status == 0);
}

TEST_CASE("option --untrusted keeps a recording's code off the translated machine") {
  const Workplace place;
  REQUIRE(run_tool({"record", "-o", "r", "/bin/true"}, place.path()).status == 0);
  const Finished replayed = run_tool({"replay", "--untrusted", "--json", "r"}, place.path());
  CHECK(replayed.status == 0);
  CHECK(json::parse(replayed.out)["machine"] != "translated");
  CHECK(run_tool({"check", "--untrusted", "r"}, place.path()).status == 0);
  CHECK(run_tool({"checkpoint", "--untrusted", "r"}, place.path()).status == 0);
  for (const char* command : {"replay", "check", "checkpoint"}) {
    const Finished refused = run_tool({command, "--untrusted", "--machine=translated", "r"}, place.path());
    CHECK(refused.status == 2);
    CHECK_THAT(refused.err, Contains("no wall"));
  }
}

TEST_CASE("doctor tries every capability") {
  const Finished text = run_tool({"doctor"}, fs::temp_directory_path());
  CHECK((text.status == 0 || text.status == 4));
  for (const char* machine : {"kvm", "translated", "soft"})
    CHECK_THAT(text.out, Contains(std::string("(--machine ") + machine + ")"));
  const Finished finished = run_tool({"doctor", "--json"}, fs::temp_directory_path());
  const json report = json::parse(finished.out);
  CHECK(report["can_record"] == (finished.status == 0));
  for (const char* group : {"kvm", "translated", "soft"}) {
    const json& findings = report[group];
    REQUIRE(!findings.empty());
    CHECK(findings[0]["name"] == "usable");
    if (findings[0]["works"] == false) {
      CHECK(!findings[0]["value"].get<std::string>().empty());
      CHECK(!findings[0]["cost_if_missing"].get<std::string>().empty());
      continue;
    }
    CHECK(findings.size() > 10);
    for (const json& finding : findings) {
      INFO(finding);
      CHECK((finding["works"] == true || !finding["cost_if_missing"].get<std::string>().empty()));
      CHECK(finding["name"] != "completed");
    }
  }
  CHECK(report["host"].size() > 5);
  const auto trace = std::find_if(report["host"].begin(), report["host"].end(),
                                  [](const json& finding) { return finding["name"] == "intel_pt"; });
  REQUIRE(trace != report["host"].end());
  CHECK(((*trace)["works"] == true || !(*trace)["value"].get<std::string>().empty()));
}

TEST_CASE("help and version go to standard output") {
  CHECK_THAT(run_tool({"--version"}, "/").out, Catch::Matchers::StartsWith("aftercheck "));
  const Finished none = run_tool({}, "/");
  CHECK(none.status == 2);
  CHECK_THAT(none.out, Contains("record") && Contains("doctor"));
  for (const char* command : {"record", "replay", "check", "checkpoint", "info", "dump", "doctor"}) {
    const Finished help = run_tool({command, "--help"}, "/");
    CHECK(help.status == 0);
    CHECK(help.err == "");
    CHECK_THAT(help.out, Contains("Examples:") && Contains("Exit status:"));
  }
}

TEST_CASE("AFTERCHECK_LOG adds lines of the topics asked for, and the program's output stays as it is") {
  const Workplace place;
  write_file(place / "illegal", illegal_program(), 0755);
  const Finished died = run_tool({"record", "--machine=soft", "./illegal"}, place.path(),
                                 {.environment = {"AFTERCHECK_LOG=machine,signals,no"}});
  CHECK(died.signal == SIGILL);
  CHECK_THAT(died.err, Contains("machine: soft: asked for\n") &&
                           Contains("signals: signal 4 (si_code 2) ends the guest") &&
                           Contains("no topic \"no\"") && !Contains("record: "));
  write_file(place / "hello", hello_program(), 0755);
  const Finished all = run_tool({"record", "--machine=soft", "./hello"}, place.path(),
                                {.environment = {"AFTERCHECK_LOG=all"}});
  CHECK(all.status == 3);
  CHECK(all.out == "hello\n");
  CHECK_THAT(all.err, Contains("oops\n") && Contains("record: event 1: thread 0, kind") &&
                          Contains("calls: thread 0: call 1("));
}

TEST_CASE("a call that can't be recorded ends the recording, and every command says so") {
  const Workplace place;
  write_file(place / "forking", forking_program(), 0755);
  const Finished recorded =
      run_tool({"record", "--children=refuse", "-o", "recording", "./forking"}, place.path());
  INFO(recorded.err);
  CHECK(recorded.status == 69);
  CHECK(recorded.out == "");
  CHECK(count_lines(recorded.err) == 1);
  CHECK_THAT(recorded.err, Contains("fork (a child process)") && Contains("--on-unsupported=continue") &&
                               Contains("recording replays up to it") && Contains("69"));

  const Finished replayed = run_tool({"replay", "recording"}, place.path());
  CHECK(replayed.status == 0);
  CHECK_THAT(replayed.err, Contains("warning: ") && Contains("fork (a child process)"));
  const json verdict = json::parse(run_tool({"replay", "--json", "recording"}, place.path()).out);
  CHECK(verdict["verdict"] == "faithful");
  CHECK(verdict["end"]["stopped_at"] == "fork");
  CHECK(verdict["stopped_at"] == "fork (a child process)");
  CHECK(verdict["events"] == 1);

  const Finished info = run_tool({"info", "recording"}, place.path());
  CHECK_THAT(info.out, Contains("stopped by the recorder: fork can't be recorded") &&
                           Contains("fork (a child process)"));
  CHECK_THAT(info.err, Contains("fork (a child process)"));
  const json facts = json::parse(run_tool({"info", "--json", "recording"}, place.path()).out);
  CHECK(facts["complete"] == true);
  CHECK(facts["stopped_at"] == "fork (a child process)");
  CHECK(facts["answered_calls"].empty());

  CHECK_THAT(run_tool({"check", "recording"}, place.path()).err, Contains("fork (a child process)"));
  CHECK(json::parse(run_tool({"check", "--json", "recording"}, place.path()).out)["stopped_at"] ==
        "fork (a child process)");
  CHECK_THAT(run_tool({"dump", "recording"}, place.path()).out, Contains("stopped by the recorder: fork"));

  // Without the recorder's last words the log itself still tells.
  json meta = json::parse(read_file(place / "recording/meta"));
  meta.erase("stopped_at");
  write_file(place / "recording/meta", meta.dump());
  CHECK_THAT(run_tool({"info", "recording"}, place.path()).out, Contains("fork can't be recorded"));
}

TEST_CASE("calls that are answered without being done are told of by every command") {
  const Workplace place;
  write_file(place / "forking", forking_program(), 0755);
  const Finished recorded =
      run_tool({"record", "--children=refuse", "--on-unsupported=continue", "-o", "recording", "./forking"},
               place.path());
  const std::string told = "fork (a child process): ENOSYS, 2 times";
  CHECK(recorded.status == 3);
  CHECK(recorded.out == "hello\n");
  CHECK_THAT(recorded.err, Contains("oops\n") && Contains("warning: ") && Contains(told));
  CHECK_THAT(run_tool({"replay", "recording"}, place.path()).err, Contains(told));
  CHECK_THAT(run_tool({"check", "recording"}, place.path()).err, Contains(told));
  const Finished info = run_tool({"info", "recording"}, place.path());
  CHECK_THAT(info.out, Contains(told));
  CHECK_THAT(info.err, Contains(told));
  for (const char* command : {"replay", "check", "info"}) {
    const json result = json::parse(run_tool({command, "--json", "recording"}, place.path()).out);
    INFO(command);
    REQUIRE(result["answered_calls"].size() == 1);
    CHECK(result["answered_calls"][0]["call"] == "fork (a child process)");
    CHECK(result["answered_calls"][0]["answer"] == "ENOSYS");
    CHECK(result["answered_calls"][0]["times"] == 2);
    CHECK(result["stopped_at"].is_null());
  }
}

TEST_CASE("the program can't keep the recorder from saying why it ended") {
  const Workplace place;
  const Finished recorded = run_tool({"record", "--children=refuse", "-o", "recording", "/bin/sh", "-c",
                                      "exec 2> /dev/null 1>&2; (exit 3); exit 4"},
                                     place.path());
  CHECK(recorded.status == 69);
  CHECK_THAT(recorded.err, Contains("a child process"));
}

TEST_CASE("all processes of a recording are told of and replayed, or one") {
  const Workplace place;
  const Finished recorded =
      run_tool({"record", "-o", "recording", "/bin/sh", "-c", "(echo one; exit 3); echo $?"}, place.path());
  CHECK(recorded.status == 0);
  CHECK(recorded.out == "one\n3\n");
  const json facts = json::parse(run_tool({"info", "--json", "recording"}, place.path()).out);
  REQUIRE(facts["processes"].size() >= 1);
  CHECK(facts["processes"][0]["process"] == 1);
  CHECK(facts["processes"][0]["parent"]["process"] == 0);
  CHECK(facts["processes"][0]["end"] == "exited with status 3");
  CHECK_THAT(run_tool({"info", "recording"}, place.path()).out, Contains("\n    1  from e"));

  const Finished all = run_tool({"replay", "recording"}, place.path());
  CHECK(all.status == 0);
  CHECK(all.out == "one\n3\n");
  const Finished one = run_tool({"replay", "-v", "--process", "1", "recording"}, place.path());
  CHECK(one.status == 0);
  CHECK(one.out == "one\n");
  CHECK_THAT(one.err, Contains("the program ended with status 3"));
  CHECK(run_tool({"replay", "--process", "0", "recording"}, place.path()).out == "3\n");
  CHECK(run_tool({"replay", "recording/processes/1"}, place.path()).out == "one\n");
  CHECK_THAT(run_tool({"replay", "-v", "--to", "p1.e2", "recording"}, place.path()).err, Contains(":p1.e2;"));
  CHECK(run_tool({"replay", "--process", "7", "recording"}, place.path()).status == 2);
  CHECK(run_tool({"replay", "--process", "0", "--to", "p1.e2", "recording"}, place.path()).status == 2);
  CHECK_THAT(run_tool({"dump", "--process", "1", "recording"}, place.path()).out,
             Contains("exited with status 3"));
  const json verdict = json::parse(run_tool({"replay", "--json", "recording"}, place.path()).out);
  CHECK(verdict["verdict"] == "faithful");
  CHECK(verdict["processes"][1]["end"]["exit_status"] == 3);

  // What is wrong with one is said of that one, and the others are replayed.
  std::filesystem::resize_file(place / "recording/processes/1/events", 100);
  const Finished cut = run_tool({"replay", "recording"}, place.path());
  CHECK(cut.status == 0);
  CHECK(cut.out == "3\n");
  CHECK_THAT(cut.err, Contains("process 1 (pid ") && Contains("has no end"));
  write_file(place / "recording/processes/1/events", "something else");
  const Finished damaged = run_tool({"replay", "recording"}, place.path());
  CHECK(damaged.status == 2);
  CHECK(damaged.out == "3\n");
  CHECK_THAT(damaged.err, Contains("process 1 (pid "));
}

TEST_CASE("each process has a trace of its own, and is compared with it alone") {
  for (const std::string machine : {"soft", "translated"}) {
    const Workplace place;
    const Finished probe = run_tool({"record", "--machine=" + machine, "-o", "p", "/bin/true"}, place.path());
    if (machine != "soft" && probe.status != 0) {
      WARN("SKIPPED: the translated machine: " << probe.err);
      continue;
    }
    INFO(machine);
    const Finished done = run_tool({"record", "--machine=" + machine, "--pt=soft", "-o", "r", "/bin/sh", "-c",
                                    "(echo child; exit 3); echo $?; /bin/true"},
                                   place.path());
    INFO(done.err);
    REQUIRE(done.status == 0);
    CHECK(done.out == "child\n3\n");
    const auto compared = [&](const std::string& process) {
      const Finished replay =
          run_tool({"replay", "--json", "--pt=soft", "--machine=" + machine, "--process=" + process, "r"},
                   place.path());
      INFO(replay.err);
      REQUIRE(replay.status == 0);
      const json result = json::parse(replay.out.substr(replay.out.find('{')));
      CHECK(result["pt"]["segments"] == result["events"]);
      CHECK(result["pt"]["unverified"] == 0);
      return result["pt"]["branches"].get<uint64_t>();
    };
    const uint64_t shell = compared("0"), subshell = compared("1"), executed = compared("2");
    CHECK(subshell > 0);
    CHECK(shell > subshell);
    CHECK(executed > subshell);
    const Finished all = run_tool({"replay", "--pt=soft", "r"}, place.path());
    CHECK(all.status == 2);
    CHECK_THAT(all.err, Contains("say which with --process"));
  }
}

TEST_CASE("what a recording says of its calls can't play with a terminal") {
  const Workplace place;
  record_hello(place);
  json meta = json::parse(read_file(place / "recording/meta"));
  meta["stopped_at"] = "\x1b[31mfork";
  meta["answered_calls"] = json::array();
  meta["answered_calls"].push_back({{"call", "\x1b]0;x\x07"}, {"answer", "\r"}, {"times", 1}});
  write_file(place / "recording/meta", meta.dump());
  for (const char* command : {"replay", "check", "info"}) {
    const Finished result = run_tool({command, "recording"}, place.path());
    INFO(command);
    CHECK_THAT(result.err, Contains("\\x1b[31mfork") && !Contains("\x1b") && !Contains("\r"));
    CHECK_THAT(result.out, !Contains("\x1b"));
  }
}

}  // namespace aftercheck::test
