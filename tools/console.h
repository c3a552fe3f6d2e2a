// What the command says to people: standard error. Standard output belongs to results, or to the guest.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "base/fd.h"

namespace aftercheck::tools {

// Not thread-safe.
class Console {
 public:
  // Uses descriptor 2 of the process; says nothing when that is closed.
  Console();

  // Moves to a descriptor that the guest can neither see nor close: from now on descriptor 2 is the guest's.
  void leave_standard_error_to_guest();

  bool is_terminal() const { return terminal_; }

  // From here to release(), what would go to a terminal that a program has for itself (not line by line:
  // editors, pagers, full screens) is held back and said then, when the program has put the terminal right.
  void hold_while_terminal_is_used();
  void release();

  // "aftercheck: MESSAGE". Always shown.
  void error(const std::string& message);
  void warning(const std::string& message);
  // Shown on a terminal, or after set_verbose(true).
  void note(const std::string& message);
  void set_verbose(bool verbose) { verbose_ = verbose; }
  bool verbose() const { return verbose_; }
  bool shows_notes() const { return verbose_ || terminal_; }

  // Shows how far long work has come, on a terminal only; at most ten times a second. `share` is 0..1.
  void progress(double share, const std::string& text);
  // Takes the progress line away; call before anything else writes to the terminal.
  void clear_progress();

 private:
  UniqueFd own_;  // set by leave_standard_error_to_guest()
  int fd_ = -1;
  bool terminal_ = false, colour_ = false, verbose_ = false, progress_shown_ = false, holds_ = false;
  std::string held_;
  std::chrono::steady_clock::time_point last_progress_{};

  void say(const char* colour, const char* label, const std::string& message);
  void write(const std::string& text);
};

// Writes all of it, waiting where `fd` does not block. 0, or the errno of the write that failed.
int write_all(int fd, const void* bytes, size_t size);

// "1.2 s", "3 min 20 s"; "312 KiB (319,488 bytes)"; "12,345".
std::string human_time(double seconds);
std::string human_size(uint64_t bytes);
std::string human_count(uint64_t count);

}  // namespace aftercheck::tools
