// Actions, masks and pending sets, and the host's signals that stand for the guest's.
#include <sys/time.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <ctime>
#include <optional>

#include "base/guarded_copy.h"
#include "tests/kvm-recorder/signal_fixture.h"

using namespace aftercheck;
using namespace aftercheck::test;

namespace {

void host_action(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  REQUIRE(sigaction(signal, &action, nullptr) == 0);
}

struct sigaction host_action_of(int signal) {
  struct sigaction action {};
  sigaction(signal, nullptr, &action);
  return action;
}

}  // namespace

TEST_CASE("signals: what is put back is the next again") {
  PendingSignals pending;
  siginfo_t info{};
  for (const int value : {1, 2, 3}) {
    info.si_signo = SIGRTMIN + 1;
    info.si_int = value;
    pending.add(info);
  }
  info.si_signo = SIGUSR1;
  pending.add(info);
  for (const int signal : {SIGUSR1, SIGRTMIN + 1}) {
    const std::optional<siginfo_t> first = pending.dequeue(bit_of(signal));
    REQUIRE(first);
    CHECK((pending.bits() & bit_of(SIGUSR1)) == 0);
    pending.put_back(*first);
    CHECK((pending.bits() & bit_of(signal)) != 0);
    CHECK(pending.dequeue(bit_of(signal))->si_int == first->si_int);
  }
  CHECK(pending.queued() == 2);
  CHECK(pending.dequeue(~uint64_t{0})->si_int == 2);
}

TEST_CASE("signals: rt_sigaction as the kernel's") {
  SignalFixture guest;
  ProcessSignals& signals = guest.process_signals;
  CHECK(signals.rt_sigaction(guest.task, SIGUSR1, 0, 0, 4) == -EINVAL);
  CHECK(signals.rt_sigaction(guest.task, 0, 0, 0, 8) == -EINVAL);
  CHECK(signals.rt_sigaction(guest.task, 65, 0, 0, 8) == -EINVAL);
  CHECK(signals.rt_sigaction(guest.task, SIGUSR1, 0x10, 0, 8) == -EFAULT);
  CHECK(guest.handle(SIGKILL) == -EINVAL);
  CHECK(guest.handle(SIGSTOP) == -EINVAL);
  CHECK(signals.rt_sigaction(guest.task, SIGKILL, 0, 0, 8) == 0);
  REQUIRE(guest.act(SIGUSR1,
                    {kHandlerAddress, kRestorer | 0x10 | SA_SIGINFO, kRestorerAddress, ~uint64_t{0}}) == 0);
  KernelSigaction old;
  REQUIRE(signals.rt_sigaction(guest.task, SIGUSR1, 0, SignalFixture::kArguments, 8) == 0);
  REQUIRE(guest.memory.read_object(SignalFixture::kArguments, old));
  CHECK(old.handler == kHandlerAddress);
  CHECK(old.restorer == kRestorerAddress);
  CHECK(old.flags == (kRestorer | SA_SIGINFO));  // unknown flags read back as 0
  CHECK(old.mask == ~(bit(SIGKILL) | bit(SIGSTOP)));
  CHECK(signals.rt_sigaction(guest.task, SIGUSR1, 0, 0x10, 8) == -EFAULT);
}

TEST_CASE("signals: rt_sigprocmask as the kernel's") {
  SignalFixture guest;
  guest.mask(SIG_SETMASK, 0);
  CHECK(guest.mask(SIG_BLOCK, bit(SIGUSR1) | bit(SIGKILL) | bit(SIGSTOP)) == 0);
  CHECK(guest.blocked() == bit(SIGUSR1));
  CHECK(guest.mask(SIG_BLOCK, bit(SIGHUP)) == 0);
  CHECK(guest.blocked() == (bit(SIGUSR1) | bit(SIGHUP)));
  CHECK(guest.mask(SIG_UNBLOCK, bit(SIGUSR1)) == 0);
  CHECK(guest.blocked() == bit(SIGHUP));
  CHECK(guest.mask(3, 0) == -EINVAL);
  CHECK(guest.signals.rt_sigprocmask(guest.task, SIG_BLOCK, 0, 0, 16) == -EINVAL);
  CHECK(guest.signals.rt_sigprocmask(guest.task, SIG_BLOCK, 8, 0, 8) == -EFAULT);
  CHECK(guest.signals.rt_sigprocmask(guest.task, 99, 0, SignalFixture::kArguments, 8) ==
        0);  // how without a set
}

