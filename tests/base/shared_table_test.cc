#include "base/shared_table.h"

#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <string>
#include <string_view>

namespace aftercheck {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

std::string found(const SharedTable& table, std::string_view key) {
  const auto value = table.find(bytes_of(key));
  return value ? std::string(reinterpret_cast<const char*>(value->data()), value->size()) : "nothing";
}

// Whatever `work` says with its result is what its process ends with.
template <typename Work>
int in_child(Work work) {
  const pid_t child = fork();
  if (child == 0) _exit(work());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_CASE("shared table: what was added is found, by any process") {
  SharedTable table(1 << 20);
  CHECK(found(table, "a") == "nothing");
  table.add(bytes_of("a"), bytes_of("one"));
  table.add(bytes_of("ab"), bytes_of(""));
  CHECK(found(table, "a") == "one");
  CHECK(found(table, "ab").empty());
  CHECK(found(table, "b") == "nothing");
  CHECK(in_child([&] {
          if (found(table, "a") != "one") return 1;
          table.add(bytes_of("b"), bytes_of("the child's"));
          return 0;
        }) == 0);
  CHECK(found(table, "b") == "the child's");
}

TEST_CASE("shared table: what there is no room for is forgotten") {
  SharedTable table(4096);
  int there = 0;
  for (int i = 0; i < 1000; ++i)
    table.add(bytes_of(std::to_string(i)), bytes_of("value " + std::to_string(i)));
  for (int i = 0; i < 1000; ++i) {
    const std::string value = found(table, std::to_string(i));
    if (value == "nothing") continue;
    ++there;
    CHECK(value == "value " + std::to_string(i));
  }
  CHECK(there > 10);
  CHECK(there < 1000);
  CHECK(found(table, "0") == "value 0");
  table.add(bytes_of("large"), bytes_of(std::string(10'000, 'x')));
  CHECK(found(table, "large") == "nothing");
}

TEST_CASE("shared table: processes that add at once lose nothing") {
  SharedTable table(8 << 20);
  constexpr int kProcesses = 4, kEach = 5000;
  for (int process = 0; process < kProcesses; ++process)
    if (fork() == 0) {
      for (int i = 0; i < kEach; ++i) {
        const std::string key = std::to_string(process) + "-" + std::to_string(i);
        table.add(bytes_of(key), bytes_of(key));
      }
      _exit(0);
    }
  while (wait(nullptr) > 0) {
  }
  int lost = 0;
  for (int process = 0; process < kProcesses; ++process)
    for (int i = 0; i < kEach; ++i) {
      const std::string key = std::to_string(process) + "-" + std::to_string(i);
      lost += found(table, key) == key ? 0 : 1;
    }
  CHECK(lost == 0);
}

}  // namespace aftercheck
