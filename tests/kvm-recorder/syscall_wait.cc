// Calls that signals interrupt.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <chrono>

#include "syscall_fixture.h"

using namespace aftercheck;
using namespace aftercheck::test;

namespace {

// A signal to this process after a moment. The guest has a handler for it.
void alarm_soon(SystemCalls& guest, int handler_flags = 0) {
  const KernelSigaction action{0x400000, static_cast<uint64_t>(handler_flags) | 0x04000000 /* SA_RESTORER */,
                               0x400100, 0};
  REQUIRE(guest.call(SYS_rt_sigaction, SIGALRM, guest.put(action), 0, 8) == 0);
  const itimerval soon{{0, 0}, {0, 20'000}};
  REQUIRE(guest.call(SYS_setitimer, ITIMER_REAL, guest.put(soon), 0) == 0);
}

int pipe_reader(SystemCalls& guest) {
  const uint64_t at = guest.room(8);
  REQUIRE(guest.call(SYS_pipe2, at, 0) == 0);
  return guest.get<int>(at);
}

// A signal that still waits would hit the test itself once the fixture lets go of it.
void drop_alarm(SystemCalls& guest) {
  const KernelSigaction ignore{1, 0, 0, 0};
  REQUIRE(guest.call(SYS_rt_sigaction, SIGALRM, guest.put(ignore), 0, 8) == 0);
}

long elapsed_ms(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - since)
      .count();
}

}  // namespace

TEST_CASE("interrupted calls give what the signal code needs to restart them", "[wait]") {
  SystemCalls guest;
  const int reader = pipe_reader(guest);
  alarm_soon(guest);
  SECTION("read restarts with SA_RESTART") {
    CHECK(guest.call(SYS_read, reader, guest.room(8), 8) == kRestartSys);
  }
  SECTION("poll only without a handler") {
    const pollfd fd{reader, POLLIN, 0};
    CHECK(guest.call(SYS_poll, guest.put(fd), 1, -1) == kRestartNoHand);
  }
  SECTION("select") { CHECK(guest.call(SYS_select, 0, 0, 0, 0, 0) == kRestartNoHand); }
  SECTION("epoll_wait never") {
    CHECK(guest.call(SYS_epoll_wait, guest.call(SYS_epoll_create1, 0), guest.room(12), 1, -1) == -EINTR);
  }
  SECTION("nanosleep tells what remains") {
    const timespec minute{60, 0};
    const uint64_t rest = guest.room(16);
    CHECK(guest.call(SYS_nanosleep, guest.put(minute), rest) == kRestartNoHand);
    CHECK(guest.noted_bytes == 16);
    CHECK(guest.get<timespec>(rest).tv_sec >= 59);  // 60: the signal came before the call
  }
  SECTION("pause") { CHECK(guest.call(SYS_pause) == kRestartNoHand); }
  SECTION("a socket with a timeout") {
    const uint64_t at = guest.room(8);
    REQUIRE(guest.call(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, at) == 0);
    const int socket = guest.get<int>(at);
    CHECK(guest.call(SYS_recvfrom, socket, guest.room(8), 8, 0, 0, 0) == kRestartSys);
    const timeval minute{60, 0};
    REQUIRE(guest.call(SYS_setsockopt, socket, SOL_SOCKET, SO_RCVTIMEO, guest.put(minute), sizeof minute) ==
            0);
    CHECK(guest.call(SYS_recvfrom, socket, guest.room(8), 8, 0, 0, 0) == -EINTR);
  }
  CHECK(guest.signals.deliverable());
  drop_alarm(guest);
}

TEST_CASE("a signal that the guest blocks interrupts nothing", "[wait]") {
  SystemCalls guest;
  const uint64_t mask = 1ULL << (SIGALRM - 1);
  REQUIRE(guest.call(SYS_rt_sigprocmask, SIG_BLOCK, guest.put(mask), 0, 8) == 0);
  alarm_soon(guest);
  const auto started = std::chrono::steady_clock::now();
  SECTION("poll") {
    const pollfd fd{pipe_reader(guest), POLLIN, 0};
    CHECK(guest.call(SYS_poll, guest.put(fd), 1, 100) == 0);
  }
  SECTION("nanosleep") {
    const timespec tenth{0, 100'000'000};
    CHECK(guest.call(SYS_nanosleep, guest.put(tenth), 0) == 0);
  }
  SECTION("epoll_wait") {
    CHECK(guest.call(SYS_epoll_wait, guest.call(SYS_epoll_create1, 0), guest.room(12), 1, 100) == 0);
  }
  SECTION("select") {
    const timeval tenth{0, 100'000};
    CHECK(guest.call(SYS_select, 0, 0, 0, 0, guest.put(tenth)) == 0);
  }
  CHECK(elapsed_ms(started) >= 95);
  CHECK(elapsed_ms(started) < 2000);
  CHECK(!guest.signals.deliverable());
  drop_alarm(guest);
}

TEST_CASE("a mask for one call lets its signals in", "[wait]") {
  SystemCalls guest;
  const uint64_t mask = 1ULL << (SIGALRM - 1), none = 0;
  REQUIRE(guest.call(SYS_rt_sigprocmask, SIG_BLOCK, guest.put(mask), 0, 8) == 0);
  alarm_soon(guest);
  const uint64_t empty = guest.put(none);
  SECTION("ppoll") { CHECK(guest.call(SYS_ppoll, 0, 0, 0, empty, 8) == kRestartNoHand); }
  SECTION("pselect6") {
    const uint64_t set_and_size[] = {empty, 8};
    CHECK(guest.call(SYS_pselect6, 0, 0, 0, 0, 0, guest.put(set_and_size)) == kRestartNoHand);
  }
  SECTION("epoll_pwait") {
    CHECK(guest.call(SYS_epoll_pwait, guest.call(SYS_epoll_create1, 0), guest.room(12), 1, -1, empty, 8) ==
          -EINTR);
  }
  CHECK(guest.signals.deliverable());  // under the mask that is in force until the delivery
  drop_alarm(guest);
}

TEST_CASE("a mask of the wrong size is refused", "[wait]") {
  SystemCalls guest;
  const uint64_t none = 0;
  const timespec zero{};
  CHECK(guest.call(SYS_ppoll, 0, 0, guest.put(zero), guest.put(none), 4) == -EINVAL);
  CHECK(guest.call(SYS_ppoll, 0, 0, guest.put(zero), 0x1000, 8) == -EFAULT);
  CHECK(guest.call(SYS_ppoll, 0, 0, guest.put(zero), guest.put(none), 8) == 0);
}
