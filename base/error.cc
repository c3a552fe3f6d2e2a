#include "base/error.h"

#include <cstring>

namespace aftercheck {

int exit_status(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::usage:
    case ErrorKind::bad_input:
    case ErrorKind::unsupported:
    case ErrorKind::io:
      return 2;
    case ErrorKind::divergence:
      return 3;
    case ErrorKind::host_lacks:
      return 4;
    case ErrorKind::internal:
      break;
  }
  return 70;
}

std::string errno_text(int error) {
  const char* name = strerrorname_np(error);
  const char* description = strerrordesc_np(error);
  if (name == nullptr || description == nullptr) return fmt::format("error {}", error);
  return fmt::format("{} ({})", description, name);
}

}  // namespace aftercheck
