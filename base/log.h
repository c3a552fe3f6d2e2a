// A log for those who work on Aftercheck: AFTERCHECK_LOG=kvm,signals has it on standard error, a line each
// with seconds since the start and the topic. It is no part of what the command tells its users
// (tools/console.h), and off it costs a branch.
//
//   AFTERCHECK_LOG_TO(LogTopic::kvm, "slot {} at {:#x}", slot.number, slot.start);
#pragma once

#include <fmt/format.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <string_view>

// One line to the log, where its topic is on; else the arguments are not evaluated. `...` is fmt's format and
// its arguments; line ends in the text become spaces. Never throws, leaves errno, disturbs no guest. Any
// thread; not from signal handlers.
#define AFTERCHECK_LOG_TO(topic, ...)                                                  \
  do {                                                                                 \
    if (::aftercheck::log_is_on(topic)) [[unlikely]]                                   \
      ::aftercheck::detail::log_line(topic, [&] { return fmt::format(__VA_ARGS__); }); \
  } while (false)

namespace aftercheck {

enum class LogTopic : uint8_t { record, replay, machine, kvm, soft, checks, checkpoint, signals, pt, calls };

// What AFTERCHECK_LOG calls them, in the order of LogTopic; docs/manual.md, ENVIRONMENT, says what each has.
inline constexpr std::array<std::string_view, 10> kLogTopics = {
    "record", "replay", "machine", "kvm", "soft", "checks", "checkpoint", "signals", "pt", "calls"};

namespace detail {
inline constinit std::atomic<uint32_t> log_mask = 0;  // bit N: topic N is on

void write_log_line(LogTopic topic, std::string_view text) noexcept;

template <typename Format>
[[gnu::cold, gnu::noinline]] void log_line(LogTopic topic, Format format) noexcept {
  try {
    write_log_line(topic, format());
  } catch (const std::exception& error) {
    write_log_line(topic, error.what());
  }
}
}  // namespace detail

inline bool log_is_on(LogTopic topic) {
  return (detail::log_mask.load(std::memory_order_relaxed) >> static_cast<unsigned>(topic) & 1) != 0;
}

// Turns the topics in `list` on: names from kLogTopics or "all", separated by commas; all others go off. A
// name that is none is said in the log. Call keep_standard_error() first where a guest will run in this
// process.
void start_log(std::string_view list) noexcept;

}  // namespace aftercheck
