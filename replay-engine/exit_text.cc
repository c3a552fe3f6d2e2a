#include "replay-engine/exit_text.h"

#include <fmt/format.h>

namespace aftercheck {

using recording::EventKind;

EventKind kind_of(const Exit& exit) {
  switch (exit.kind) {
    case ExitKind::syscall:
      return EventKind::syscall;
    case ExitKind::trapped_instruction:
      return EventKind::trapped_instruction;
    case ExitKind::memory_fault:
      return EventKind::memory_fault;
    default:
      return EventKind::exception;
  }
}

std::vector<uint64_t> operands_of(const Exit& exit, const Registers& r) {
  switch (exit.kind) {
    case ExitKind::syscall:
      return {r.rax, r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9};
    case ExitKind::trapped_instruction:
      return {static_cast<uint64_t>(exit.instruction.kind), r.rax, r.rcx};
    case ExitKind::memory_fault:
      return {exit.address, static_cast<uint64_t>(exit.access)};
    case ExitKind::breakpoint:
      return {vector::kBreakpoint, 0};
    default:
      return {exit.vector, exit.error_code};
  }
}

std::string describe_exit(EventKind kind, uint64_t rip, const std::vector<uint64_t>& operands,
                          const SystemCallName& system_call_name) {
  auto operand = [&](size_t index) { return index < operands.size() ? operands[index] : 0; };
  std::string what;
  switch (kind) {
    case EventKind::syscall:
      what = system_call_name ? system_call_name(operand(0)) : fmt::format("system call {}", operand(0));
      what += "(";
      for (size_t i = 1; i < operands.size(); ++i)
        what += fmt::format("{}{:#x}", i > 1 ? ", " : "", operands[i]);
      what += ")";
      break;
    case EventKind::trapped_instruction:
      what = operand(0) <= static_cast<uint64_t>(kLastTrappedKind)
                 ? std::string("instruction ") + name(static_cast<TrappedKind>(operand(0)))
                 : "unknown trapped instruction";
      break;
    case EventKind::exception:
      what = describe(Exit{.kind = ExitKind::exception,
                           .vector = static_cast<uint8_t>(operand(0)),
                           .error_code = static_cast<uint32_t>(operand(1))});
      break;
    case EventKind::memory_fault:
      what = operand(1) > 2 ? "memory fault"
                            : describe(Exit{.kind = ExitKind::memory_fault,
                                            .address = operand(0),
                                            .access = static_cast<Access>(operand(1))});
      break;
    case EventKind::asynchronous:
      what = "a signal between two exits";
      break;
    case EventKind::preempted:
      return fmt::format("a stop between two exits, for another thread to run, after {} branches at {:#x}",
                         operand(1), operand(0));
    default:
      what = "no exit";
  }
  return fmt::format("{} at {:#x}", what, rip);
}

}  // namespace aftercheck
