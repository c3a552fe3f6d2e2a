#include "kvm-recorder/process_numbers.h"

#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <string_view>

namespace aftercheck {
namespace {

namespace fs = std::filesystem;

std::optional<pid_t> number_in(std::string_view text) {
  pid_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// A task's numbers, in the namespace of that procfs first, in its own last (proc.rst, 1.1).
std::vector<pid_t> numbers_in(const std::string& path) {
  std::vector<pid_t> numbers;
  std::ifstream status(path);
  constexpr std::string_view kField = "NSpid:";
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with(kField)) continue;
    std::istringstream words(line.substr(kField.size()));
    for (pid_t number = 0; words >> number;) numbers.push_back(number);
  }
  return numbers;
}

// A directory /proc/PID serves as a pidfd, too (pidfd_send_signal(2)).
std::optional<pid_t> process_of_directory(int fd) {
  struct statfs system {};
  if (fstatfs(fd, &system) != 0 || system.f_type != PROC_SUPER_MAGIC) return std::nullopt;
  return number_of_folder(fmt::format("/proc/self/fd/{}", fd));
}

}  // namespace

namespace {

struct GuestThreadNumbers {
  std::mutex mutex;
  std::set<pid_t> numbers;
};

GuestThreadNumbers& guest_threads() {
  static GuestThreadNumbers threads;
  return threads;
}

bool is_guest_thread(pid_t number) {
  GuestThreadNumbers& known = guest_threads();
  const std::lock_guard lock(known.mutex);
  return known.numbers.contains(number);
}

}  // namespace

void note_guest_thread() {
  GuestThreadNumbers& known = guest_threads();
  const std::lock_guard lock(known.mutex);
  known.numbers.insert(gettid());
}

void guest_threads_forked() {
  GuestThreadNumbers& known = guest_threads();
  new (&known.mutex) std::mutex;  // another thread of the parent's may have had it
  known.numbers = {gettid()};
}

void forget_guest_thread() {
  GuestThreadNumbers& known = guest_threads();
  const std::lock_guard lock(known.mutex);
  known.numbers.erase(gettid());
}

Whose whose(pid_t number) {
  if (number <= 0) return Whose::other;
  if (number == getpid() || number == gettid() || is_guest_thread(number)) return Whose::guest;
  return syscall(SYS_tgkill, getpid(), number, 0) == 0 ? Whose::recorder : Whose::other;
}

std::optional<pid_t> number_of_folder(const std::string& folder) {
  struct stat there {
  }, here{};
  const std::vector<pid_t> numbers = numbers_in(folder + "/status");
  if (numbers.empty() || stat((folder + "/ns/pid").c_str(), &there) != 0 ||
      stat("/proc/self/ns/pid", &here) != 0 || there.st_ino != here.st_ino)
    return std::nullopt;
  return numbers.back();
}

std::vector<pid_t> others_in_group(pid_t group, HostThread& host) {
  std::vector<pid_t> found;
  host.run([&] {
    std::error_code error;
    for (fs::directory_iterator entry("/proc", error), end; !error && entry != end; entry.increment(error)) {
      const std::optional<pid_t> process = number_in(entry->path().filename().string());
      if (process && *process != getpid() && getpgid(*process) == group) found.push_back(*process);
    }
  });
  return found;
}

std::optional<pid_t> process_of_pidfd(int fd, HostThread& host) {
  std::optional<pid_t> result;
  host.run([&] {
    // Both lists start in the namespace of this procfs (fs/pidfs.c, pidfd_show_fdinfo()).
    const std::vector<pid_t> numbers = numbers_in(fmt::format("/proc/self/fdinfo/{}", fd));
    const size_t depth = numbers_in("/proc/self/status").size();
    if (depth > 0 && depth <= numbers.size()) result = numbers[depth - 1];
    if (!numbers.empty()) return;
    result = process_of_directory(fd);
  });
  return result;
}

}  // namespace aftercheck
