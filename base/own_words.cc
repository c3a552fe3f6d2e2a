#include "base/own_words.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <exception>
#include <utility>

#include "base/fd.h"

namespace aftercheck {
namespace {

// Never closed: there may be something to say until the very end.
int kept = -1;

// write(2) with the signals blocked that it may raise in this thread; one that it raised is taken away again.
ssize_t write_without_signals(int fd, std::string_view text) {
  sigset_t raises, pending, before;
  sigemptyset(&raises);
  sigaddset(&raises, SIGPIPE);
  sigaddset(&raises, SIGXFSZ);
  pthread_sigmask(SIG_BLOCK, &raises, &before);
  sigpending(&pending);
  ssize_t written = 0;
  do written = write(fd, text.data(), text.size());
  while (written < 0 && errno == EINTR);
  if (written < 0 && (errno == EPIPE || errno == EFBIG)) {
    const int raised = errno == EPIPE ? SIGPIPE : SIGXFSZ;
    sigemptyset(&raises);
    sigaddset(&raises, raised);
    constexpr timespec kAtOnce{};
    if (sigismember(&pending, raised) == 0) sigtimedwait(&raises, nullptr, &kAtOnce);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return written;
}

}  // namespace

void keep_standard_error() noexcept {
  if (kept >= 0) return;
  try {
    UniqueFd copy(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
    if (copy) kept = move_out_of_guest_reach(std::move(copy)).release();
  } catch (const std::exception&) {  // a table that small ends the recording with words of its own
  }
}

bool say_on_standard_error(std::string_view text) noexcept {
  const int error = errno;
  const ssize_t written = write_without_signals(kept >= 0 ? kept : STDERR_FILENO, text);
  errno = error;
  return written == static_cast<ssize_t>(text.size());
}

}  // namespace aftercheck
