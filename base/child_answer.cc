#include "base/child_answer.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "base/fd.h"

namespace aftercheck {
namespace {

// Reads until the other end is closed; false when that takes too long.
bool read_with_limit(int fd, std::chrono::milliseconds limit, std::string& text) {
  const auto end = std::chrono::steady_clock::now() + limit;
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
    const int count = left.count() > 0 ? poll(&ready, 1, static_cast<int>(left.count())) : 0;
    if (count == 0) return false;
    if (count < 0 && errno == EINTR) continue;
    char buffer[4096];
    const ssize_t got = read(fd, buffer, sizeof buffer);
    if (got <= 0) return true;
    text.append(buffer, static_cast<size_t>(got));
  }
}

}  // namespace

ChildAnswer answer_of_child(std::chrono::milliseconds limit, const std::function<void(int out)>& work) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) fail(ErrorKind::io, "pipe: {}", errno_text(errno));
  const UniqueFd from_child(ends[0]);
  UniqueFd to_parent(ends[1]);
  const pid_t child = fork();
  if (child < 0) fail(ErrorKind::io, "fork: {}", errno_text(errno));
  if (child == 0) {
    int status = 0;
    try {
      work(to_parent.get());
    } catch (const std::exception&) {
      status = 1;
    }
    _exit(status);
  }
  to_parent.reset();
  ChildAnswer answer;
  answer.in_time = read_with_limit(from_child.get(), limit, answer.text);
  if (!answer.in_time) kill(child, SIGKILL);
  while (waitpid(child, &answer.wait_status, 0) < 0 && errno == EINTR) {
  }
  return answer;
}

}  // namespace aftercheck
