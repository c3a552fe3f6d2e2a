// find_program: which file runs, with which arguments, and what is said when none can.
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>

#include "kvm-recorder/loader.h"
#include "tests/kvm-recorder/process_fixture.h"

using namespace aftercheck;
using aftercheck::test::TemporaryDirectory;
using Catch::Matchers::Contains;

namespace {

struct Refusal {
  int code = 0;
  std::string message;
};

Refusal refused(const std::string& name, const std::vector<std::string>& arguments = {"x"},
                const std::vector<std::string>& environment = {}) {
  Refusal refusal;
  try {
    find_program(name, arguments, environment, &refusal.code);
    FAIL("accepted: " << name);
  } catch (const Error& error) {
    REQUIRE((error.kind() == ErrorKind::bad_input || error.kind() == ErrorKind::unsupported));
    refusal.message = error.what();
  }
  return refusal;
}

const std::string kTrue = std::filesystem::canonical("/bin/true").string();

}  // namespace

TEST_CASE("program: a name without a slash is searched in the environment's PATH") {
  TemporaryDirectory first, second;
  std::filesystem::create_directory(first.path() / "tool");  // a directory does not count
  std::filesystem::copy_file(kTrue, second.path() / "tool");
  const std::vector<std::string> environment{
      "A=b", "PATH=" + first.path().string() + ":" + second.path().string(), "PATH=/nowhere"};
  const Program program = find_program("tool", {"tool", "-x"}, environment);
  CHECK(program.path == second.file("tool"));
  CHECK(program.execfn == second.file("tool"));
  CHECK(program.arguments == std::vector<std::string>{"tool", "-x"});

  const Refusal missing = refused("no-such-tool", {"x"}, environment);
  CHECK(missing.code == ENOENT);
  CHECK(missing.message == "no-such-tool: not found in PATH");
}

TEST_CASE(
    "program: without PATH the standard directories are searched, with an empty element the current one") {
  CHECK(find_program("true", {"true"}, {}).executable == kTrue);
  TemporaryDirectory directory;
  std::filesystem::copy_file(kTrue, directory.path() / "here");
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(directory.path());
  const Program program = find_program("here", {"here"}, {"PATH="});
  std::filesystem::current_path(before);
  CHECK(program.path == "here");
  CHECK(program.executable == std::filesystem::canonical(directory.path()).string() + "/here");
}

TEST_CASE("program: a file in PATH that isn't executable decides the error when nothing else is found") {
  TemporaryDirectory directory;
  directory.write("tool", "#!/bin/true\n", 0644);
  CHECK(refused("tool", {"x"}, {"PATH=" + directory.path().string()}).code == EACCES);
}

TEST_CASE("program: what can't be run is refused with the kernel's errno and a reason") {
  TemporaryDirectory directory;
  const struct {
    std::string name;
    int code;
    std::string message;
  } cases[] = {
      {directory.file("missing"), ENOENT, directory.file("missing") + ": No such file or directory (ENOENT)"},
      {directory.path().string(), EACCES, directory.path().string() + ": is a directory"},
      {"/dev/null", EACCES, "/dev/null: not a regular file"},
      {directory.write("plain", "text", 0644), EACCES, "not executable"},
      {directory.write("text", "hello, world\n"), ENOEXEC, "neither an ELF program nor a script"},
      {directory.write("empty", ""), ENOEXEC, "neither an ELF program nor a script"},
      {directory.write("short",
                       "\x7f"
                       "ELF\x02\x01"),
       ENOEXEC, "the file ends inside its header (6 bytes)"},
      {directory.write("file", "x") + "/below", ENOTDIR, "Not a directory"},
      {"", ENOENT, "name is empty"},
      {std::string(5000, 'a') + "/b", ENAMETOOLONG, "File name too long"},
  };
  for (const auto& entry : cases) {
    INFO(entry.name);
    const Refusal refusal = refused(entry.name);
    CHECK(refusal.code == entry.code);
    CHECK_THAT(refusal.message, Contains(entry.message));
  }
}

