// The one error type of the project. Input, files and hosts that disappoint us end in one of these, never in
// an assertion; the kind decides the exit status of the command (docs/manual.md, EXIT STATUS).
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace aftercheck {

enum class ErrorKind {
  usage,        // the command line makes no sense                     exit status 2
  bad_input,    // a file is damaged, hostile or not what it should be exit status 2
  unsupported,  // valid, but not something this version can do        exit status 2
  io,           // the operating system refused a file operation       exit status 2
  divergence,   // the replay left the recording                       exit status 3
  host_lacks,   // this host can't do what was asked for               exit status 4
  internal,  // a bug of ours                                       exit status 70 (EX_SOFTWARE, sysexits.h)
};

// Process exit status that belongs to a kind.
int exit_status(ErrorKind kind);

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// Throws Error(kind) with a fmt-formatted message. Messages name the file, offset, call or address and the
// way out.
template <typename... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

// "No such file or directory (ENOENT)" for an errno value.
std::string errno_text(int error);

}  // namespace aftercheck
