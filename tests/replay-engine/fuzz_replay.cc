// Feeds `aftercheck replay` and `check` recordings that are damaged behind their checksums, which a fuzzer of
// bytes can not reach: events of a good recording are changed one by one in what they say (addresses,
// lengths, kinds, registers, mappings, patches, outputs, order) and written anew by the recording's own
// writer; meta, store and checkpoints lose or change bytes. The tool runs as a process of its own, so that
// its death is pinned to a seed. Whatever it says is right, as long as it says it: death by a signal is a
// finding. Endless computing is not (docs/architecture.md).
//
//   fuzz_replay AFTERCHECK RECORDING SECONDS [SEED]     from SEED (1) on; status 1 when something was found
//   fuzz_replay --make RECORDING DIRECTORY SEED         only makes the recording of that seed
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/error.h"
#include "machine/address_space.h"
#include "recording/reader.h"
#include "recording/writer.h"

using namespace aftercheck;
using namespace aftercheck::recording;
namespace fs = std::filesystem;

namespace {

constexpr int kNotWritten = 125;

struct Log {
  std::vector<Event> events;
  std::deque<std::vector<std::byte>> bytes;  // of their writes
};

Log read_log(const fs::path& directory) {
  Log log;
  Reader reader(directory);
  while (const Event* event = reader.next()) {
    log.events.push_back(*event);
    for (MemoryWrite& write : log.events.back().writes) {
      log.bytes.emplace_back(write.bytes.begin(), write.bytes.end());
      write.bytes = log.bytes.back();
    }
  }
  return log;
}

class Mutator {
 public:
  Mutator(Log& log, uint64_t seed) : log_(log), random_(seed) {}

  void run() {
    for (uint64_t changes = 1 + below(3); changes > 0; --changes) change();
  }
  uint64_t below(uint64_t limit) { return limit == 0 ? 0 : random_() % limit; }

 private:
  // An address, a length or a number that is likely to matter.
  uint64_t number(uint64_t now) {
    constexpr uint64_t kEdges[] = {0,
                                   1,
                                   UINT64_MAX,
                                   UINT64_MAX - kPageSize + 1,
                                   kPageSize,
                                   kLowWindow.start,
                                   kLowWindow.end,
                                   kMainWindow.start,
                                   kMainWindow.end,
                                   kGhostWindow.start,
                                   kGhostWindow.end,
                                   uint64_t{1} << 39,
                                   uint64_t{1} << 47,
                                   uint64_t{1} << 63};
    switch (below(6)) {
      case 0:
        return kEdges[below(std::size(kEdges))];
      case 1:
        return kEdges[below(std::size(kEdges))] - 1 - below(16);
      case 2:
        return now + kPageSize * (below(9) - 4);
      case 3:
        return now ^ uint64_t { 1 } << below(64);
      case 4:
        return now + below(33) - 16;
      default:
        return random_();
    }
  }
  template <typename Number>
  void bend(Number& value) {
    value = static_cast<Number>(number(static_cast<uint64_t>(value)));
  }
  template <typename T>
  T* any(std::vector<T>& all) {
    return all.empty() ? nullptr : &all[below(all.size())];
  }

  void change() {
    auto& events = log_.events;
    const size_t at = below(events.size());
    Event& event = events[at];
    switch (below(16)) {
      case 0:
        return bend(event.rip);
      case 1:
        if (uint64_t* operand = any(event.operands)) bend(*operand);
        return;
      case 2:
        if (RegisterChange* change = any(event.registers))
          below(4) == 0 ? bend(change->number) : bend(change->value);
        return;
      case 3:
        event.registers.push_back({static_cast<uint8_t>(below(24)), number(event.rip)});
        return;
      case 4:
      case 5:
      case 6:
        return change_mapping(event);
      case 7:
        if (MemoryWrite* write = any(event.writes)) bend(write->address);
        return;
      case 8:
        if (MemoryWrite* write = any(event.writes)) change_bytes(*write);
        return;
      case 9:
        return change_patch(event);
      case 10:
        return change_output(event);
      case 11:
        if (MemoryDigest* digest = any(event.memory))
          below(2) == 0 ? bend(digest->address) : bend(digest->length);
        else
          event.memory.push_back({number(event.rip), number(kPageSize), {}});
        return;
      case 12:
        event.fpu.resize(below(4) == 0 ? below(600) : 512);
        for (int i = 0; i < 8 && !event.fpu.empty(); ++i)
          event.fpu[below(event.fpu.size())] = static_cast<std::byte>(random_());
        return;
      case 13:
        event.kind = static_cast<EventKind>(below(13));
        return;
      case 14:
        if (below(3) == 0) return bend(event.thread);
        if (below(2) == 0) return add_thread(events, at);
        event.branches = number(below(5000));
        return;
      default:
        if (below(3) == 0)
          events.erase(events.begin() + static_cast<ptrdiff_t>(at));
        else if (below(2) == 0)
          events.insert(events.begin() + static_cast<ptrdiff_t>(below(events.size())), Event(event));
        else
          std::swap(events[at], events[below(events.size())]);
    }
  }

