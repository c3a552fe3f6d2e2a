// Files cut short and with bytes changed: fewer names, never a crash or a hang.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>
#include <random>

#include "symbols/object.h"

namespace aftercheck::symbols {
namespace {

std::vector<char> sample() {
  std::ifstream file(SYMBOLS_SAMPLE, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

UniqueFd file_with(const std::vector<char>& bytes) {
  char name[] = "/tmp/symbols-hostile-XXXXXX";
  UniqueFd fd(mkstemp(name));
  REQUIRE(fd);
  unlink(name);
  REQUIRE(write(fd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  return fd;
}

// Asks everything. Lines only where libdw is trusted with the file.
size_t ask(UniqueFd fd, bool lines) {
  ObjectOptions options;
  options.lines = lines;
  options.debug_directory = "";
  const auto object = Object::open(std::move(fd), "hostile", options);
  size_t known = object->functions_named("sample::outer").size();
  for (uint64_t address = 0; address < 0x4000; address += 7) {
    known += object->function_at(address) != nullptr;
    known += object->address_of_offset(address).has_value();
    if (lines) known += object->line_at(address).file != nullptr;
  }
  return known;
}

}  // namespace

TEST_CASE("a file cut at any place is read as far as it goes") {
  const auto whole = sample();
  const size_t all = ask(file_with(whole), true);
  for (size_t size = 0; size < whole.size(); size += 1 + whole.size() / 300)
    CHECK(ask(file_with({whole.begin(), whole.begin() + static_cast<long>(size)}), true) <= all);
}

TEST_CASE("changed bytes do no harm") {
  const auto whole = sample();
  std::mt19937_64 random(20240229);
  for (int round = 0; round < 400; ++round) {
    auto bytes = whole;
    // Headers and tables are where it hurts: the first page and the section headers at the end.
    const size_t changes = 1 + random() % 40;
    for (size_t i = 0; i < changes; ++i) {
      const bool at_end = random() % 2 != 0;
      const size_t range = std::min<size_t>(bytes.size(), random() % 4 == 0 ? bytes.size() : 4096);
      const size_t at = random() % range;
      bytes[at_end ? bytes.size() - 1 - at : at] = static_cast<char>(random());
    }
    ask(file_with(bytes), false);
  }
}

}  // namespace aftercheck::symbols
