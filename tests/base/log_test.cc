#include "base/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cerrno>
#include <csignal>
#include <regex>
#include <stdexcept>

#include "base/fd.h"
#include "base/own_words.h"
#include "child.h"

namespace aftercheck::test {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::Equals;

int evaluated() {
  say_on_standard_error("evaluated\n");
  return 1;
}

void log_one_of_each() {
  AFTERCHECK_LOG_TO(LogTopic::kvm, "slot {}", 1);
  AFTERCHECK_LOG_TO(LogTopic::calls, "the last topic");
  AFTERCHECK_LOG_TO(LogTopic::record, "the first topic");
}

}  // namespace

TEST_CASE("The log is off until it is started, and evaluates nothing then") {
  const Ended ended = in_child([] { AFTERCHECK_LOG_TO(LogTopic::kvm, "slot {}", evaluated()); });
  CHECK(ended.status == 0);
  CHECK_THAT(ended.err, Equals(""));
}

TEST_CASE("The log has the topics that were asked for, a line each with time and topic") {
  const Ended ended = in_child([] {
    start_log("replay,kvm");
    log_one_of_each();
    AFTERCHECK_LOG_TO(LogTopic::replay, "two\nlines {}", 2);
  });
  CHECK(std::regex_match(ended.err, std::regex("aftercheck [0-9]+\\.[0-9]{6} kvm: slot 1\n"
                                               "aftercheck [0-9]+\\.[0-9]{6} replay: two lines 2\n")));
}

TEST_CASE("All topics of the log at once, and names that are none") {
  const Ended all = in_child([] {
    start_log("all");
    log_one_of_each();
  });
  CHECK_THAT(all.err,
             Contains(" kvm: slot 1\n") && Contains(" calls: the last") && Contains(" record: the first"));

  const Ended unknown = in_child([] {
    start_log("kwm,,kvm");
    log_one_of_each();
    log_one_of_each();
  });
  CHECK_THAT(unknown.err, Contains("no topic \"kwm\"; topics are all, record, replay") &&
                              Contains(" kvm: slot 1\n") && !Contains("first topic"));
  CHECK(unknown.err.find("kwm") == unknown.err.rfind("kwm"));

  CHECK_THAT(in_child([] {
               start_log("");
               log_one_of_each();
             }).err,
             Equals(""));
}

TEST_CASE("A guest that closes or changes descriptor 2 does not get at the log") {
  const Ended ended = in_child([] {
    keep_standard_error();
    start_log("kvm");
    const int elsewhere = open("/dev/null", O_WRONLY);
    dup2(elsewhere, STDERR_FILENO);
    AFTERCHECK_LOG_TO(LogTopic::kvm, "redirected");
    close(STDERR_FILENO);
    close_range(0, static_cast<unsigned>(own_fd_floor()) - 1, 0);
    AFTERCHECK_LOG_TO(LogTopic::kvm, "closed");
  });
  CHECK_THAT(ended.err, Contains("kvm: redirected\n") && Contains("kvm: closed\n"));
}

TEST_CASE("A log without a reader raises no signal and leaves errno") {
  const Ended ended = in_child([] {
    std::array<int, 2> ends{};
    if (pipe(ends.data()) != 0) _exit(2);
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    keep_standard_error();
    start_log("kvm");
    std::signal(SIGPIPE, [](int) { _exit(3); });
    errno = EXDEV;
    AFTERCHECK_LOG_TO(LogTopic::kvm, "nobody reads this");
    if (errno != EXDEV) _exit(4);
    // One that somebody else sent is still there.
    sigset_t pipe_only, pending;
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    sigprocmask(SIG_BLOCK, &pipe_only, nullptr);
    raise(SIGPIPE);
    AFTERCHECK_LOG_TO(LogTopic::kvm, "nor this");
    sigpending(&pending);
    if (sigismember(&pending, SIGPIPE) == 0) _exit(5);
  });
  CHECK(ended.status == 0);
  CHECK(ended.signal == 0);
}

TEST_CASE("A line whose arguments throw says so, and is cut where it is endless") {
  const Ended ended = in_child([] {
    start_log("kvm");
    AFTERCHECK_LOG_TO(LogTopic::kvm, "{}", []() -> int { throw std::runtime_error("no number"); }());
    AFTERCHECK_LOG_TO(LogTopic::kvm, "{}", std::string(100'000, 'x'));
  });
  CHECK(ended.status == 0);
  CHECK_THAT(ended.err, Contains("kvm: no number\n"));
  CHECK(ended.err.size() < 5000);
  CHECK(ended.err.back() == '\n');
}

}  // namespace aftercheck::test