TEST_CASE("signals: a host signal is noted, kicks, and is delivered with its siginfo") {
  SignalFixture guest;
  guest.handle(SIGUSR1, SA_SIGINFO);
  CHECK_FALSE(guest.signals.deliverable());
  ::kill(getpid(), SIGUSR1);
  CHECK(guest.signals.deliverable());
  CHECK(guest.vcpu.kicks == 1);
  REQUIRE(guest.deliver().kind == Kind::handler);
  CHECK(guest.info().si_pid == getpid());
  CHECK(guest.info().si_code == SI_USER);
  CHECK_FALSE(guest.signals.deliverable());
  REQUIRE(guest.return_from_handler());
  ::raise(SIGTERM);  // default: the guest dies, not the recorder
  CHECK(guest.deliver().signal == SIGTERM);
}

TEST_CASE("signals: realtime signals of the host keep order and values") {
  SignalFixture guest;
  guest.handle(SIGRTMIN + 3, SA_SIGINFO | SA_NODEFER);
  for (int i = 0; i < 5; ++i) sigqueue(getpid(), SIGRTMIN + 3, sigval{.sival_int = i});
  for (int i = 0; i < 5; ++i) {
    REQUIRE(guest.deliver().kind == Kind::handler);
    CHECK(guest.info().si_value.sival_int == i);
    REQUIRE(guest.return_from_handler());
  }
  CHECK(guest.deliver().kind == Kind::none);
}

TEST_CASE("signals: what the guest blocks stays pending on the host and disturbs nothing") {
  SignalFixture guest;
  guest.handle(SIGUSR1, SA_SIGINFO);
  guest.mask(SIG_SETMASK, bit(SIGUSR1) | bit(SIGUSR2));
  ::kill(getpid(), SIGUSR1);
  guest.raise(SIGUSR2);
  CHECK_FALSE(guest.signals.deliverable());
  CHECK(guest.vcpu.kicks == 0);
  CHECK(guest.pending() == (bit(SIGUSR1) | bit(SIGUSR2)));
  CHECK(guest.deliver().kind == Kind::none);
  guest.mask(SIG_SETMASK, bit(SIGUSR2));
  CHECK(guest.signals.deliverable());
  CHECK(guest.deliver().kind == Kind::handler);
  CHECK(guest.pending() == bit(SIGUSR2));
  CHECK(guest.signals.rt_sigpending(guest.task, SignalFixture::kArguments, 9) == -EINVAL);
  CHECK(guest.signals.rt_sigpending(guest.task, 8, 8) == -EFAULT);
}

TEST_CASE("signals: ignored signals are ignored by the host's kernel") {
  SignalFixture guest;
  guest.act(SIGUSR1, {1, kRestorer, kRestorerAddress, 0});
  CHECK(host_action_of(SIGUSR1).sa_handler == SIG_IGN);
  CHECK(host_action_of(SIGCHLD).sa_handler == SIG_DFL);
  CHECK(host_action_of(SIGTSTP).sa_handler == SIG_DFL);
  ::raise(SIGUSR1);
  ::raise(SIGWINCH);
  guest.raise(SIGCHLD);
  CHECK_FALSE(guest.signals.deliverable());
  CHECK(guest.deliver().kind == Kind::none);
  guest.handle(SIGCHLD, SA_NOCLDSTOP);
  CHECK((host_action_of(SIGCHLD).sa_flags & SA_NOCLDSTOP) != 0);
}

