// Eager mode: in this program, in a library it links and in one it loads, each with its own libvassert.a.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <string>

#include "library.h"
#include "vassert.h"

namespace {

[[gnu::noinline]] int half(int x) {
  VASSERT(x % 2 == 0);
  return x / 2;
}

struct outcome {
  std::string error;
  int status;
};

// Runs it in a child, where eager mode may be switched on.
template <class F>
outcome in_child(F run) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    std::signal(SIGABRT, SIG_DFL);  // Catch's own handler would report
    run();
    _exit(0);
  }
  close(ends[1]);
  outcome result{};
  char buffer[4096];
  ssize_t count;
  while ((count = read(ends[0], buffer, sizeof buffer)) > 0)
    result.error.append(buffer, static_cast<size_t>(count));
  close(ends[0]);
  REQUIRE(waitpid(child, &result.status, 0) == child);
  return result;
}

// Lines of standard error that have the word.
int count_of(const std::string& text, const std::string& word) {
  int count = 0;
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) count++;
  return count;
}

TEST_CASE("Natively no check runs") {
  auto result = in_child([] {
    if (half(3) != 1 || library_double(13) != 26) _exit(9);
    if (vassert_failure_count() != 0) _exit(8);
  });
  CHECK(result.status == 0);
  CHECK(result.error.empty());
}

TEST_CASE("An eager check that fails aborts, with file, line, function and text") {
  auto result = in_child([] {
    if (vassert_enable_eager() < 2) _exit(9);
    half(2);
    half(3);
    _exit(7);
  });
  REQUIRE(WIFSIGNALED(result.status));
  CHECK(WTERMSIG(result.status) == SIGABRT);
  CHECK(result.error.find("eager_test.cc:") != std::string::npos);
  CHECK(result.error.find("half: VASSERT failed 'x % 2 == 0'\n") != std::string::npos);
}

TEST_CASE("Eager mode leaves no code writable") {
  auto result = in_child([] {
    if (vassert_enable_eager() < 2) _exit(9);
    std::ifstream maps("/proc/self/maps");
    int lines = 0;
    for (std::string line; std::getline(maps, line); lines++)
      if (line.find(" rwx") != std::string::npos) _exit(8);
    if (lines == 0) _exit(7);
  });
  CHECK(result.status == 0);
}

TEST_CASE("The policy and the count hold for all modules, those loaded later too") {
  auto result = in_child([] {
    vassert_set_policy(VASSERT_REPORT);
    int sites = vassert_enable_eager();
    if (sites < 2 || vassert_enable_eager() != sites) _exit(9);
    half(3);
    library_double(13);
    if (vassert_failure_count() != 2) _exit(8);
    void* plugin = dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL);
    if (!plugin) _exit(7);
    auto* twice = reinterpret_cast<int (*)(int)>(dlsym(plugin, "library_double"));
    if (!twice || twice(13) != 26 || vassert_failure_count() != 2) _exit(6);  // not yet eager
    if (vassert_enable_eager() != sites + 1) _exit(5);
    twice(13);
    if (vassert_failure_count() != 3) _exit(4);
    dlclose(plugin);
    if (vassert_enable_eager() != sites) _exit(3);
  });
  CHECK(result.status == 0);
  CHECK(count_of(result.error, "VASSERT failed 'x != 13': 13 is unlucky\n") == 2);
  CHECK(count_of(result.error, "half: VASSERT failed") == 1);
}

TEST_CASE("VASSERT_EAGER makes modules eager as they are loaded") {
  auto result = in_child([] {
    setenv("VASSERT_EAGER", "report", 1);
    void* plugin = dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL);
    if (!plugin) _exit(9);
    auto* twice = reinterpret_cast<int (*)(int)>(dlsym(plugin, "library_double"));
    twice(13);
    library_double(13);  // loaded before the variable was set
    if (vassert_failure_count() != 1) _exit(8);
  });
  CHECK(result.status == 0);
  CHECK(count_of(result.error, "VASSERT failed") == 1);
}

}  // namespace
