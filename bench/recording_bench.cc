// What the log costs the recorded program: time of append() on the guest's thread, bytes per event on disk.
#include <benchmark/benchmark.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "recording/digest.h"
#include "recording/reader.h"
#include "recording/writer.h"

namespace {

using namespace aftercheck::recording;

class Directory {
 public:
  Directory() {
    std::string name = (std::filesystem::temp_directory_path() / "aftercheck-bench-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A server-like loop: clock_gettime with its 16 bytes, read, write with its output, in turn.
class SmallCalls {
 public:
  const Event& next() {
    time_ += 1500 + random_() % 600;
    clock_[1] = time_ % 1000000000;
    Event& event = events_[turn_++ % events_.size()];
    event.time_ns = time_;
    event.digest = static_cast<uint32_t>(random_());
    return event;
  }
  SmallCalls() {
    Event& clock = events_[0];
    clock.operands = {228, 1, 0x7fff0010, 0, 0, 0, 0};
    clock.registers = {{0, 0}};
    clock.writes = {{0x7fff0010, std::as_bytes(std::span(clock_))}};
    Event& seek = events_[1];
    seek.operands = {8, 5, 4096, 0, 0, 0, 0};
    seek.registers = {{0, 4096}, {2, 7}};
    Event& poll = events_[2];
    poll.operands = {7, 0x7fff0040, 1, 0, 0, 0, 0};
    poll.registers = {{0, 1}};
    poll.writes = {{0x7fff0046, std::as_bytes(std::span(ready_))}};
    for (size_t i = 0; i < events_.size(); i++) {
      events_[i].kind = EventKind::syscall;
      events_[i].rip = 0x200000001000 + 64 * i;
    }
  }

 private:
  std::mt19937_64 random_{1};
  uint64_t clock_[2] = {1000, 0};
  uint16_t ready_[1] = {1};
  std::array<Event, 3> events_;
  size_t turn_ = 0;
  uint64_t time_ = 0;
};

void append_small_call(benchmark::State& state) {
  Directory directory;
  Writer writer(directory.path());
  SmallCalls calls;
  for (auto _ : state) writer.append(calls.next());
  writer.finish();
  const auto statistics = writer.statistics();
  state.counters["bytes/event"] =
      static_cast<double>(statistics.written_bytes) / static_cast<double>(statistics.events);
  state.counters["raw/event"] =
      static_cast<double>(statistics.raw_bytes) / static_cast<double>(statistics.events);
}
BENCHMARK(append_small_call)->MinTime(1);

void append_bulk(benchmark::State& state) {
  Directory directory;
  Writer writer(directory.path());
  std::mt19937_64 random(1);
  std::vector<std::byte> data(64 << 10);
  for (size_t i = 0; i < data.size(); i++) data[i] = static_cast<std::byte>("etaoin shrdlu"[random() % 13]);
  Event event;
  event.kind = EventKind::syscall;
  event.operands = {0, 3, 0x200000400000, data.size(), 0, 0, 0};
  event.registers = {{0, data.size()}};
  event.writes = {{0x200000400000, data}};
  for (auto _ : state) writer.append(event);
  writer.finish();
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * data.size()));
}
BENCHMARK(append_bulk)->MinTime(1);

void running_digest(benchmark::State& state) {
  uint64_t registers[18] = {1, 2, 3};
  RunningDigest digest;
  for (auto _ : state) benchmark::DoNotOptimize(digest.update(registers));
}
BENCHMARK(running_digest);

void read_small_call(benchmark::State& state) {
  Directory directory;
  constexpr int kEvents = 500000;
  {
    Writer writer(directory.path());
    SmallCalls calls;
    for (int i = 0; i < kEvents; i++) writer.append(calls.next());
  }
  for (auto _ : state) {
    Reader reader(directory.path());
    while (reader.next() != nullptr) {
    }
  }
  state.SetItemsProcessed(state.iterations() * kEvents);
}
BENCHMARK(read_small_call);

}  // namespace

BENCHMARK_MAIN();
