#include "tools/event_text.h"

#include <fmt/format.h>

#include <csignal>
#include <cstring>

#include "base/error.h"
#include "machine/exit.h"
#include "machine/registers.h"
#include "system-calls/system_call_names.h"

namespace aftercheck::tools {
namespace {

using recording::Event;
using recording::EventKind;
using recording::SpaceOpKind;

constexpr uint8_t kRax = register_number(&Registers::rax);
// Results from here on are negative errno values (MAX_ERRNO of the kernel, include/linux/err.h).
constexpr uint64_t kFirstError = static_cast<uint64_t>(-4095);

uint64_t operand(const Event& event, size_t index) {
  return index < event.operands.size() ? event.operands[index] : 0;
}

// Numbers up to this size read best in decimal: lengths, flags, small negative ones. Addresses do not.
std::string number(uint64_t value) {
  constexpr int64_t kDecimal = 1 << 24;
  const auto as_signed = static_cast<int64_t>(value);
  if (as_signed > -kDecimal && as_signed < kDecimal) return fmt::format("{}", as_signed);
  return fmt::format("{:#x}", value);
}

std::string argument(char kind, uint64_t value) {
  constexpr int kAtFdcwd = -100;  // linux/fcntl.h
  if (kind == 'f') {
    const int fd = static_cast<int>(value);
    return fd == kAtFdcwd ? "AT_FDCWD" : std::to_string(fd);
  }
  if (kind == 'v') return number(value);
  return value == 0 ? "NULL" : fmt::format("{:#x}", value);
}

std::string describe_call(const Event& event) {
  const uint64_t call = operand(event, 0);
  const SystemCallEntry* entry = find_system_call_entry(call);
  std::string text = system_call_name(call) + "(";
  for (unsigned i = 0; i < argument_count(call); ++i) {
    if (i > 0) text += ", ";
    const uint64_t value = operand(event, i + 1);
    text += entry != nullptr ? argument(entry->arguments[i], value) : number(value);
  }
  return text + ")";
}

}  // namespace

const char* name(EventKind kind) {
  static constexpr const char* kNames[] = {"start",        "syscall",           "trapped instruction",
                                           "exception",    "memory fault",      "continuation",
                                           "end",          "asynchronous stop", "answer",
                                           "thread start", "thread end",        "preempted",
                                           "turn"};
  const auto index = static_cast<size_t>(kind);
  return index < std::size(kNames) ? kNames[index] : "unknown";
}

const char* name(SpaceOpKind kind) {
  static constexpr const char* kNames[] = {"map",     "map file", "unmap",       "protect",  "remap",
                                           "discard", "clear",    "resize file", "fill file"};
  const auto index = static_cast<size_t>(kind);
  return index < std::size(kNames) ? kNames[index] : "unknown";
}

std::string signal_name(uint64_t signal) {
  const char* abbreviation =
      signal < static_cast<uint64_t>(NSIG) ? sigabbrev_np(static_cast<int>(signal)) : nullptr;
  return abbreviation == nullptr ? fmt::format("signal {}", signal) : std::string("SIG") + abbreviation;
}

std::string describe_end(const Event& event) {
  if (event.operands.size() == 2) switch (static_cast<recording::EndReason>(event.operands[0])) {
      case recording::EndReason::exited:
        return fmt::format("exited with status {}", event.operands[1]);
      case recording::EndReason::killed_by_signal:
        return fmt::format("killed by {}", signal_name(event.operands[1]));
      case recording::EndReason::recording_stopped:
        return fmt::format("stopped by the recorder: {} can't be recorded",
                           system_call_name(event.operands[1]));
    }
  return "malformed end";
}

std::string describe(const Event& event) {
  switch (event.kind) {
    case EventKind::start:
      return "start";
    case EventKind::syscall:
      return describe_call(event);
    case EventKind::trapped_instruction:
      return operand(event, 0) <= static_cast<uint64_t>(kLastTrappedKind)
                 ? aftercheck::name(static_cast<TrappedKind>(operand(event, 0)))
                 : "unknown instruction";
    case EventKind::exception:
      return aftercheck::describe(Exit{.kind = ExitKind::exception,
                                       .vector = static_cast<uint8_t>(operand(event, 0)),
                                       .error_code = static_cast<uint32_t>(operand(event, 1))});
    case EventKind::memory_fault:
      if (operand(event, 1) > static_cast<uint64_t>(Access::fetch)) return "memory fault";
      return aftercheck::describe(Exit{.kind = ExitKind::memory_fault,
                                       .address = operand(event, 0),
                                       .access = static_cast<Access>(operand(event, 1))});
    case EventKind::continuation:
      return "more of the answer";
    case EventKind::end:
      return describe_end(event);
    case EventKind::asynchronous:
      return fmt::format("stopped at {:#x}{}", event.rip,
                         event.branches ? fmt::format(" after {} branches", *event.branches) : "");
    case EventKind::answer:
      return "more of the answer to the last exit of this thread";
    case EventKind::thread_start:
      return fmt::format("starts: made by thread {}, to the system it is {}", operand(event, 0),
                         operand(event, 1));
    case EventKind::thread_end:
      if (const uint64_t status = operand(event, 0); status < recording::kThreadKilled)
        return fmt::format("ends with status {}", status);
      return fmt::format("ended alone by signal {}", operand(event, 0) - recording::kThreadKilled);
    case EventKind::preempted:
      return fmt::format("stopped at {:#x} after {} branches, for another thread to run", operand(event, 0),
                         operand(event, 1));
    case EventKind::turn:
      return operand(event, 0) == 0
                 ? "shares no memory with other processes any more"
                 : fmt::format("turn {} of the processes that share memory", operand(event, 0));
  }
  return "unknown event";
}

std::string describe_result(const Event& event) {
  const std::string call = system_call_name(operand(event, 0));
  if (call == "exit" || call == "exit_group") return "?";
  // RAX held the call's number, so a result that equals it is no change.
  return describe_result(rax_in(event).value_or(operand(event, 0)));
}

std::optional<uint64_t> rax_in(const Event& event) {
  for (const recording::RegisterChange& change : event.registers)
    if (change.number == kRax) return change.value;
  return std::nullopt;
}

std::string describe_result(uint64_t result) {
  if (result < kFirstError) return number(result);
  const int error = static_cast<int>(-static_cast<int64_t>(result));
  const char* symbol = strerrorname_np(error);
  // Errors that only the kernel knows restart the call and never reach the program.
  if (symbol == nullptr) return fmt::format("? (error {})", error);
  return fmt::format("-1 {} ({})", symbol, strerrordesc_np(error));
}

}  // namespace aftercheck::tools
