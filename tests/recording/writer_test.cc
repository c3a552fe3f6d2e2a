// The writer's thread, its limits and its failures.
#include "recording/writer.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <fstream>
#include <thread>

#include "base/error.h"
#include "base/fd.h"
#include "event_maker.h"
#include "recording/reader.h"

namespace aftercheck::recording {
namespace {

using namespace std::chrono_literals;
using testing::EventMaker;
using testing::TemporaryDirectory;

Event numbered(uint64_t number) {
  Event event;
  event.kind = EventKind::syscall;
  event.operands = {1, number};
  event.digest = static_cast<uint32_t>(number * 0x9e3779b97f4a7c15 >> 32);  // not compressible, as real ones
  return event;
}

// Reads numbered events; returns how many there are.
uint64_t count_numbered(const std::filesystem::path& directory, bool& truncated) {
  Reader reader(directory);
  uint64_t count = 0;
  for (; const Event* event = reader.next(); count++)
    if (event->operands.size() != 2 || event->operands[1] != count) FAIL("event " << count << " is another");
  truncated = reader.truncated();
  return count;
}

template <typename Condition>
bool wait_for(const Condition& condition) {
  for (int i = 0; i < 2000; i++) {
    if (condition()) return true;
    std::this_thread::sleep_for(5ms);
  }
  return false;
}

uint64_t size_of(const std::filesystem::path& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  return error ? 0 : size;
}

// Appends incompressible data until the writer gives up or a bound is reached.
void fill_up(Writer& writer, uint64_t most) {
  EventMaker maker(1);
  const auto bytes = maker.bytes(1 << 20);
  for (uint64_t total = 0; !writer.failed() && total < most; total += bytes.size()) {
    Event event = numbered(total >> 20);
    event.writes = {{0x1000, bytes}};
    writer.append(event);
  }
}

// After a failed write: the error is kept, later events are dropped, the file ends with a whole chunk.
void check_full(const std::filesystem::path& directory, const char* error) {
  Writer writer(directory);
  fill_up(writer, 200 << 20);
  REQUIRE(writer.failed());
  REQUIRE_THAT(writer.error(), Catch::Contains(error) && Catch::Contains("/events"));
  const auto events = writer.statistics().events;
  writer.append(numbered(99999));
  writer.flush();
  REQUIRE(writer.statistics().events == events);
  REQUIRE_THROWS_WITH(writer.finish(), Catch::Contains(error));
  REQUIRE_THROWS_WITH(writer.finish(), Catch::Contains(error));
  bool truncated = false;
  const uint64_t count = count_numbered(directory, truncated);
  REQUIRE(truncated);
  REQUIRE(count > 0);
  REQUIRE(count < events);
  REQUIRE(std::filesystem::file_size(directory / "events") == writer.statistics().written_bytes);
  // Places are those of events that can be read.
  REQUIRE(writer.place_of(count - 1));
  REQUIRE_FALSE(writer.place_of(count));
  REQUIRE_FALSE(writer.place_of(events));
}

}  // namespace

TEST_CASE("a log that somebody changed meanwhile is told when it is finished") {
  const TemporaryDirectory directory;
  Writer writer(directory.path());
  for (uint64_t i = 0; i < 1000; i++) writer.append(numbered(i));
  writer.flush();
  REQUIRE(wait_for([&] { return writer.statistics().chunks == 1; }));
  std::fstream(directory / "events", std::ios::binary | std::ios::in | std::ios::out).write("damage", 6);
  CHECK_THROWS_AS(writer.finish(), Error);
  CHECK(writer.error().find("somebody changed it") != std::string::npos);
}

TEST_CASE("a partial chunk is written when its time is over, without another append") {
  TemporaryDirectory directory;
  WriterOptions options;
  options.flush_interval = 50ms;
  Writer writer(directory.path(), options);
  std::this_thread::sleep_for(100ms);
  REQUIRE(size_of(directory / "events") == 0);  // nothing to write yet
  writer.append(numbered(0));
  REQUIRE(wait_for([&] { return size_of(directory / "events") > 0; }));
  writer.append(numbered(1));
  REQUIRE(wait_for([&] { return writer.statistics().chunks == 2; }));
  bool truncated = false;
  REQUIRE(count_numbered(directory.path(), truncated) == 2);
  REQUIRE(truncated);
}

TEST_CASE("a chunk waits longer while threads do nothing but compute") {
  TemporaryDirectory directory;
  WriterOptions options;
  options.flush_interval = 10ms;
  options.computing_interval = 1h;
  Writer writer(directory.path(), options);
  Event preempted;
  preempted.kind = EventKind::preempted;
  preempted.operands = {0x200000001000, 1234};
  for (int i = 0; i < 3; ++i) writer.append(preempted);
  std::this_thread::sleep_for(50ms);
  REQUIRE(writer.statistics().chunks == 0);
  writer.append(numbered(0));
  REQUIRE(wait_for([&] { return writer.statistics().chunks == 1; }));
  Reader reader(directory.path());
  int found = 0;
  while (const Event* event = reader.next()) found += event->kind == EventKind::preempted ? 1 : 10;
  CHECK(found == 13);
}

TEST_CASE("flush writes at once what was appended") {
  TemporaryDirectory directory;
  WriterOptions options;
  options.flush_interval = 1h;
  Writer writer(directory.path(), options);
  writer.append(numbered(0));
  std::this_thread::sleep_for(50ms);
  REQUIRE(writer.statistics().chunks == 0);
  writer.flush();
  writer.flush();
  REQUIRE(wait_for([&] { return writer.statistics().chunks == 1; }));
  writer.finish();
  writer.finish();
  REQUIRE(writer.statistics().chunks == 1);
  REQUIRE_THROWS_AS(writer.append(numbered(1)), Error);
}

TEST_CASE("the log must not exist, its directory must") {
  TemporaryDirectory directory;
  Writer writer(directory.path());
  REQUIRE_THROWS_WITH(Writer(directory.path()), Catch::Contains("EEXIST"));
  REQUIRE_THROWS_WITH(Writer(directory / "nowhere"), Catch::Contains("ENOENT"));
  WriterOptions options;
  options.compression_level = 1000;
  TemporaryDirectory other;
  REQUIRE_THROWS_AS(Writer(other.path(), options), Error);
}

TEST_CASE("an empty log is truncated") {
  TemporaryDirectory directory;
  Writer(directory.path()).finish();
  Reader reader(directory.path());
  REQUIRE(reader.next() == nullptr);
  REQUIRE(reader.truncated());
  REQUIRE(reader.progress() == 1);
}

TEST_CASE("the writer keeps out of the guest's descriptors and signals") {
  TemporaryDirectory directory;
  Writer writer(directory.path());
  const std::filesystem::path file = directory / "events";
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (std::filesystem::read_symlink(entry, gone) != file) continue;
    found++;
    REQUIRE(is_own_fd(std::stoi(entry.path().filename())));
  }
  REQUIRE(found == 1);
  // Every thread but this one (sanitizers have one of their own, which also blocks signals) takes no signal.
  const std::string self = std::to_string(gettid());
  int others = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    if (entry.path().filename() == self) continue;
    std::ifstream status(entry.path() / "status");
    for (std::string line; std::getline(status, line);) {
      if (line.rfind("SigBlk:", 0) != 0) continue;
      others++;
      const uint64_t blocked = std::stoull(line.substr(7), nullptr, 16);
      for (const int signal : {SIGINT, SIGTERM, SIGALRM, SIGCHLD, SIGUSR1, SIGXFSZ, SIGRTMIN + 3})
        REQUIRE((blocked >> (signal - 1) & 1) == 1);
    }
  }
  REQUIRE(others >= 1);
  sigset_t mine;
  pthread_sigmask(SIG_SETMASK, nullptr, &mine);
  REQUIRE(sigismember(&mine, SIGUSR1) == 0);
}