TEST_CASE("signals: kill -SEGV reaches the guest, a fault of the recorder's copies does not") {
  SignalFixture guest;
  guest.handle(SIGSEGV, SA_SIGINFO);
  ::kill(getpid(), SIGSEGV);
  REQUIRE(guest.deliver().kind == Kind::handler);
  CHECK(guest.info().si_code == SI_USER);
  char byte = 0;
  CHECK_FALSE(guarded_copy(&byte, reinterpret_cast<const void*>(kMainWindow.start + 0x70000000), 1));
  guest.mask(SIG_SETMASK, ~uint64_t{0});
  CHECK_FALSE(guarded_copy(&byte, reinterpret_cast<const void*>(kMainWindow.start + 0x70000000), 1));
  CHECK(guest.deliver().kind == Kind::none);
}

TEST_CASE("signals: inherited dispositions and mask are the guest's, and the host's come back") {
  host_action(SIGHUP, SIG_IGN);
  host_action(SIGUSR2, [](int) {});
  sigset_t set, before;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  pthread_sigmask(SIG_SETMASK, &set, &before);
  const auto handler = host_action_of(SIGUSR2).sa_handler;
  {
    SignalFixture guest;
    CHECK(guest.blocked() == bit(SIGUSR1));
    ::raise(SIGHUP);
    CHECK(guest.deliver().kind == Kind::none);
    ::raise(SIGUSR2);  // the recorder's handler is not the guest's
    CHECK(guest.deliver().kind == Kind::terminate);
    guest.mask(SIG_SETMASK, ~uint64_t{0});
    CHECK_THROWS_AS(ProcessSignals(), Error);
  }
  CHECK(host_action_of(SIGHUP).sa_handler == SIG_IGN);
  CHECK(host_action_of(SIGUSR2).sa_handler == handler);
  sigset_t after;
  pthread_sigmask(SIG_SETMASK, &before, &after);
  CHECK(sigismember(&after, SIGUSR1) == 1);
  CHECK(sigismember(&after, SIGTERM) == 0);
  host_action(SIGHUP, SIG_DFL);
  host_action(SIGUSR2, SIG_DFL);
}

TEST_CASE("signals: execve keeps what is ignored, pending and blocked, and forgets handlers") {
  SignalFixture guest;
  guest.handle(SIGUSR1);
  guest.act(SIGUSR2, {1, kRestorer, kRestorerAddress, 0});
  guest.mask(SIG_SETMASK, bit(SIGUSR1));
  guest.raise(SIGUSR1);
  guest.process_signals.reset_for_exec(guest.signals);
  CHECK(guest.blocked() == bit(SIGUSR1));
  CHECK(guest.pending() == bit(SIGUSR1));
  ::raise(SIGUSR2);
  CHECK_FALSE(guest.signals.deliverable());
  guest.mask(SIG_SETMASK, 0);
  CHECK(guest.deliver().kind == Kind::terminate);
}

TEST_CASE("signals: rt_sigsuspend waits under its mask, and the handler returns to the old one") {
  SignalFixture guest;
  guest.handle(SIGALRM);
  guest.mask(SIG_SETMASK, bit(SIGALRM) | bit(SIGHUP));
  itimerval timer{};
  timer.it_value.tv_usec = 20'000;
  setitimer(ITIMER_REAL, &timer, nullptr);
  const uint64_t wanted = bit(SIGUSR1) | bit(SIGKILL);
  guest.answer.write_object(SignalFixture::kArguments, wanted);
  CHECK(guest.signals.rt_sigsuspend(guest.task, SignalFixture::kArguments, 8) == kRestartNoHand);
  REQUIRE(guest.deliver(kRestartNoHand, SYS_rt_sigsuspend).kind == Kind::handler);
  CHECK(guest.blocked() == (bit(SIGUSR1) | bit(SIGALRM)));
  REQUIRE(guest.return_from_handler());
  CHECK(guest.registers.rax == static_cast<uint64_t>(-EINTR));
  CHECK(guest.blocked() == (bit(SIGALRM) | bit(SIGHUP)));
  CHECK(guest.signals.rt_sigsuspend(guest.task, 8, 8) == -EFAULT);
  CHECK(guest.signals.rt_sigsuspend(guest.task, SignalFixture::kArguments, 4) == -EINVAL);
}

