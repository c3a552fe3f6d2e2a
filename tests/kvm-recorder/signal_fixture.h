// A guest process with a stack, a page for arguments of system calls, and handlers by numbers.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include "kvm-recorder/interruptible_syscall.h"
#include "kvm-recorder/system_call.h"
#include "tests/kvm-recorder/process_fixture.h"

namespace aftercheck::test {

constexpr uint64_t kRestorer = 0x04000000;  // SA_RESTORER, uapi/asm/signal.h
constexpr uint64_t kHandlerAddress = kMainWindow.start + 0x1234,
                   kRestorerAddress = kMainWindow.start + 0x5678;

constexpr uint64_t bit(int signal) { return uint64_t{1} << (signal - 1); }

struct SignalFixture : ProcessFixture {
  static constexpr Range kStack{kMainWindow.start + 0x100000, kMainWindow.start + 0x120000};
  static constexpr Range kAlternate{kMainWindow.start + 0x200000, kMainWindow.start + 0x210000};
  static constexpr uint64_t kArguments = kMainWindow.start + 0x300000;

  SignalFixture() {
    for (const Range& range : {kStack, kAlternate, Range{kArguments, kArguments + kPageSize}})
      if (memory.map_anonymous(answer, range, PROT_READ | PROT_WRITE, false) != 0)
        fail(ErrorKind::internal, "map");
    registers.rsp = kStack.end - 0x1008;
    registers.rip = kMainWindow.start + 0x9000;
  }

  long act(int signal, const KernelSigaction& action) {
    answer.write_object(kArguments, action);
    return process_signals.rt_sigaction(task, signal, kArguments, 0, 8);
  }
  long handle(int signal, uint64_t flags = 0, uint64_t mask = 0) {
    return act(signal, {kHandlerAddress, flags | kRestorer, kRestorerAddress, mask});
  }
  long mask(int how, uint64_t set) {
    answer.write_object(kArguments, set);
    return signals.rt_sigprocmask(task, how, kArguments, 0, 8);
  }
  uint64_t blocked() {
    signals.rt_sigprocmask(task, SIG_BLOCK, 0, kArguments, 8);
    uint64_t set = 0;
    memory.read_object(kArguments, set);
    return set;
  }
  uint64_t pending() {
    signals.rt_sigpending(task, kArguments, 8);
    uint64_t set = 0;
    memory.read_object(kArguments, set);
    return set;
  }
  void raise(int signal, int code = SI_USER, int value = 0) {
    siginfo_t info{};
    info.si_signo = signal;
    info.si_code = code;
    info.si_value.sival_int = value;
    signals.raise(signal, info);
  }
  ThreadSignals::Delivery deliver(std::optional<long> result = std::nullopt, uint64_t number = 0) {
    return signals.deliver(task, registers, fpu, result, number);
  }
  // The handler's last instructions: ret to the restorer, which makes the system call.
  bool return_from_handler() {
    registers.rsp += 8;
    return signals.rt_sigreturn(task, registers, fpu);
  }
  // The siginfo that the handler sees.
  siginfo_t info() {
    siginfo_t result{};
    memory.read_object(registers.rsi, result);
    return result;
  }

  Registers registers;
  FpuState fpu = FpuState::initial();
};

using Kind = ThreadSignals::Delivery::Kind;

}  // namespace aftercheck::test