  // A thread comes, where the one before the event is, or goes.
  void add_thread(std::vector<Event>& events, size_t at) {
    Event event;
    event.thread = static_cast<uint32_t>(below(4) == 0 ? random_() : below(3));
    event.time_ns = events[at].time_ns;
    event.kind = below(3) == 0 ? EventKind::thread_end : EventKind::thread_start;
    event.operands = {number(0)};
    if (event.kind == EventKind::thread_start) {
      event.operands.push_back(number(1000));
      constexpr uint8_t kRegisters = 20;
      for (uint8_t i = 0; i < kRegisters; ++i) event.registers.push_back({i, number(events[at].rip)});
      event.fpu = {512, std::byte{0}};
    }
    events.insert(events.begin() + static_cast<ptrdiff_t>(at), std::move(event));
    // Which runs to this one's exit.
    if (below(2) == 0) events[at + 1].thread = events[at].thread;
  }

  void change_mapping(Event& event) {
    SpaceOp* op = any(event.space_ops);
    if (op == nullptr || below(5) == 0) {
      SpaceOp added;
      added.kind = static_cast<SpaceOpKind>(below(8));
      added.address = number(event.rip) & ~(kPageSize - 1);
      added.length = kPageSize * (1 + below(4));
      added.prot = static_cast<uint32_t>(below(8));
      event.space_ops.push_back(added);
      return;
    }
    switch (below(9)) {
      case 0:
        return bend(op->address);
      case 1:
        return bend(op->length);
      case 2:
        return bend(op->prot);
      case 3:
        op->kind = static_cast<SpaceOpKind>(below(8));
        return;
      case 4:
        op->shared = !op->shared;
        return;
      case 5:
        return bend(op->blob_offset);
      case 6:
        return bend(op->new_address);
      case 7:
        return bend(op->new_length);
      default:
        op->blob[below(op->blob.size())] ^= 1;
    }
  }

  void change_bytes(MemoryWrite& write) {
    std::vector<std::byte>& bytes = log_.bytes.emplace_back(write.bytes.begin(), write.bytes.end());
    if (below(4) == 0) bytes.resize(below(bytes.size() + 1));
    for (int i = 0; i < 8 && !bytes.empty(); ++i)
      bytes[below(bytes.size())] = static_cast<std::byte>(random_());
    write.bytes = bytes;
  }

  void change_patch(Event& event) {
    recording::CodePatch* patch = any(event.patches);
    if (patch == nullptr) {
      event.patches.push_back({number(event.rip),
                               static_cast<uint8_t>(below(9)),
                               static_cast<uint8_t>(below(17)),
                               static_cast<uint8_t>(below(18)),
                               64,
                               {}});
      return;
    }
    switch (below(5)) {
      case 0:
        return bend(patch->address);
      case 1:
        return bend(patch->kind);
      case 2:
        return bend(patch->length);
      case 3:
        return bend(patch->operand);
      default:
        bend(patch->original[below(patch->original.size())]);
    }
  }

  void change_output(Event& event) {
    Output* output = any(event.outputs);
    if (output == nullptr) {
      event.outputs.push_back({1, 1, random_(), {{number(event.rip), number(8)}}});
      return;
    }
    Output::Piece* piece = any(output->pieces);
    switch (piece == nullptr ? below(2) : below(4)) {
      case 0:
        return bend(output->stream);
      case 1:
        return bend(output->fd);
      case 2:
        return bend(piece->address);
      default:
        bend(piece->length);
    }
  }

