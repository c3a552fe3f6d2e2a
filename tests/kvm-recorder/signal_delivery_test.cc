// Frames, restarts, faults, order of delivery.
#include <sys/resource.h>
#include <ucontext.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>

#include "tests/kvm-recorder/signal_fixture.h"

using namespace aftercheck;
using namespace aftercheck::test;

namespace {

// A value of its own in every register and most FPU bytes.
void fill(SignalFixture& guest) {
  uint64_t* words = &guest.registers.rax;
  const uint64_t rsp = guest.registers.rsp, rip = guest.registers.rip;
  for (size_t i = 0; i < kRegisterCount; ++i) words[i] = 0x1111'2222'0000'0000 + i;
  guest.registers.rsp = rsp;
  guest.registers.rip = rip;
  guest.registers.rflags = 0x202 | rflags::kCarry | rflags::kDirection | rflags::kOverflow;
  for (size_t i = 32; i < 416; ++i) guest.fpu.fxsave[i] = static_cast<std::byte>(i);
}

}  // namespace

TEST_CASE("delivery: what a handler gets, and that its return restores everything") {
  const uint64_t flags = GENERATE(uint64_t{0}, uint64_t{SA_SIGINFO}, uint64_t{SA_SIGINFO | SA_ONSTACK},
                                  uint64_t{SA_NODEFER | SA_ONSTACK});
  SignalFixture guest;
  guest.answer.write_object(
      SignalFixture::kArguments + 64,
      stack_t{reinterpret_cast<void*>(SignalFixture::kAlternate.start), 0, SignalFixture::kAlternate.size()});
  REQUIRE(guest.signals.sigaltstack(guest.task, guest.registers, SignalFixture::kArguments + 64, 0) == 0);
  REQUIRE(guest.handle(SIGUSR1, flags, bit(SIGHUP)) == 0);
  REQUIRE(guest.mask(SIG_SETMASK, bit(SIGALRM)) == 0);
  fill(guest);
  const Registers before = guest.registers;
  const FpuState fpu_before = guest.fpu;
  guest.raise(SIGUSR1, SI_QUEUE, 4711);

  const ThreadSignals::Delivery delivery = guest.deliver();
  REQUIRE(delivery.kind == Kind::handler);
  CHECK(delivery.signal == SIGUSR1);
  CHECK(delivery.reset_fpu);
  const Registers& now = guest.registers;
  CHECK(now.rip == kHandlerAddress);
  CHECK(now.rdi == SIGUSR1);
  CHECK(now.rax == 0);
  CHECK(now.rsp % 16 == 8);  // as after a call
  CHECK((now.rflags & (rflags::kDirection | rflags::kTrap | rflags::kResume)) == 0);
  CHECK((now.rflags & rflags::kCarry) != 0);
  CHECK(now.fs_base == before.fs_base);
  if ((flags & SA_ONSTACK) != 0)
    CHECK(SignalFixture::kAlternate.contains(now.rsp));
  else
    CHECK(now.rsp + 440 + 512 <= before.rsp - 128);  // the red zone is spared
  uint64_t return_address = 0;
  REQUIRE(guest.memory.read_object(now.rsp, return_address));
  CHECK(return_address == kRestorerAddress);

  // The libc's view of what the handler gets.
  ucontext_t context;
  REQUIRE(guest.memory.read(now.rdx, &context, 304));
  CHECK(context.uc_mcontext.gregs[REG_RIP] == static_cast<greg_t>(before.rip));
  CHECK(context.uc_mcontext.gregs[REG_R15] == static_cast<greg_t>(before.r15));
  CHECK(context.uc_mcontext.gregs[REG_RBX] == static_cast<greg_t>(before.rbx));
  CHECK(context.uc_mcontext.gregs[REG_RSP] == static_cast<greg_t>(before.rsp));
  CHECK(context.uc_mcontext.gregs[REG_EFL] == static_cast<greg_t>(before.rflags));
  CHECK((static_cast<uint64_t>(context.uc_mcontext.gregs[REG_CSGSFS]) & 0xffff) == 0x33);
  CHECK(sigismember(&context.uc_sigmask, SIGALRM) == 1);
  CHECK(sigismember(&context.uc_sigmask, SIGUSR1) == 0);
  CHECK(context.uc_flags == 6);
  CHECK(context.uc_stack.ss_size == SignalFixture::kAlternate.size());
  const auto fpstate = reinterpret_cast<uint64_t>(context.uc_mcontext.fpregs);
  CHECK(fpstate % 64 == 0);
  FpuState saved;
  REQUIRE(guest.memory.read(fpstate, saved.fxsave.data(), saved.fxsave.size()));
  CHECK(std::equal(saved.fxsave.begin(), saved.fxsave.begin() + 416, fpu_before.fxsave.begin()));
  if ((flags & SA_SIGINFO) != 0) {
    CHECK(guest.info().si_signo == SIGUSR1);
    CHECK(guest.info().si_code == SI_QUEUE);
    CHECK(guest.info().si_value.sival_int == 4711);
  }
  CHECK(guest.blocked() == (bit(SIGALRM) | bit(SIGHUP) | ((flags & SA_NODEFER) != 0 ? 0 : bit(SIGUSR1))));

  const uint64_t frame = guest.registers.rsp;
  guest.registers = Registers{};  // the handler uses them all
  guest.registers.rsp = frame;
  guest.registers.fs_base = before.fs_base;
  guest.registers.gs_base = before.gs_base;
  guest.fpu = FpuState::initial();
  REQUIRE(guest.return_from_handler());
  CHECK(guest.registers == before);
  CHECK(std::equal(guest.fpu.fxsave.begin(), guest.fpu.fxsave.begin() + 416, fpu_before.fxsave.begin()));
  CHECK(guest.blocked() == bit(SIGALRM));
  CHECK(guest.deliver().kind == Kind::none);
}