TEST_CASE("other threads may watch and flush") {
  TemporaryDirectory directory;
  Writer writer(directory.path());
  std::atomic<bool> stop = false;
  std::thread watcher([&] {
    while (!stop) {
      writer.flush();
      if (writer.failed() || !writer.error().empty() || writer.statistics().written_bytes > (1 << 30))
        std::abort();
    }
  });
  for (uint64_t i = 0; i < 20000; i++) writer.append(numbered(i));
  stop = true;
  watcher.join();
  writer.finish();
  bool truncated = false;
  REQUIRE(count_numbered(directory.path(), truncated) == 20000);
}

TEST_CASE("kill -9 loses no more than the last chunk") {
  TemporaryDirectory directory;
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    WriterOptions options;
    options.flush_interval = 10ms;
    Writer writer(directory.path(), options);
    for (uint64_t i = 0;; i++) writer.append(numbered(i));
  }
  bool truncated = false;
  uint64_t before = 0;  // events that were on the disk before
  const bool wrote = wait_for([&] {
    if (size_of(directory / "events") > 100000) before = count_numbered(directory.path(), truncated);
    return before > 1000;
  });
  kill(child, SIGKILL);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(wrote);
  REQUIRE(WTERMSIG(status) == SIGKILL);
  REQUIRE(count_numbered(directory.path(), truncated) >= before);
  REQUIRE(truncated);
}

TEST_CASE("a file size limit stops the log, not the program") {
  TemporaryDirectory directory;
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const rlimit small{20 << 20, before.rlim_max};
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
  check_full(directory.path(), "EFBIG");
  REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
}

TEST_CASE("a full disk stops the log, not the program") {
  TemporaryDirectory directory;
  const auto disk = directory / "disk";
  std::filesystem::create_directory(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=20m") != 0) {
    WARN("SKIPPED: full disk: no right to mount a small tmpfs: " << errno_text(errno));
    return;
  }
  try {
    check_full(disk, "ENOSPC");
  } catch (...) {
    umount2(disk.c_str(), MNT_DETACH);
    throw;
  }
  REQUIRE(umount2(disk.c_str(), MNT_DETACH) == 0);
}

}  // namespace aftercheck::recording