  Log& log_;
  std::mt19937_64 random_;
};

// Bytes of one of the other files.
void change_file(const fs::path& directory, Mutator& mutator) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory))
    if (entry.is_regular_file() && entry.path().filename() != "events") files.push_back(entry.path());
  if (files.empty()) return;
  std::sort(files.begin(), files.end());
  const fs::path& file = files[mutator.below(files.size())];
  fs::permissions(file, fs::perms::owner_write, fs::perm_options::add);
  const uint64_t size = fs::file_size(file);
  if (mutator.below(4) == 0) return fs::resize_file(file, mutator.below(size + 1));
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  for (uint64_t i = 0; i < 1 + mutator.below(4) && size != 0; ++i) {
    stream.seekp(static_cast<std::streamoff>(mutator.below(size)));
    stream.put(static_cast<char>(mutator.below(256)));
  }
}

void make(const fs::path& recording, const fs::path& to, uint64_t seed) {
  fs::remove_all(to);
  fs::copy(recording, to, fs::copy_options::recursive);
  Log log = read_log(recording);
  Mutator mutator(log, seed);
  if (mutator.below(8) == 0) return change_file(to, mutator);
  mutator.run();
  fs::remove(to / "events");
  Writer writer(to);
  for (const Event& event : log.events) writer.append(event);
  writer.finish();
}

// Runs `child` in a process of its own; its wait status.
template <typename Function>
int in_child(Function child) {
  const pid_t pid = fork();
  if (pid == 0) {
    child();
    _exit(kNotWritten);
  }
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid) std::abort();
  return status;
}

[[noreturn]] void run_tool(const char* tool, const char* command, const std::string& recording, bool soft) {
  constexpr rlim_t kSeconds = 5;  // of processor time: longer is endless
  const rlimit time{kSeconds, kSeconds}, core{0, 0};
  setrlimit(RLIMIT_CPU, &time);
  setrlimit(RLIMIT_CORE, &core);
  if (freopen("/dev/null", "r", stdin) == nullptr || freopen("/dev/null", "w", stdout) == nullptr ||
      freopen((recording + ".err").c_str(), "w", stderr) == nullptr)
    _exit(kNotWritten);
  execl(tool, tool, command, soft ? "--machine=soft" : "--machine=auto", recording.c_str(), nullptr);
  _exit(kNotWritten);
}

bool died(int status) {
  return WIFSIGNALED(status) && WTERMSIG(status) != SIGXCPU && WTERMSIG(status) != SIGKILL;
}

int fuzz(const char* tool, const fs::path& recording, int64_t seconds, uint64_t seed) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  const std::string place = fs::temp_directory_path() / fmt::format("fuzz-replay-{}", getpid());
  uint64_t runs = 0, found = 0, unwritten = 0;
  for (; std::chrono::steady_clock::now() < end; ++seed) {
    const int made = in_child([&] {
      try {
        make(recording, place, seed);
        _exit(0);
      } catch (const std::exception&) {  // what the writer refuses can't be in a log
      }
    });
    if (died(made)) fmt::print("seed {}: the writer died of signal {}\n", seed, WTERMSIG(made));
    if (made != 0) {
      ++unwritten;
      continue;
    }
    for (const char* command : {"replay", "check"}) {
      const int status = in_child([&] { run_tool(tool, command, place, seed % 4 != 0); });
      ++runs;
      if (!died(status)) continue;
      ++found;
      fmt::print("seed {}: {} died of signal {}\n", seed, command, WTERMSIG(status));
      std::fflush(stdout);
    }
  }
  fs::remove_all(place);
  fs::remove(place + ".err");
  fmt::print("{} runs, {} recordings that can't be written, {} findings; next seed {}\n", runs, unwritten,
             found, seed);
  return found == 0 ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
  try {
    if (count == 5 && std::strcmp(words[1], "--make") == 0) {
      make(words[2], words[3], std::strtoull(words[4], nullptr, 10));
      return 0;
    }
    if (count != 4 && count != 5) fail(ErrorKind::usage, "fuzz_replay AFTERCHECK RECORDING SECONDS [SEED]");
    return fuzz(words[1], words[2], std::strtoll(words[3], nullptr, 10),
                count == 5 ? std::strtoull(words[4], nullptr, 10) : 1);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 2;
  }
}
