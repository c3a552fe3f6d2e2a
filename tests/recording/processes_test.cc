// Which processes a recording has, whatever its folders say.
#include "recording/processes.h"

#include <catch2/catch.hpp>
#include <fstream>

#include "base/error.h"
#include "event_maker.h"

namespace aftercheck::recording {
namespace {

using testing::TemporaryDirectory;

void make(const std::filesystem::path& recording, uint32_t number, std::optional<Parent> parent) {
  const std::filesystem::path place =
      number == 0 ? recording : recording / "processes" / std::to_string(number);
  std::filesystem::create_directories(place);
  Meta meta;
  meta.machine = "soft";
  meta.cpu_model = "portable";
  meta.process = number;
  meta.parent = parent;
  write_meta(place, meta, false);
}

}  // namespace

TEST_CASE("processes are listed by number, with their children in the order of events") {
  TemporaryDirectory directory;
  make(directory.path(), 0, {});
  make(directory.path(), 1, Parent{0, 70});
  make(directory.path(), 2, Parent{1, 5});
  make(directory.path(), 3, Parent{0, 20});
  make(directory.path(), 10, Parent{2, 8});
  const std::vector<Process> all = read_processes(directory.path());
  REQUIRE(all.size() == 5);
  CHECK(all[4].number == 10);
  CHECK(all[0].children == std::vector<size_t>{3, 1});
  CHECK(way_to(all, 10) == std::vector<size_t>{0, 1, 2, 4});
  CHECK(way_to(all, 0) == std::vector<size_t>{0});
  CHECK_THROWS_AS(way_to(all, 4), Error);
  CHECK(directory_of(directory.path(), 3) == directory.path() / "processes" / "3");
}

TEST_CASE("folders that are no process of the recording, or have no way to its first, are none") {
  TemporaryDirectory directory;
  make(directory.path(), 0, {});
  make(directory.path(), 1, Parent{2, 1});  // each the other's
  make(directory.path(), 2, Parent{1, 1});
  make(directory.path(), 3, Parent{3, 1});
  make(directory.path(), 4, {});
  make(directory.path(), 5, Parent{0, 1});
  std::filesystem::create_directories(directory.path() / "processes/6");
  std::filesystem::create_directories(directory.path() / "processes/07");
  std::ofstream(directory.path() / "processes/8") << "a file";
  std::filesystem::copy(directory.path() / "processes/5", directory.path() / "processes/9");
  const std::vector<Process> all = read_processes(directory.path());
  REQUIRE(all.size() == 2);
  CHECK(all[1].number == 5);
}

}  // namespace aftercheck::recording