TEST_CASE("delivery: rt_sigreturn takes no flag or MXCSR bit that a user may not set") {
  SignalFixture guest;
  guest.handle(SIGUSR1, SA_SIGINFO);
  guest.raise(SIGUSR1);
  REQUIRE(guest.deliver().kind == Kind::handler);
  ucontext_t context;
  REQUIRE(guest.memory.read(guest.registers.rdx, &context, 304));
  context.uc_mcontext.gregs[REG_EFL] = -1;
  sigfillset(&context.uc_sigmask);
  const auto fpstate = reinterpret_cast<uint64_t>(context.uc_mcontext.fpregs);
  REQUIRE(guest.answer.write(guest.registers.rdx, &context, 304));
  REQUIRE(guest.answer.write_object(fpstate + 24, uint32_t{0xffff'ffff}));
  REQUIRE(guest.return_from_handler());
  CHECK(guest.registers.rflags == (0x202 | rflags::kStatus | rflags::kDirection | rflags::kTrap |
                                   rflags::kResume | rflags::kAlignmentCheck));
  uint32_t mxcsr = 0;
  std::memcpy(&mxcsr, &guest.fpu.fxsave[24], sizeof mxcsr);
  CHECK(mxcsr == 0xffff);
  CHECK((guest.blocked() & (bit(SIGKILL) | bit(SIGSTOP))) == 0);
}

TEST_CASE("delivery: interrupted system calls restart as the kernel has it") {
  constexpr long kOther = -1;
  const struct {
    long result;
    bool handler;
    uint64_t flags;
    bool restarts, changes;
  } cases[] = {
      {kRestartSys, true, 0, false, true},
      {kRestartSys, true, SA_RESTART, true, true},
      {kRestartSys, false, 0, true, true},
      {kRestartNoHand, true, 0, false, true},
      {kRestartNoHand, true, SA_RESTART, false, true},
      {kRestartNoHand, false, 0, true, true},
      {-EINTR, true, SA_RESTART, false, false},
      {kOther, false, 0, false, false},
  };
  for (const auto& entry : cases) {
    SignalFixture guest;
    guest.registers.rax = 99;
    const uint64_t rip = guest.registers.rip;
    if (entry.handler) {
      guest.handle(SIGUSR1, entry.flags);
      guest.raise(SIGUSR1);
    }
    const ThreadSignals::Delivery delivery = guest.deliver(entry.result, SYS_read);
    CHECK((delivery.kind == Kind::handler) == entry.handler);
    if (entry.handler) REQUIRE(guest.return_from_handler());
    CHECK(guest.registers.rip == (entry.restarts ? rip - 2 : rip));
    const uint64_t expected = entry.restarts ? SYS_read : entry.changes ? static_cast<uint64_t>(-EINTR) : 99;
    CHECK(guest.registers.rax == expected);
  }
}

TEST_CASE("delivery: an ignored signal restarts the call, a fatal one ends the guest") {
  SignalFixture guest;
  guest.registers.rax = 99;
  const uint64_t rip = guest.registers.rip;
  guest.mask(SIG_SETMASK, bit(SIGUSR2));
  guest.raise(SIGUSR2);
  guest.act(SIGUSR2, {1, kRestorer, kRestorerAddress, 0});  // SIG_IGN discards the pending one
  guest.mask(SIG_SETMASK, 0);
  CHECK(guest.deliver(kRestartNoHand, SYS_poll).kind == Kind::none);
  CHECK(guest.registers.rip == rip - 2);
  CHECK(guest.registers.rax == SYS_poll);
  guest.raise(SIGTERM);
  const ThreadSignals::Delivery death = guest.deliver();
  CHECK(death.kind == Kind::terminate);
  CHECK(death.signal == SIGTERM);
  CHECK_FALSE(death.core);
  guest.raise(SIGABRT);
  CHECK(guest.deliver().core);
}

TEST_CASE("delivery: synchronous first, then by number, realtime in order and all of them") {
  SignalFixture guest;
  for (const int signal : {SIGUSR1, SIGTERM, SIGHUP, SIGILL, 40, 41})
    guest.handle(signal, SA_SIGINFO | SA_NODEFER);
  guest.raise(41, SI_QUEUE, 1);
  guest.raise(40, SI_QUEUE, 1);
  guest.raise(40, SI_QUEUE, 2);
  guest.raise(SIGTERM, SI_QUEUE, 7);
  guest.raise(SIGTERM, SI_QUEUE, 8);  // standard signals don't queue: the first one counts
  guest.raise(SIGUSR1);
  guest.raise(SIGILL);
  guest.raise(SIGHUP);
  Exit exit;
  exit.kind = ExitKind::memory_fault;
  exit.address = 0x1234;
  guest.handle(SIGSEGV, SA_SIGINFO | SA_NODEFER);
  guest.signals.raise_fault(exit, guest.registers, guest.space);
  std::vector<std::pair<int, int>> order;
  while (guest.deliver().kind == Kind::handler)
    order.emplace_back(static_cast<int>(guest.registers.rdi), guest.info().si_value.sival_int);
  const std::vector<std::pair<int, int>> expected{{SIGSEGV, order[0].second},
                                                  {SIGILL, 0},
                                                  {SIGHUP, 0},
                                                  {SIGUSR1, 0},
                                                  {SIGTERM, 7},
                                                  {40, 1},
                                                  {40, 2},
                                                  {41, 1}};
  CHECK(order == expected);
  for (size_t i = 0; i < order.size(); ++i) REQUIRE(guest.return_from_handler());
  CHECK(guest.registers.rip == kMainWindow.start + 0x9000);
}

TEST_CASE("delivery: as many realtime signals wait as RLIMIT_SIGPENDING allows") {
  SignalFixture guest;
  guest.mask(SIG_SETMASK, bit(50));
  rlimit old{};
  REQUIRE(getrlimit(RLIMIT_SIGPENDING, &old) == 0);
  const rlim_t most = std::min<rlim_t>(old.rlim_max, 3000);
  const rlimit limit{most, old.rlim_max};
  REQUIRE(setrlimit(RLIMIT_SIGPENDING, &limit) == 0);
  siginfo_t info{};
  info.si_code = SI_QUEUE;
  for (rlim_t i = 0; i < most; ++i) {
    info.si_value.sival_int = static_cast<int>(i);
    REQUIRE(guest.signals.raise(50, info) == 0);
  }
  CHECK(guest.signals.raise(50, info) == -EAGAIN);
  CHECK(guest.signals.raise(SIGUSR1, info) == 0);  // standard ones wait once each
  setrlimit(RLIMIT_SIGPENDING, &old);
  guest.handle(50, SA_SIGINFO | SA_NODEFER);
  guest.mask(SIG_SETMASK, bit(SIGUSR1));
  int count = 0;
  while (guest.deliver().kind == Kind::handler) {
    CHECK(guest.info().si_value.sival_int == count);
    ++count;
    guest.return_from_handler();
  }
  CHECK(count == static_cast<int>(most));
}

TEST_CASE("delivery: SA_RESETHAND gives the default back, a missing SA_RESTORER is SIGSEGV") {
  SignalFixture guest;
  guest.handle(SIGUSR1, uint64_t{SA_RESETHAND});
  guest.raise(SIGUSR1);
  CHECK(guest.deliver().kind == Kind::handler);
  REQUIRE(guest.return_from_handler());
  guest.raise(SIGUSR1);
  CHECK(guest.deliver().kind == Kind::terminate);

  guest.act(SIGUSR2, {kHandlerAddress, 0, 0, 0});
  guest.raise(SIGUSR2);
  const ThreadSignals::Delivery delivery = guest.deliver();
  CHECK(delivery.kind == Kind::terminate);
  CHECK(delivery.signal == SIGSEGV);
}

TEST_CASE(
    "delivery: a stack that can't take the frame is a SIGSEGV, on the alternate stack if there is one") {
  SignalFixture guest;
  guest.handle(SIGUSR1);
  guest.registers.rsp = 0x1000;
  guest.raise(SIGUSR1);
  CHECK(guest.deliver().signal == SIGSEGV);

  const stack_t alternate{reinterpret_cast<void*>(SignalFixture::kAlternate.start), 0, 4096};
  guest.registers.rsp = SignalFixture::kStack.end - 64;
  guest.answer.write_object(SignalFixture::kArguments, alternate);
  REQUIRE(guest.signals.sigaltstack(guest.task, guest.registers, SignalFixture::kArguments, 0) == 0);
  guest.handle(SIGSEGV, SA_ONSTACK | SA_SIGINFO);
  guest.registers.rsp = 0x1000;
  guest.raise(SIGUSR1);
  REQUIRE(guest.deliver().kind == Kind::handler);
  CHECK(guest.registers.rdi == SIGSEGV);
  CHECK(SignalFixture::kAlternate.contains(guest.registers.rsp));
  CHECK(guest.info().si_code == SI_KERNEL);

  // Overflow of the alternate stack itself: the SIGSEGV can't be delivered either.
  guest.mask(SIG_SETMASK, 0);
  guest.registers.rsp = SignalFixture::kAlternate.start + 700;
  guest.raise(SIGUSR1);
  CHECK(guest.deliver().kind == Kind::terminate);
}

TEST_CASE("delivery: the alternate stack by the rules") {
  SignalFixture guest;
  const auto set = [&](uint64_t start, int flags, uint64_t size) {
    guest.answer.write_object(SignalFixture::kArguments,
                              stack_t{reinterpret_cast<void*>(start), flags, size});
    return guest.signals.sigaltstack(guest.task, guest.registers, SignalFixture::kArguments, 0);
  };
  const auto flags = [&] {
    REQUIRE(guest.signals.sigaltstack(guest.task, guest.registers, 0, SignalFixture::kArguments) == 0);
    stack_t now{};
    guest.memory.read_object(SignalFixture::kArguments, now);
    return now.ss_flags;
  };
  constexpr int kAutodisarm = 1 << 31;
  CHECK(flags() == SS_DISABLE);
  CHECK(set(SignalFixture::kAlternate.start, 0, 2047) == -ENOMEM);
  CHECK(set(SignalFixture::kAlternate.start, 8, 8192) == -EINVAL);
  CHECK(guest.signals.sigaltstack(guest.task, guest.registers, 8, 0) == -EFAULT);
  REQUIRE(set(SignalFixture::kAlternate.start, 0, 8192) == 0);
  CHECK(flags() == 0);
  guest.registers.rsp = SignalFixture::kAlternate.start + 100;
  CHECK(flags() == SS_ONSTACK);
  CHECK(set(SignalFixture::kAlternate.start, SS_DISABLE, 0) == -EPERM);
  guest.registers.rsp = SignalFixture::kStack.end - 64;
  REQUIRE(set(SignalFixture::kAlternate.start, kAutodisarm, 8192) == 0);
  guest.handle(SIGUSR1, SA_ONSTACK);
  guest.raise(SIGUSR1);
  REQUIRE(guest.deliver().kind == Kind::handler);
  CHECK(flags() == SS_DISABLE);  // disarmed while the handler runs
  REQUIRE(guest.return_from_handler());
  CHECK(flags() == kAutodisarm);
}

TEST_CASE("delivery: faults become the kernel's signals") {
  SignalFixture guest;
  const Range readable{kMainWindow.start + 0x400000, kMainWindow.start + 0x401000};
  REQUIRE(guest.memory.map_anonymous(guest.answer, readable, PROT_READ, false) == 0);
  const uint64_t rip = guest.registers.rip;
  const auto fault = [](uint64_t address, Access access) {
    Exit exit;
    exit.kind = ExitKind::memory_fault;
    exit.address = address;
    exit.access = access;
    return exit;
  };
  const auto exception = [](uint8_t number) {
    Exit exit;
    exit.kind = ExitKind::exception;
    exit.vector = number;
    return exit;
  };
  Exit breakpoint;
  breakpoint.kind = ExitKind::breakpoint;
  const struct {
    Exit exit;
    int signal, code;
    uint64_t address;
    uint64_t trap, error;
  } cases[] = {
      {fault(0, Access::read), SIGSEGV, SEGV_MAPERR, 0, 14, 4},
      {fault(readable.start + 8, Access::write), SIGSEGV, SEGV_ACCERR, readable.start + 8, 14, 7},
      {fault(readable.start, Access::fetch), SIGSEGV, SEGV_ACCERR, readable.start, 14, 0x15},
      {fault(readable.start, Access::read), SIGBUS, BUS_ADRERR, readable.start, 14, 4},
      {exception(vector::kDivideError), SIGFPE, FPE_INTDIV, rip, 0, 0},
      {exception(vector::kInvalidOpcode), SIGILL, ILL_ILLOPN, rip, 6, 0},
      {exception(vector::kGeneralProtection), SIGSEGV, SI_KERNEL, 0, 13, 0},
      {exception(vector::kAlignmentCheck), SIGBUS, BUS_ADRALN, 0, 17, 0},
      {breakpoint, SIGTRAP, SI_KERNEL, 0, 3, 0},
  };
  for (const auto& entry : cases) {
    INFO(describe(entry.exit));
    guest.handle(entry.signal, SA_SIGINFO);
    guest.signals.raise_fault(entry.exit, guest.registers, guest.space);
    CHECK(guest.signals.deliverable());
    REQUIRE(guest.deliver().kind == Kind::handler);
    CHECK(guest.registers.rdi == static_cast<uint64_t>(entry.signal));
    CHECK(guest.info().si_code == entry.code);
    CHECK(reinterpret_cast<uint64_t>(guest.info().si_addr) == entry.address);
    ucontext_t context;
    REQUIRE(guest.memory.read(guest.registers.rdx, &context, 304));
    CHECK(context.uc_mcontext.gregs[REG_TRAPNO] == static_cast<greg_t>(entry.trap));
    CHECK(context.uc_mcontext.gregs[REG_ERR] == static_cast<greg_t>(entry.error));
    REQUIRE(guest.return_from_handler());
    CHECK(guest.registers.rip == rip);
  }
}

TEST_CASE("delivery: a floating-point fault names its cause") {
  const struct {
    uint8_t number;
    uint32_t mxcsr;
    uint16_t control, status;
    int code;
  } cases[] = {
      {vector::kSimdError, (0x1f80 & ~0x200u) | 0x04, 0x37f, 0, FPE_FLTDIV},
      {vector::kSimdError, (0x1f80 & ~0x80u) | 0x01, 0x37f, 0, FPE_FLTINV},
      {vector::kSimdError, 0x0000 | 0x20, 0x37f, 0, FPE_FLTRES},
      {vector::kX87Error, 0x1f80, 0x37b, 0x04, FPE_FLTDIV},
      {vector::kX87Error, 0x1f80, 0x377, 0x08, FPE_FLTOVF},
      {vector::kX87Error, 0x1f80, 0x36f, 0x10, FPE_FLTUND},
  };
  for (const auto& entry : cases) {
    SignalFixture guest;
    guest.handle(SIGFPE, SA_SIGINFO);
    std::memcpy(&guest.fpu.fxsave[0], &entry.control, 2);
    std::memcpy(&guest.fpu.fxsave[2], &entry.status, 2);
    std::memcpy(&guest.fpu.fxsave[24], &entry.mxcsr, 4);
    Exit exit;
    exit.kind = ExitKind::exception;
    exit.vector = entry.number;
    guest.signals.raise_fault(exit, guest.registers, guest.space);
    REQUIRE(guest.deliver().kind == Kind::handler);
    CHECK(guest.info().si_code == entry.code);
  }
}

TEST_CASE("delivery: a fault whose signal is blocked or ignored kills") {
  SignalFixture guest;
  Exit exit;
  exit.kind = ExitKind::memory_fault;
  SECTION("blocked") {
    guest.handle(SIGSEGV);
    guest.mask(SIG_SETMASK, bit(SIGSEGV));
  }
  SECTION("ignored") { guest.act(SIGSEGV, {1, kRestorer, kRestorerAddress, 0}); }
  guest.signals.raise_fault(exit, guest.registers, guest.space);
  const ThreadSignals::Delivery delivery = guest.deliver();
  CHECK(delivery.kind == Kind::terminate);
  CHECK(delivery.signal == SIGSEGV);
  CHECK(delivery.core);
}

TEST_CASE("delivery: a frame that rt_sigreturn can't read is a SIGSEGV that nothing holds off") {
  SignalFixture guest;
  guest.handle(SIGSEGV);
  guest.mask(SIG_SETMASK, bit(SIGSEGV));
  guest.registers.rsp = 0x5000;
  CHECK_FALSE(guest.signals.rt_sigreturn(guest.task, guest.registers, guest.fpu));
  const ThreadSignals::Delivery delivery = guest.deliver();
  CHECK(delivery.kind == Kind::terminate);
  CHECK(delivery.signal == SIGSEGV);
}
