#include "tools/console.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>

namespace aftercheck::tools {
namespace {

// ECMA-48, "select graphic rendition" and "erase in line".
constexpr const char* kRed = "\x1b[1;31m";
constexpr const char* kYellow = "\x1b[1;33m";
constexpr const char* kPlain = "\x1b[0m";
constexpr const char* kEraseLine = "\r\x1b[K";

size_t terminal_width(int fd) {
  winsize size{};
  constexpr size_t kUsual = 80;
  return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kUsual;
}

// Lines are what the terminal gives programs, unless one has turned that off.
bool gives_lines(int fd) {
  termios state{};
  return tcgetattr(fd, &state) != 0 || (state.c_lflag & ICANON) != 0;
}

}  // namespace

Console::Console() {
  if (fcntl(STDERR_FILENO, F_GETFD) < 0) return;
  fd_ = STDERR_FILENO;
  terminal_ = isatty(fd_) != 0;
  const char* no_colour = std::getenv("NO_COLOR");  // https://no-color.org
  const char* kind = std::getenv("TERM");
  colour_ = terminal_ && (no_colour == nullptr || *no_colour == '\0') &&
            (kind == nullptr || std::string(kind) != "dumb");
}

void Console::leave_standard_error_to_guest() {
  if (fd_ != STDERR_FILENO) return;
  UniqueFd copy(fcntl(fd_, F_DUPFD_CLOEXEC, 3));
  if (!copy) return;
  own_ = move_out_of_guest_reach(std::move(copy));
  fd_ = own_.get();
}

void Console::write(const std::string& text) {
  if (fd_ >= 0) write_all(fd_, text.data(), text.size());
}

void Console::say(const char* colour, const char* label, const std::string& message) {
  clear_progress();
  const std::string line = colour_ && *colour != '\0'
                               ? fmt::format("{}aftercheck:{} {}{}\n", colour, kPlain, label, message)
                               : fmt::format("aftercheck: {}{}\n", label, message);
  // What is held comes first.
  if (holds_ && (!held_.empty() || !gives_lines(fd_)))
    held_ += line;
  else
    write(line);
}

void Console::hold_while_terminal_is_used() { holds_ = terminal_; }

void Console::release() {
  holds_ = false;
  write(std::exchange(held_, {}));
}

void Console::error(const std::string& message) { say(kRed, "", message); }
void Console::warning(const std::string& message) { say(kYellow, "warning: ", message); }
void Console::note(const std::string& message) {
  if (shows_notes()) say("", "", message);
}

void Console::progress(double share, const std::string& text) {
  if (!terminal_) return;
  constexpr std::chrono::milliseconds kBetween{100};
  const auto now = std::chrono::steady_clock::now();
  if (now - last_progress_ < kBetween) return;
  last_progress_ = now;
  share = std::clamp(share, 0.0, 1.0);
  constexpr int kCells = 24;
  const int filled = static_cast<int>(share * kCells);
  std::string line = fmt::format("[{}{}] {:3.0f} %  {}", std::string(static_cast<size_t>(filled), '='),
                                 std::string(static_cast<size_t>(kCells - filled), ' '), share * 100, text);
  // A line that wraps could not be erased.
  line.resize(std::min(line.size(), terminal_width(fd_) - 1));
  write(kEraseLine + line);
  progress_shown_ = true;
}

void Console::clear_progress() {
  if (std::exchange(progress_shown_, false)) write(kEraseLine);
}

int write_all(int fd, const void* bytes, size_t size) {
  const auto* at = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t written = ::write(fd, at, size);
    if (written >= 0) {
      at += written;
      size -= static_cast<size_t>(written);
    } else if (errno == EAGAIN) {
      pollfd ready{.fd = fd, .events = POLLOUT, .revents = 0};
      poll(&ready, 1, -1);
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

std::string human_time(double seconds) {
  if (seconds < 60) return fmt::format("{:.{}f} s", seconds, seconds < 10 ? 2 : 1);
  const auto whole = static_cast<uint64_t>(seconds);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole / 60 % 60);
}

std::string human_size(uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} bytes", bytes);
  double value = static_cast<double>(bytes);
  const char* unit = "";
  for (const char* next : {"KiB", "MiB", "GiB", "TiB"}) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  return fmt::format("{:.{}f} {} ({} bytes)", value, value < 10 ? 1 : 0, unit, human_count(bytes));
}

std::string human_count(uint64_t count) {
  std::string digits = std::to_string(count);
  for (size_t at = digits.size(); at > 3;) digits.insert(at -= 3, 1, ',');
  return digits;
}

}  // namespace aftercheck::tools
