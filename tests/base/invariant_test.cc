#include "base/invariant.h"

#include <sysexits.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <stdexcept>
#include <thread>

#include "base/own_words.h"
#include "child.h"

namespace aftercheck::test {
namespace {

using Catch::Matchers::Contains;

int evaluated = 0;
int counted() { return ++evaluated; }

// Says so when it is destroyed.
struct Unwound {
  ~Unwound() { say_on_standard_error("unwound\n"); }
};

}  // namespace

TEST_CASE("An invariant that holds costs no evaluation of its message") {
  AFTERCHECK_INVARIANT(evaluated == 0, "{}", counted());
  CHECK(evaluated == 0);
}

TEST_CASE("A broken invariant ends the process at once, and says what, where and in which context") {
  const int line = __LINE__ + 10;  // of the AFTERCHECK_INVARIANT below
  const Ended ended = in_child([] {
    const Unwound unwound;
    const int event = 7;
    const InvariantContext replay([&] { return fmt::format("replaying event {}", event); });
    const InvariantContext position([] { return std::string("rip=0x401000"); });
    {
      const InvariantContext gone([] { return std::string("a context that has ended"); });
    }
    const int next = 3, last = 4;
    AFTERCHECK_INVARIANT(next > last, "event {} after event {}", next, last);
  });
  CHECK(ended.status == EX_SOFTWARE);
  CHECK_THAT(ended.err, Contains(fmt::format(
                            "aftercheck: tests/base/invariant_test.cc:{}: broken invariant: next > last\n"
                            "aftercheck:   event 3 after event 4\n"
                            "aftercheck:   rip=0x401000\n"
                            "aftercheck:   replaying event 7\n",
                            line)));
  CHECK_THAT(ended.err, !Contains("unwound"));
  CHECK_THAT(ended.err, !Contains("a context that has ended"));
}

TEST_CASE("A context that breaks itself hides neither the message nor the status") {
  const Ended thrown = in_child([] {
    const InvariantContext outer([] { return std::string("the outer one"); });
    const InvariantContext throwing([]() -> std::string { throw std::runtime_error("no registers"); });
    AFTERCHECK_INVARIANT(false, "the first");
  });
  CHECK(thrown.status == EX_SOFTWARE);
  CHECK_THAT(thrown.err, Contains("the first") && Contains("no registers") && Contains("the outer one"));

  const Ended broken = in_child([] {
    const InvariantContext breaking([]() -> std::string {
      AFTERCHECK_INVARIANT(false, "the second");
      return "";
    });
    AFTERCHECK_INVARIANT(false, "the first");
  });
  CHECK(broken.status == EX_SOFTWARE);
  CHECK_THAT(broken.err, Contains("the first") && Contains("the second"));
}

TEST_CASE("Contexts are those of the thread whose invariant broke") {
  const Ended ended = in_child([] {
    const InvariantContext elsewhere([] { return std::string("of another thread"); });
    std::thread([] {
      const InvariantContext own([] { return std::string("of this thread"); });
      AFTERCHECK_INVARIANT(false, "in a thread");
    }).join();
  });
  CHECK(ended.status == EX_SOFTWARE);
  CHECK_THAT(ended.err, Contains("of this thread") && !Contains("of another thread"));
}

TEST_CASE("A broken invariant is said although the guest has closed standard error") {
  const Ended ended = in_child([] {
    keep_standard_error();
    close(STDERR_FILENO);
    AFTERCHECK_INVARIANT(false, "still to be heard");
  });
  CHECK(ended.status == EX_SOFTWARE);
  CHECK_THAT(ended.err, Contains("still to be heard"));
}

}  // namespace aftercheck::test
