#include "kvm-recorder/process_tree.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fork_gate.h"
#include "base/kick_signal.h"
#include "base/processor_pin.h"
#include "kvm-recorder/answer.h"
#include "kvm-recorder/guest_process.h"
#include "kvm-recorder/signal_sets.h"
#include "machine/page_map.h"

namespace aftercheck {
namespace {

// A page that the child of a vfork has changed, on its way to the parent.
struct SentPage {
  uint64_t address = 0;
  std::array<std::byte, kPageSize> bytes;
};

bool send_all(int socket, const void* data, size_t size) {
  const auto* at = static_cast<const std::byte*>(data);
  while (size > 0) {
    const ssize_t sent = send(socket, at, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    at += sent;
    size -= static_cast<size_t>(sent);
  }
  return true;
}

// False where the other end is closed before all has come.
bool receive_all(int socket, void* data, size_t size) {
  auto* at = static_cast<std::byte*>(data);
  while (size > 0) {
    const ssize_t got = recv(socket, at, size, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    size -= static_cast<size_t>(got);
  }
  return true;
}

// Of a page, as far as it is mapped here: what differs.
void note_differences(Answer& answer, const SentPage& page) {
  std::array<std::byte, kPageSize> here;
  if (!answer.space().read(page.address, here.data(), here.size())) return;
  constexpr size_t kGap =
      16;  // shorter ones are cheaper with the bytes around them than as an entry of their own
  for (size_t at = 0; at < here.size();) {
    if (here[at] == page.bytes[at]) {
      ++at;
      continue;
    }
    size_t last = at;
    for (size_t i = at; i < here.size() && i - last <= kGap; ++i)
      if (here[i] != page.bytes[i]) last = i;
    answer.poke(page.address + at, &page.bytes[at], last + 1 - at);
    at = last + 1;
  }
}

// All processes of a recording are forks of one, so its address means the same to all, and nobody else knows
// it.
char end_mark = 0;

// Field 3 of /proc/PID/stat, after the command, which is in parentheses.
char state_of(pid_t process) {
  const UniqueFd file(open(fmt::format("/proc/{}/stat", process).c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 512> text{};
  if (!file || read(file.get(), text.data(), text.size() - 1) <= 0) return '\0';
  const char* const end = std::strrchr(text.data(), ')');
  return end == nullptr || end[1] == '\0' ? '\0' : end[2];
}

class ProcessLimit {
 public:
  explicit ProcessLimit(std::optional<uint64_t> most) : set_(most.has_value()) {
    if (!set_ || getrlimit(RLIMIT_NPROC, &before_) != 0) return;
    const rlimit wanted{std::min<rlim_t>(*most, before_.rlim_max), before_.rlim_max};
    set_ = setrlimit(RLIMIT_NPROC, &wanted) == 0;
  }
  ~ProcessLimit() {
    if (set_) setrlimit(RLIMIT_NPROC, &before_);
  }
  ProcessLimit(const ProcessLimit&) = delete;
  ProcessLimit& operator=(const ProcessLimit&) = delete;

 private:
  bool set_;
  rlimit before_{};
};

}  // namespace

struct ProcessTree::Shared {
  // Of more processes some are not known, and killed without further ado.
  static constexpr size_t kMostKnown = 1 << 16;
  std::atomic<uint32_t> last_number{0};
  std::array<std::atomic<bool>, 3> output_moved{};          // by stream
  std::array<std::atomic<pid_t>, kMostKnown> processes{};   // by number; 0: it has ended
  std::array<std::atomic<int>, kMostKnown> executables{};   // by number: a descriptor there
  std::array<std::atomic<bool>, kMostKnown> first_ended{};  // by number: the first thread is gone
};

ProcessTree::ProcessTree(std::filesystem::path recording)
    : recording_(std::move(recording)), user_(geteuid()) {}

bool ProcessTree::child_may_write() const {
  const auto may = [](const std::filesystem::path& folder) {
    return faccessat(AT_FDCWD, folder.c_str(), W_OK | X_OK, AT_EACCESS) == 0;
  };
  return geteuid() == user_ || (may(recording_) && may(recording_ / "store"));
}

std::filesystem::path ProcessTree::directory() const {
  return number_ == 0 ? recording_ : recording_ / "processes" / std::to_string(number_);
}

bool ProcessTree::prepare() {
  if (shared_ != nullptr) return true;
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return false;
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    munmap(memory, sizeof(Shared));
    return false;
  }
  ended_ = move_out_of_guest_reach(UniqueFd(ends[0]));
  living_ = move_out_of_guest_reach(UniqueFd(ends[1]));
  shared_ = new (memory) Shared;
  shared_->executables[0] = executable_;
  shared_->first_ended[0] = first_ended_;
  shared_->processes[0] = getpid();
  return true;
}

long ProcessTree::fork(const NewProcess& wanted) {
  if (!prepare()) return -EAGAIN;
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) return -EAGAIN;
  from_child_ = move_out_of_guest_reach(UniqueFd(ends[0]));
  UniqueFd to_parent = move_out_of_guest_reach(UniqueFd(ends[1]));
  const uint32_t number = shared_->last_number.fetch_add(1) + 1;
  const uint64_t mask = host_mask();
  set_host_mask(~uint64_t{0});
  pid_t child = -1;
  int error = 0;
  {
    const ProcessLimit limit(wanted.most_processes);
    const ForkAlone alone;
    ProcessorPin::clear_own();
    child = ::fork();
    error = errno;
  }
  if (child == 0) {
    number_ = number;
    first_ended_ = false;
    ended_.reset();
    from_child_.reset();
    to_parent_ = std::move(to_parent);
    parent_waits_ = (wanted.flags & CLONE_VFORK) != 0;
    memory_is_parents_ = parent_waits_ && (wanted.flags & CLONE_VM) != 0;
    return 0;
  }
  to_parent.reset();
  // Without an answer it was killed, and the guest will hear of that as it would natively.
  int answer = 0;
  if (child > 0 && receive_all(from_child_.get(), &answer, sizeof answer) && answer != 0)
    waitpid(child, nullptr, 0);
  if (child < 0) answer = error;
  if (answer != 0 || (wanted.flags & CLONE_VFORK) == 0) from_child_.reset();
  set_host_mask(mask);
  return answer != 0 ? -answer : child;
}

void ProcessTree::begun() {
  shared_->executables[number_ % Shared::kMostKnown] = executable_;
  shared_->first_ended[number_ % Shared::kMostKnown] = false;
  shared_->processes[number_ % Shared::kMostKnown] = getpid();
  const int fine = 0;
  send_all(to_parent_.get(), &fine, sizeof fine);
  if (!parent_waits_) to_parent_.reset();
}

void ProcessTree::failed(int error) {
  send_all(to_parent_.get(), &error, sizeof error);
  _exit(EXIT_FAILURE);
}

void ProcessTree::let_parent_go(const AddressSpace& space) {
  if (!std::exchange(parent_waits_, false)) return;
  SentPage page;
  const PageMap pages;
  bool there = memory_is_parents_;
  for (const auto& [start, mapping] : space.mappings()) {
    if (!there) break;
    pages.unshared_pages(mapping, kPageSize, [&](Range run) {
      page.address = run.start;
      if (!there || !space.read(run.start, page.bytes.data(), page.bytes.size())) return;
      there = send_all(to_parent_.get(), &page, sizeof page);
    });
  }
  to_parent_.reset();
}

void ProcessTree::wait_for_child(const NewProcess& wanted, Answer& answer) {
  if ((wanted.flags & CLONE_VFORK) == 0 || !from_child_) return;
  const uint64_t mask = host_mask();
  set_host_mask(~uint64_t{0});
  SentPage page;
  while (receive_all(from_child_.get(), &page, sizeof page)) note_differences(answer, page);
  from_child_.reset();
  set_host_mask(mask);
}

void ProcessTree::moves_in_output(uint8_t stream) const {
  if (shared_ != nullptr) shared_->output_moved.at(stream) = true;
}

bool ProcessTree::moved_in_output(uint8_t stream) const {
  return shared_ != nullptr && shared_->output_moved.at(stream);
}

bool ProcessTree::asks_to_end(const siginfo_t& info) {
  return info.si_code == SI_QUEUE && info.si_ptr == &end_mark;
}

std::optional<size_t> ProcessTree::place_of(pid_t process) const {
  if (shared_ == nullptr || process <= 0) return std::nullopt;
  const size_t known = std::min<size_t>(shared_->last_number.load() + size_t{1}, Shared::kMostKnown);
  const auto end = shared_->processes.begin() + static_cast<ptrdiff_t>(known);
  const auto place = std::find(shared_->processes.begin(), end, process);
  if (place == end) return std::nullopt;
  return static_cast<size_t>(place - shared_->processes.begin());
}

bool ProcessTree::is_recorded(pid_t process) const { return process != getpid() && place_of(process); }

void ProcessTree::executes(int file) {
  executable_ = file;
  if (shared_ != nullptr) shared_->executables.at(number_ % Shared::kMostKnown) = file;
}

std::string ProcessTree::executable_of(pid_t process) const {
  const std::optional<size_t> place = place_of(process);
  const int file = place ? shared_->executables.at(*place).load() : -1;
  return file < 0 ? std::string() : fmt::format("/proc/{}/fd/{}", process, file);
}

void ProcessTree::first_thread_ends(bool ended) {
  first_ended_ = ended;
  if (shared_ != nullptr) shared_->first_ended.at(number_ % Shared::kMostKnown) = ended;
}

bool ProcessTree::first_thread_ended(pid_t process) const {
  if (process == getpid()) return first_ended_;
  const std::optional<size_t> place = place_of(process);
  return place && shared_->first_ended.at(*place);
}

void ProcessTree::prepare_kill(std::span<const pid_t> processes) const {
  std::vector<UniqueFd> waited;
  for (const pid_t process : processes) {
    if (!is_recorded(process)) continue;
    UniqueFd handle(static_cast<int>(syscall(SYS_pidfd_open, process, 0)));
    siginfo_t request{};
    request.si_signo = kKickSignal;
    request.si_code = SI_QUEUE;
    request.si_pid = getpid();
    request.si_uid = getuid();
    request.si_ptr = &end_mark;
    if (!handle || syscall(SYS_rt_tgsigqueueinfo, process, process, kKickSignal, &request) != 0) continue;
    // To the first thread: of others some are the recorder's, and take it. Where that is stopped nothing else
    // wakes it, and SIGKILL would.
    if (state_of(process) == 'T') kill(process, SIGCONT);
    waited.push_back(std::move(handle));
  }
  constexpr std::chrono::milliseconds kMoment{300};
  const auto until = std::chrono::steady_clock::now() + kMoment;
  for (const UniqueFd& handle : waited) {
    pollfd ended{handle.get(), POLLIN, 0};
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    poll(&ended, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
  }
}

void ProcessTree::wait_for_others(const std::function<void()>& tell) {
  if (number_ != 0 || shared_ == nullptr) return;
  living_.reset();
  sigset_t ends;
  sigemptyset(&ends);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) sigaddset(&ends, signal);
  set_host_mask(~uint64_t{0});
  const UniqueFd signals(signalfd(-1, &ends, SFD_CLOEXEC));
  std::array<pollfd, 2> wanted{pollfd{ended_.get(), POLLIN, 0}, pollfd{signals.get(), POLLIN, 0}};
  constexpr int kPatience = 1000;  // ms
  for (int patience = kPatience;;) {
    const int ready = poll(wanted.data(), wanted.size(), patience);
    if (ready == 0) tell();
    if (ready == 0) patience = -1;
    if (ready > 0 || (ready < 0 && errno != EINTR)) return;
  }
}

bool has_other_processes(const GuestProcess& process) {
  return process.tree != nullptr && process.tree->has_others();
}

}  // namespace aftercheck