TEST_CASE("signals: a mask for one call") {
  SignalFixture guest;
  guest.handle(SIGUSR1);
  guest.mask(SIG_SETMASK, bit(SIGUSR1));
  guest.raise(SIGUSR1);
  guest.signals.set_temporary_mask(bit(SIGUSR2));
  CHECK(guest.signals.deliverable());
  guest.signals.restore_mask();
  CHECK_FALSE(guest.signals.deliverable());
  CHECK(guest.blocked() == bit(SIGUSR1));
  guest.signals.set_temporary_mask(0);
  guest.raise(SIGUSR2);
  REQUIRE(guest.deliver().kind == Kind::handler);  // SIGUSR1; it comes before SIGUSR2, which kills
  REQUIRE(guest.return_from_handler());
  CHECK(guest.blocked() == bit(SIGUSR1));
  guest.signals.set_temporary_mask(bit(SIGUSR2) | bit(SIGHUP));
  CHECK(guest.deliver().kind == Kind::none);  // nothing came: the mask ends with the call
  CHECK(guest.blocked() == bit(SIGUSR1));
}

TEST_CASE("signals: rt_sigtimedwait takes from guest and host, times out, and is interrupted") {
  SignalFixture guest;
  guest.mask(SIG_SETMASK, bit(SIGUSR1) | bit(SIGUSR2));
  const uint64_t set_at = SignalFixture::kArguments, info_at = set_at + 64, time_at = set_at + 256;
  const auto wait = [&](uint64_t set, timespec time) {
    guest.answer.write_object(set_at, set);
    guest.answer.write_object(time_at, time);
    return guest.signals.rt_sigtimedwait(guest.task, set_at, info_at, time_at, 8);
  };
  const auto code = [&] {
    siginfo_t info{};
    guest.memory.read_object(info_at, info);
    return info.si_code;
  };
  guest.raise(SIGUSR1, SI_TKILL);
  CHECK(wait(bit(SIGUSR1), {5, 0}) == SIGUSR1);
  CHECK(code() == SI_TKILL);
  ::kill(getpid(), SIGUSR2);
  CHECK(wait(bit(SIGUSR1) | bit(SIGUSR2), {5, 0}) == SIGUSR2);
  CHECK(code() == SI_USER);
  CHECK(guest.pending() == 0);
  CHECK(wait(bit(SIGUSR1), {0, 1'000'000}) == -EAGAIN);
  CHECK(wait(bit(SIGUSR1), {0, 0}) == -EAGAIN);
  CHECK(wait(bit(SIGUSR1), {0, 1'000'000'000}) == -EINVAL);
  CHECK(wait(bit(SIGUSR1), {-1, 0}) == -EINVAL);
  // Not blocked, yet the wait gets it and not the handler.
  guest.handle(SIGALRM);
  itimerval timer{};
  timer.it_value.tv_usec = 10'000;
  setitimer(ITIMER_REAL, &timer, nullptr);
  CHECK(wait(bit(SIGALRM), {5, 0}) == SIGALRM);
  CHECK_FALSE(guest.signals.deliverable());
  // Another signal ends the wait.
  setitimer(ITIMER_REAL, &timer, nullptr);
  CHECK(wait(bit(SIGUSR1), {5, 0}) == -EINTR);
  CHECK(guest.deliver().kind == Kind::handler);
}

TEST_CASE("signals: stop signals stop the recorder with its guest") {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    SignalFixture guest;
    guest.raise(SIGTSTP);
    const Kind first = guest.deliver().kind;  // stops here
    guest.handle(SIGTSTP);
    guest.raise(SIGTSTP);
    _exit(first == Kind::none && guest.deliver().kind == Kind::handler ? 0 : 1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, WUNTRACED) == child);
  // Without a terminal's session to stop in (an orphaned process group), SIGTSTP does nothing.
  if (WIFSTOPPED(status)) {
    CHECK(WSTOPSIG(status) == SIGTSTP);
    kill(child, SIGCONT);
    REQUIRE(waitpid(child, &status, 0) == child);
  }
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}
