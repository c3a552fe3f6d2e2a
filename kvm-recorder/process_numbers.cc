#include "kvm-recorder/process_numbers.h"

#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <fstream>
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

// A directory /proc/PID serves as a pidfd, too (pidfd_send_signal(2)).
std::optional<pid_t> process_of_directory(int fd) {
  struct statfs system {};
  if (fstatfs(fd, &system) != 0 || system.f_type != PROC_SUPER_MAGIC) return std::nullopt;
  std::error_code error;
  const fs::path target = fs::read_symlink(fmt::format("/proc/self/fd/{}", fd), error);
  return error ? std::nullopt : number_in(target.filename().string());
}

}  // namespace

Whose whose(pid_t number) {
  if (number <= 0) return Whose::other;
  if (number == getpid() || number == gettid()) return Whose::guest;
  return syscall(SYS_tgkill, getpid(), number, 0) == 0 ? Whose::recorder : Whose::other;
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
    std::ifstream information(fmt::format("/proc/self/fdinfo/{}", fd));
    constexpr std::string_view kField = "Pid:\t";  // fs/pidfs.c, pidfd_show_fdinfo()
    for (std::string line; std::getline(information, line);)
      if (line.starts_with(kField)) {
        result = number_in(std::string_view(line).substr(kField.size()));
        return;
      }
    result = process_of_directory(fd);
  });
  return result;
}

}  // namespace aftercheck