TEST_CASE("program: scripts expand as the kernel expands them") {
  TemporaryDirectory directory;
  const struct {
    std::string text;
    std::vector<std::string> front;  // argv before the script's name
  } cases[] = {
      {"#!/bin/true\n", {"/bin/true"}},
      {"#!/bin/true", {"/bin/true"}},  // no newline
      {"#! \t/bin/true  \n", {"/bin/true"}},
      {"#!/bin/true -a\n", {"/bin/true", "-a"}},
      {"#!/bin/true  -a  b c \t\nrest", {"/bin/true", "-a  b c"}},  // one argument, blanks inside stay
      {"#!/bin/true -a ", {"/bin/true", "-a "}},  // the short file has no line end to trim at
      {"#!/bin/true " + std::string(300, 'x') + "\n", {"/bin/true", std::string(255 - 12, 'x')}},  // cut
  };
  for (const auto& entry : cases) {
    INFO(entry.text);
    const std::string script = directory.write("script", entry.text);
    const Program program = find_program(script, {"ignored", "one", "two"}, {});
    std::vector<std::string> expected = entry.front;
    expected.insert(expected.end(), {script, "one", "two"});
    CHECK(program.arguments == expected);
    CHECK(program.path == "/bin/true");
    CHECK(program.executable == kTrue);
    CHECK(program.execfn == script);
  }
}

TEST_CASE("program: interpreters of interpreters, five deep and no deeper") {
  TemporaryDirectory directory;
  std::string previous = "/bin/true";
  std::vector<std::string> names;
  for (int i = 0; i < 6; ++i) {
    previous = directory.write("s" + std::to_string(i), "#!" + previous + "\n");
    names.push_back(previous);
  }
  const Program program = find_program(names[4], {"x", "tail"}, {});
  CHECK(program.arguments ==
        std::vector<std::string>{"/bin/true", names[0], names[1], names[2], names[3], names[4], "tail"});
  CHECK(refused(names[5]).code == ELOOP);
  const std::string self = directory.file("self");
  directory.write("self", "#!" + self + "\n");
  CHECK(refused(self).code == ELOOP);
}

TEST_CASE("program: a script's interpreter that can't be used is named together with the script") {
  TemporaryDirectory directory;
  const struct {
    std::string text;
    int code;
    std::string message;
  } cases[] = {
      {"#!\n", ENOEXEC, "names no interpreter"},
      {"#!   \t \n", ENOEXEC, "names no interpreter"},
      {"#!", ENOEXEC, "names no interpreter"},
      {"#!/no/such/interpreter\n", ENOENT, "/no/such/interpreter: No such file"},
      {"#!/tmp\n", EACCES, "/tmp: is a directory"},
      {"#!/" + std::string(400, 'p') + "\n", ENOEXEC, "longer than the 256 bytes"},
  };
  for (const auto& entry : cases) {
    INFO(entry.text);
    const std::string script = directory.write("script", entry.text);
    const Refusal refusal = refused(script);
    CHECK(refusal.code == entry.code);
    CHECK_THAT(refusal.message, Contains(script) && Contains(entry.message));
  }
}

TEST_CASE("program: arguments beyond the limits of execve are refused") {
  CHECK(find_program("/bin/true", {"true", std::string(131071, 'a')}, {}).arguments[1].size() == 131071);
  CHECK(refused("/bin/true", {"true", std::string(131072, 'a')}).code == E2BIG);
  CHECK(refused("/bin/true", std::vector<std::string>(2000, std::string(100'000, 'a'))).code == E2BIG);
  CHECK(refused("/bin/true", {"true"}, std::vector<std::string>(2000, std::string(100'000, 'a'))).code ==
        E2BIG);
  CHECK(find_program("/bin/true", {}, {}).arguments == std::vector<std::string>{""});
}
