// Events and directories for the tests of recording/.
#pragma once

#include <cstddef>
#include <deque>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "recording/event.h"

namespace aftercheck::recording::testing {

// A directory that goes away with the object.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const char* name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

std::vector<std::byte> read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::vector<std::byte>& bytes);

// Makes events that use every field, the same ones for the same seed. Owns the bytes of their memory writes.
class EventMaker {
 public:
  explicit EventMaker(uint64_t seed) : random_(seed) {}
  Event make();
  std::vector<Event> make(size_t count);
  // What most events are: a system call with its answer and perhaps a small write.
  Event small_syscall();
  std::vector<std::byte> bytes(size_t count);

 private:
  uint64_t below(uint64_t limit) { return random_() % limit; }
  // Small, medium and extreme values.
  uint64_t number();
  MemoryWrite write(size_t size);
  SpaceOp space_op();
  void add_output_steps(Event& event);
  static void fit(Event& event);
  CodePatch patch();
  Digest128 digest();

  std::mt19937_64 random_;
  std::deque<std::vector<std::byte>> owned_;
  uint64_t time_ = 0;
};

// All of an event in one text, so that a failed comparison shows the difference.
std::string to_text(const Event& event);

}  // namespace aftercheck::recording::testing
