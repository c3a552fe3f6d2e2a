#include "tools/process_replays.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstring>
#include <new>
#include <thread>
#include <utility>

#include "base/error.h"
#include "recording/event.h"
#include "tools/one_process.h"
#include "tools/output.h"

namespace aftercheck::tools {
namespace {

// Replays at a time beyond which no more are begun, but where those that are there wait for one.
unsigned most_at_once() { return 4 * std::max(1U, std::thread::hardware_concurrency()); }

// Waits a little longer each time.
class Patience {
 public:
  void wait() {
    std::this_thread::sleep_for(pause_);
    pause_ = std::min(pause_ * 2, kLongest);
  }

 private:
  static constexpr std::chrono::microseconds kLongest{1000};
  std::chrono::microseconds pause_{20};
};

}  // namespace

// In memory that all replays share. Written by the process that replays it, before that by its parent's.
struct ProcessReplays::Slot {
  std::atomic<State> state{State::unreached};
  std::atomic<pid_t> pid{0};
  std::atomic<uint64_t> time_ns{0};    // nothing earlier will come
  std::atomic<uint64_t> waits_for{0};  // this turn; 0: for none
  uint64_t events = 0, memory_digests = 0;
  bool shares_memory = false, truncated = false, signaled = false, stopped = false;
  int status = 0;
  char message[2048] = "";
};

namespace {

// Numbers of files that a recorder gives (kvm-recorder/memory_group.cc has room for half as many).
constexpr size_t kMostFiles = 1 << 14;

}  // namespace

// The turns of processes that share memory, and their files. Written by who has the turn.
struct ProcessReplays::Shared {
  // By number: where it is open, for as long as any replay runs.
  struct File {
    pid_t process = 0;
    int fd = -1;
  };
  std::atomic<uint64_t> over{0};  // the last turn that is
  std::atomic<uint32_t> word{0};  // a futex that changes with it
  std::array<File, kMostFiles> files;
};

ProcessReplays::ProcessReplays(const std::vector<recording::Process>& processes, Ended ended)
    : processes_(processes), ended_(std::move(ended)) {
  void* memory = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail(ErrorKind::io, "memory for the replays of processes: {}", errno_text(errno));
  shared_ = new (memory) Shared;
  slots_ = reinterpret_cast<Slot*>(static_cast<std::byte*>(memory) + sizeof(Shared));
  for (size_t i = 0; i < processes_.size(); ++i) new (&slots_[i]) Slot;
}

ProcessReplays::~ProcessReplays() { munmap(shared_, bytes()); }

size_t ProcessReplays::bytes() const { return sizeof(Shared) + processes_.size() * sizeof(Slot); }

std::vector<ProcessReplays::Outcome> ProcessReplays::outcomes() const {
  std::vector<Outcome> all;
  for (size_t i = 0; i < processes_.size(); ++i) {
    const Slot& slot = slots_[i];
    Outcome& outcome =
        all.emplace_back(Outcome{slot.state.load(), slot.events, slot.memory_digests, slot.truncated,
                                 slot.signaled, slot.stopped, slot.status, slot.message});
    if (outcome.state != State::running) continue;
    outcome.state = State::failed;
    outcome.status = EXIT_FAILURE;
    outcome.message = "its replay was killed";
  }
  return all;
}

// One that was killed would keep all others waiting.
bool ProcessReplays::is_alive(size_t place) const {
  const Slot& slot = slots_[place];
  return slot.state.load() == State::running && (slot.pid.load() == 0 || kill(slot.pid.load(), 0) == 0);
}

bool ProcessReplays::others_before(uint64_t time_ns) const {
  for (size_t i = 0; i < processes_.size(); ++i)
    if (i != own_ && slots_[i].state.load() == State::running && slots_[i].time_ns.load() < time_ns &&
        is_alive(i))
      return true;
  return false;
}

size_t ProcessReplays::count_running() const {
  size_t count = 0;
  for (size_t i = 0; i < processes_.size(); ++i) count += slots_[i].state.load() == State::running ? 1U : 0U;
  return count;
}

void ProcessReplays::running(uint64_t) { slots_[own_].time_ns.store(replay_->next_time_ns()); }

void ProcessReplays::applied(const recording::Event& event, uint64_t) {
  using recording::EventKind;
  // The exit of a call that waits is logged by itself (recording/event.h); any other has registers.
  const bool waits = event.kind == EventKind::syscall && event.registers.empty();
  if (waits || event.kind == EventKind::thread_end)
    computing_.erase(event.thread);
  else if (event.kind != EventKind::continuation)
    computing_.insert(event.thread);
}

void ProcessReplays::wait_for_turn() {
  const uint64_t time_ns = replay_->next_time_ns();
  for (Patience patience; others_before(time_ns);) patience.wait();
}

// Those that are behind need nothing of this one.
void ProcessReplays::wait_for_room(uint64_t time_ns) {
  for (Patience patience; count_running() >= most_at_once() && others_before(time_ns);) patience.wait();
}

void ProcessReplays::end_turn() {
  if (turn_ == 0) return;
  shared_->over.store(std::exchange(turn_, 0));
  shared_->word.fetch_add(1);
  syscall(SYS_futex, &shared_->word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void ProcessReplays::turn(uint64_t number) {
  end_turn();
  if (number == 0) return;
  Slot& slot = slots_[own_];
  slot.time_ns.store(replay_->next_time_ns());
  slot.shares_memory = true;
  slot.waits_for.store(number);
  for (;;) {
    const uint32_t word = shared_->word.load();
    const uint64_t over = shared_->over.load();
    if (over + 1 == number) break;
    if (over >= number) fail(ErrorKind::bad_input, "turn {} comes after turn {}", number, over);
    constexpr timespec kPatience{0, 50'000'000};
    if (syscall(SYS_futex, &shared_->word, FUTEX_WAIT, word, &kPatience, nullptr, 0) != 0 &&
        errno == ETIMEDOUT && shared_->over.load() == over)
      check_others(number);
  }
  slot.waits_for.store(0);
  turn_ = number;
}

// A turn that does not come is another's who has failed, or who has no log of it.
void ProcessReplays::check_others(uint64_t number) const {
  bool all_wait = true;
  const uint64_t over = shared_->over.load();
  size_t cut_short = processes_.size();
  for (size_t i = 0; i < processes_.size(); ++i) {
    if (i == own_) continue;
    const State state = slots_[i].state.load();
    if (state == State::diverged || state == State::failed || (state == State::running && !is_alive(i)))
      fail(ErrorKind::unsupported,
           "not replayed from here on: the replay of {}, which may share memory with it, {}",
           process_name(processes_[i]), state == State::diverged ? "has diverged" : "has failed");
    if (state == State::faithful && slots_[i].truncated) cut_short = i;
    const uint64_t waits_for = slots_[i].waits_for.load();
    if (state == State::running && (waits_for == 0 || waits_for < number)) all_wait = false;
  }
  if (!all_wait || over + 1 >= number || shared_->over.load() != over) return;
  if (cut_short == processes_.size())
    fail(ErrorKind::bad_input, "turn {} of the processes that share memory is in no log, and {} is to come",
         over + 1, number);
  fail(ErrorKind::unsupported, "{}", not_known(cut_short));
}

std::string ProcessReplays::not_known(size_t cut_short) const {
  return fmt::format(
      "not replayed from here on: the log of {} is cut short, and what it did to shared memory since is not "
      "known",
      process_name(processes_[cut_short]));
}

// What one did that was killed before it could log it may be what is missing.
void ProcessReplays::explain_by_others(Failure& failure) const {
  if (failure.kind != ErrorKind::divergence || turn_ == 0) return;
  for (size_t i = 0; i < processes_.size(); ++i) {
    const Slot& other = slots_[i];
    if (i == own_ || other.state.load() != State::faithful || !other.truncated || !other.shares_memory)
      continue;
    failure = {ErrorKind::unsupported, fmt::format("{} ({})", not_known(i), failure.message)};
    return;
  }
}

UniqueFd ProcessReplays::file_of_others(uint64_t number) {
  if (number >= kMostFiles) fail(ErrorKind::bad_input, "file {} of the processes that share memory", number);
  const Shared::File& file = shared_->files[number];
  if (file.process == 0) return {};
  const std::string path = fmt::format("/proc/{}/fd/{}", file.process, file.fd);
  UniqueFd found(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!found) fail(ErrorKind::io, "{}: memory that processes share: {}", path, errno_text(errno));
  return found;
}

void ProcessReplays::show_file(uint64_t number, int fd) {
  if (number >= kMostFiles) fail(ErrorKind::bad_input, "file {} of the processes that share memory", number);
  shared_->files[number] = {getpid(), fd};
  shows_files_ = true;
}

void ProcessReplays::tell(const std::string& message) {
  Slot& slot = slots_[own_];
  const size_t size = std::min(message.size(), sizeof slot.message - 1);
  std::memcpy(slot.message, message.data(), size);
  slot.message[size] = '\0';
}

// In a copy of the parent's replay: what that has the child has not.
void ProcessReplays::become(size_t child) {
  own_ = child;
  turn_ = 0;
  shows_files_ = false;
  computing_.clear();
  slots_[own_].pid.store(getpid());
}

// Comes back in both.
void ProcessReplays::fork_into(size_t child) {
  const pid_t parent = getpid();
  pid_t made = 0;
  try {
    made = replay_->fork(true);
  } catch (...) {
    if (getpid() == parent)
      slots_[child].state.store(State::unreached);
    else
      become(child);
    throw;
  }
  if (made != 0) {
    slots_[child].pid.store(made);
    return;
  }
  become(child);
}

void ProcessReplays::go_to_end() {
  for (size_t next = 0; next < processes_[own_].children.size(); ++next) {
    const size_t child = processes_[own_].children[next];
    const uint64_t event = processes_[child].meta.parent->event;
    if (replay_->advance({.exit = event}).why != Stop::Why::exit) break;
    const uint64_t time_ns = replay_->next_time_ns();
    slots_[own_].time_ns.store(time_ns);
    wait_for_room(time_ns);
    slots_[child].time_ns.store(time_ns);
    slots_[child].state.store(State::running);
    fork_into(child);
    if (own_ != child) continue;
    replay_->enter(processes_[own_].directory);
    next = SIZE_MAX;  // from the start, with children of its own
  }
  replay_->advance();
}

std::optional<ProcessReplays::Failure> ProcessReplays::replay_to_end() {
  try {
    go_to_end();
  } catch (const Error& error) {
    return Failure{error.kind(), error.what()};
  } catch (const std::exception& error) {
    return Failure{ErrorKind::internal, error.what()};
  }
  return std::nullopt;
}

void ProcessReplays::replay_own() {
  std::optional<Failure> failure = replay_to_end();
  if (failure) explain_by_others(*failure);
  Slot& slot = slots_[own_];
  const ReplayResult& result = replay_->result();
  slot.events = result.events;
  slot.memory_digests = result.memory_digests;
  slot.truncated = result.truncated;
  slot.signaled = result.signaled;
  slot.stopped = result.stopped;
  slot.status = result.status;
  if (result.truncated) tell(result.truncation);
  try {
    ended_(own_, failure ? &*failure : nullptr);
  } catch (const std::exception& error) {
    failure = Failure{ErrorKind::internal, error.what()};
  }
  if (failure) {
    slot.status = exit_status(failure->kind);
    tell(failure->message);
  }
  slot.state.store(!failure                                 ? State::faithful
                   : failure->kind == ErrorKind::divergence ? State::diverged
                                                            : State::failed);
  // One whose log is cut short has had the turn for longer than is known, unless nothing ran in it.
  if (!failure && (!result.truncated || computing_.empty())) end_turn();
}

void ProcessReplays::run(Replay& replay) {
  replay_ = &replay;
  const pid_t first = getpid();
  slots_[0].pid.store(first);
  slots_[0].state.store(State::running);
  struct sigaction reap {
  }, before{};
  reap.sa_handler = SIG_IGN;  // so that one which was killed is gone at once
  sigaction(SIGCHLD, &reap, &before);
  replay_own();
  const auto any_left = [&] {
    for (size_t i = 0; i < processes_.size(); ++i)
      if (i != own_ && is_alive(i)) return true;
    return false;
  };
  if (getpid() != first) {
    // Others may look for its files still.
    if (shows_files_)
      for (Patience patience; any_left();) patience.wait();
    _exit(0);
  }
  for (Patience patience; any_left();) patience.wait();
  sigaction(SIGCHLD, &before, nullptr);
}

}  // namespace aftercheck::tools
