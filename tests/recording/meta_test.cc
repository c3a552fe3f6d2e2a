#include "recording/meta.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "event_maker.h"

namespace aftercheck::recording {
namespace {

using nlohmann::json;
using testing::TemporaryDirectory;

Meta sample() {
  Meta meta;
  meta.writer = "aftercheck 0.1.0";
  meta.command = {
      "ls", "-la", "", "\xff\xfe not UTF-8", std::string("nul\0inside", 10), "gr\xc3\xbc\xc3\x9f"};
  meta.working_directory = "/home/\xe9";
  meta.environment = {"A=1", "B=\x80\x81", "C={\"hex\": \"00\"}"};
  meta.machine = "kvm";
  meta.cpu_model = "portable";
  meta.host_cpu = "cpu";
  meta.host_kernel = "kernel";
  meta.host_name = "host";
  meta.start_time_ns = ~uint64_t{0};
  meta.capabilities = {{"tf_step", "yes"}, {"pt", "no: \xff"}};
  meta.answered_calls = {{"fork (a child process)", "ENOSYS", 2}, {"\xff", "EPERM", ~uint64_t{0}}};
  meta.process = 3;
  meta.parent = Parent{.process = 2, .event = ~uint64_t{0}};
  meta.recording = 0xffffffff;
  meta.process_id = 4711;
  meta.stopped_at = "execve (\xfe)";
  return meta;
}

void write_text(const std::filesystem::path& path, const std::string& text) { std::ofstream(path) << text; }

ErrorKind kind_of_error(const std::filesystem::path& directory, std::string& message) {
  try {
    read_meta(directory);
  } catch (const Error& e) {
    message = e.what();
    return e.kind();
  }
  FAIL("no error");
  return ErrorKind::internal;
}

}  // namespace

TEST_CASE("meta comes back as it was, bytes that are no UTF-8 included") {
  TemporaryDirectory directory;
  const Meta meta = sample();
  write_meta(directory.path(), meta);
  const Meta found = read_meta(directory.path());
  REQUIRE(found.format_version == kFormatVersion);
  REQUIRE(found.writer == meta.writer);
  REQUIRE(found.command == meta.command);
  REQUIRE(found.process == meta.process);
  REQUIRE(found.parent == meta.parent);
  REQUIRE(found.recording == meta.recording);
  REQUIRE(found.process_id == meta.process_id);
  REQUIRE(found.working_directory == meta.working_directory);
  REQUIRE(found.environment == meta.environment);
  REQUIRE(found.machine == meta.machine);
  REQUIRE(found.cpu_model == meta.cpu_model);
  REQUIRE(found.host_cpu == meta.host_cpu);
  REQUIRE(found.host_kernel == meta.host_kernel);
  REQUIRE(found.host_name == meta.host_name);
  REQUIRE(found.start_time_ns == meta.start_time_ns);
  REQUIRE(found.capabilities == meta.capabilities);
  REQUIRE(found.answered_calls == meta.answered_calls);
  REQUIRE(found.stopped_at == meta.stopped_at);
  REQUIRE_FALSE(std::filesystem::exists(directory / "meta.new"));
}

TEST_CASE("a bad field of meta is named") {
  TemporaryDirectory directory;
  write_meta(directory.path(), sample());
  const json good = json::parse(std::ifstream(directory / "meta"));
  for (const auto& [field, value] : good.items()) {
    for (const json& wrong : {json(nullptr), json(-1), json(1.5), json{{"hex", "0"}}, json::array({1})}) {
      INFO(field << " = " << wrong);
      json bad = good;
      bad[field] = wrong;
      write_text(directory / "meta", bad.dump());
      std::string message;
      // The one wrong value that fits: an object of strings.
      if (field == "capabilities" && wrong.is_object()) continue;
      REQUIRE(kind_of_error(directory.path(), message) == ErrorKind::bad_input);
      REQUIRE_THAT(message, Catch::Contains("/meta") && Catch::Contains(field));
    }
    // Earlier versions do not write them, nor does every process.
    const std::set<std::string> optional = {"answered_calls", "stopped_at", "process",
                                            "process_id",     "recording",  "parent"};
    if (optional.contains(field)) continue;
    json bad = good;
    bad.erase(field);
    write_text(directory / "meta", bad.dump());
    std::string message;
    REQUIRE(kind_of_error(directory.path(), message) == ErrorKind::bad_input);
    REQUIRE_THAT(message, Catch::Contains("`" + field + "` is missing"));
  }
}

TEST_CASE("meta of a program whose every call was recorded says nothing of others") {
  TemporaryDirectory directory;
  Meta meta = sample();
  meta.answered_calls.clear();
  meta.stopped_at.clear();
  write_meta(directory.path(), meta);
  const json written = json::parse(std::ifstream(directory / "meta"));
  REQUIRE_FALSE(written.contains("answered_calls"));
  REQUIRE_FALSE(written.contains("stopped_at"));
  const Meta found = read_meta(directory.path());
  REQUIRE(found.answered_calls.empty());
  REQUIRE(found.stopped_at.empty());
}

TEST_CASE("a bad entry of the answered calls is named") {
  TemporaryDirectory directory;
  write_meta(directory.path(), sample());
  const json good = json::parse(std::ifstream(directory / "meta"));
  for (const char* field : {"call", "answer", "times"}) {
    json bad = good;
    bad["answered_calls"][1].erase(field);
    write_text(directory / "meta", bad.dump());
    std::string message;
    REQUIRE(kind_of_error(directory.path(), message) == ErrorKind::bad_input);
    REQUIRE_THAT(message, Catch::Contains("answered_calls[1]") && Catch::Contains(field));
  }
}

TEST_CASE("a newer recording is refused by name, whatever else is in it") {
  TemporaryDirectory directory;
  write_text(directory / "meta", R"({"format_version": 9, "something": "new"})");
  std::string message;
  REQUIRE(kind_of_error(directory.path(), message) == ErrorKind::unsupported);
  REQUIRE_THAT(message, Catch::Contains("version 9") && Catch::Contains("up to version 3"));
  write_text(directory / "meta", R"({"format_version": 0})");
  REQUIRE(kind_of_error(directory.path(), message) == ErrorKind::bad_input);
  write_text(directory / "meta", R"({"format_version": 4294967297})");
  REQUIRE(kind_of_error(directory.path(), message) == ErrorKind::bad_input);
}

TEST_CASE("what is no meta is refused") {
  TemporaryDirectory directory;
  std::string message;
  REQUIRE(kind_of_error(directory.path(), message) == ErrorKind::bad_input);
  REQUIRE_THAT(message, Catch::Contains("not a recording"));
  REQUIRE(kind_of_error(directory / "nowhere", message) == ErrorKind::bad_input);
  const std::string texts[] = {"",
                               "{",
                               "[1]",
                               "\xff\xfe",
                               "nonsense",
                               std::string(1 << 20, '['),
                               "[" + std::string(1 << 20, '0') + "]"};
  for (const std::string& text : texts) {
    write_text(directory / "meta", text);
    REQUIRE(kind_of_error(directory.path(), message) == ErrorKind::bad_input);
  }
  std::string many = "[0";
  for (int i = 0; i < 3 << 20; i++) many += ",0";
  write_text(directory / "meta", many + "]");
  REQUIRE(kind_of_error(directory.path(), message) == ErrorKind::bad_input);
  REQUIRE_THAT(message, Catch::Contains("too many values"));
  write_text(directory / "meta", "");
  std::filesystem::resize_file(directory / "meta", (64 << 20) + 1);
  REQUIRE(kind_of_error(directory.path(), message) == ErrorKind::bad_input);
  REQUIRE_THAT(message, Catch::Contains("64 MiB"));
  std::filesystem::remove(directory / "meta");
  REQUIRE(mkfifo((directory / "meta").c_str(), 0600) == 0);
  REQUIRE(kind_of_error(directory.path(), message) == ErrorKind::bad_input);
}

}  // namespace aftercheck::recording
