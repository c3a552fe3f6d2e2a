// Functions and lines of one file. The judge is addr2line of the binutils.
#include "symbols/object.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/error.h"

namespace aftercheck::symbols {
namespace {

namespace fs = std::filesystem;

// The number of the line of sample.cc that has this mark.
uint32_t marked_line(const std::string& mark) {
  std::ifstream source(SYMBOLS_SAMPLE_SOURCE);
  std::string text;
  for (uint32_t line = 1; std::getline(source, text); ++line)
    if (text.find("// line: " + mark) != std::string::npos) return line;
  return 0;
}

const Function& function(Object& object, const std::string& name) {
  const auto found = object.functions_named(name);
  REQUIRE(found.size() == 1);
  return *found[0];
}

struct TemporaryFolder {
  fs::path path;
  TemporaryFolder() {
    char name[] = "/tmp/symbols-test-XXXXXX";
    REQUIRE(mkdtemp(name) != nullptr);
    path = name;
  }
  ~TemporaryFolder() { fs::remove_all(path); }
};

// "FUNCTION FILE:LINE" for each frame, as addr2line has it.
std::vector<std::string> judged(uint64_t address) {
  char command[512];
  std::snprintf(command, sizeof command, "addr2line -f -i -e '%s' %#llx", SYMBOLS_SAMPLE,
                static_cast<unsigned long long>(address));
  FILE* const pipe = popen(command, "r");
  REQUIRE(pipe != nullptr);
  std::vector<std::string> frames;
  char line[4096];
  for (bool place = false; std::fgets(line, sizeof line, pipe) != nullptr; place = !place) {
    std::string text(line);
    text = text.substr(0, text.find_first_of("\n ("));  // without "(discriminator 2)"
    if (place) frames.push_back(fs::path(text).lexically_normal().string());
  }
  pclose(pipe);
  return frames;
}

}  // namespace

TEST_CASE("functions are found by address and by name, C++ ones demangled") {
  const auto object = Object::open(SYMBOLS_SAMPLE);
  CHECK(object->is_elf());
  CHECK(object->build_id().size() == 40);
  for (const char* name : {"plain_c_function", "sample::outer(int)", "sample::everything",
                           "sample::Thing::name[abi:cxx11](int) const"}) {
    const Function& found = function(*object, name);
    CHECK(found.size > 0);
    CHECK(object->function_at(found.address) == &found);
    CHECK(object->function_at(found.address + found.size - 1) == &found);
    CHECK(object->function_at(found.address + found.size) != &found);
  }
  CHECK(object->functions_named("no_such_function").empty());
  CHECK(object->function_at(0) == nullptr);
  CHECK(object->function_at(~uint64_t{0}) == nullptr);
}

TEST_CASE("a function without a size reaches up to the next one") {
  const auto object = Object::open(SYMBOLS_SAMPLE);
  const Function &first = function(*object, "unsized_first"), &second = function(*object, "unsized_second");
  CHECK(first.size == 3);
  CHECK(object->function_at(first.address + 2) == &first);
  CHECK(second.address == first.address + 3);
  CHECK(object->function_at(second.address) == &second);
}

TEST_CASE("calls to other files go through entries with names") {
  const auto object = Object::open(SYMBOLS_SAMPLE_FOLDER "/sample.stripped");
  CHECK(object->functions_named("puts@plt").size() == 1);
}

TEST_CASE("lines and inlined frames are those of addr2line, at every address of the functions") {
  if (std::system("addr2line --version >/dev/null 2>&1") != 0) {
    std::printf("SKIPPED: no addr2line to compare with\n");
    return;
  }
  const auto object = Object::open(SYMBOLS_SAMPLE);
  unsigned inlined = 0, compared = 0;
  for (const char* name : {"sample::outer", "sample::everything", "sample::Thing::name[abi:cxx11]"}) {
    const Function& in = function(*object, name);
    for (uint64_t address = in.address; address < in.address + in.size; address += 5) {
      const auto frames = object->frames_at(address);
      std::vector<std::string> ours;
      for (const Frame& frame : frames)
        ours.push_back(frame.source.file == nullptr
                           ? "??:?"
                           : *frame.source.file + ":" + std::to_string(frame.source.line));
      const auto expected = judged(address);
      // addr2line writes `?` or 0 where the table has line 0.
      if (expected.empty() || expected[0].find_last_of("?0") == expected[0].size() - 1) continue;
      INFO("address " << std::hex << address << " in " << name);
      CHECK(ours == expected);
      ++compared;
      inlined += frames.size() > 1;
    }
  }
  CHECK(compared > 20);
  CHECK(inlined > 3);
}

TEST_CASE("an inlined call has a frame for each function") {
  const std::string file = GENERATE(SYMBOLS_SAMPLE, SYMBOLS_SAMPLE_FOLDER "/sample-clang.so");
  if (access(file.c_str(), R_OK) != 0) {
    std::printf("SKIPPED: no clang++ when this was built\n");
    return;
  }
  const auto object = Object::open(file);
  INFO(file);
  const Function& outer = function(*object, "sample::outer(int)");
  bool found = false;
  for (uint64_t address = outer.address; address < outer.address + outer.size && !found; ++address) {
    const auto frames = object->frames_at(address);
    if (frames.size() != 3) continue;
    CHECK(frames[0].function == "innermost");
    CHECK(frames[1].function == "middle");
    CHECK(frames[2].function == "outer");
    CHECK(frames[1].source.line == marked_line("middle"));
    CHECK(frames[2].source.line == marked_line("outer"));
    CHECK((frames[0].inlined && frames[1].inlined && !frames[2].inlined));
    found = true;
  }
  CHECK(found);
}

TEST_CASE("all lines with code are listed, at addresses that have them") {
  const auto object = Object::open(SYMBOLS_SAMPLE);
  bool middle = false;
  size_t count = 0;
  object->for_each_line([&](uint64_t address, const SourceLine& line) {
    ++count;
    // A compiler cache may have compiled it in another folder.
    if (fs::path(*line.file).filename() != fs::path(SYMBOLS_SAMPLE_SOURCE).filename()) return;
    middle |= line.line == marked_line("middle");
    CHECK(object->address_of_offset(address).has_value());
  });
  CHECK(middle);
  CHECK(count > 20);
}

TEST_CASE("a stripped file gets its names and lines from the debug file with its build-id") {
  const TemporaryFolder place;
  ObjectOptions options;
  options.debug_directory = place.path.string();
  const std::string stripped = SYMBOLS_SAMPLE_FOLDER "/sample.stripped";
  const auto bare = Object::open(stripped, options);
  CHECK(bare->frames_at(bare->functions_named("plain_c_function").at(0)->address).empty());

  const std::string id = bare->build_id();
  fs::create_directories(place.path / ".build-id" / id.substr(0, 2));
  const fs::path debug = place.path / ".build-id" / id.substr(0, 2) / (id.substr(2) + ".debug");
  fs::copy_file(SYMBOLS_SAMPLE_FOLDER "/sample.debug", debug);
  const auto whole = Object::open(stripped, options);
  const Function& outer = function(*whole, "sample::outer");
  CHECK_FALSE(whole->frames_at(outer.address).empty());
  CHECK(whole->line_at(outer.address).file != nullptr);

  // One of another build is not believed.
  fs::remove(debug);
  fs::copy_file("/proc/self/exe", debug);
  CHECK(Object::open(stripped, options)->line_at(outer.address).file == nullptr);
}

TEST_CASE("files that are not there, or no ELF files") {
  CHECK_THROWS_AS(Object::open("/nonexistent/file"), Error);
  CHECK_THROWS_AS(Object::open("/tmp"), Error);
  const auto text = Object::open(SYMBOLS_SAMPLE_SOURCE);
  CHECK_FALSE(text->is_elf());
  CHECK(text->function_at(0x1000) == nullptr);
  CHECK(text->frames_at(0x1000).empty());
  CHECK_FALSE(text->address_of_offset(0).has_value());
  CHECK_FALSE(Object::open("/dev/null")->is_elf());
}

}  // namespace aftercheck::symbols
