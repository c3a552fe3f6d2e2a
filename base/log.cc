#include "base/log.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "base/own_words.h"

namespace aftercheck {
namespace {

using Clock = std::chrono::steady_clock;
Clock::time_point started = Clock::now();

// A pipe takes this much in one piece (PIPE_BUF, pipe(7)): longer lines could mix with those of other
// processes.
constexpr size_t kLongest = 4096;

uint32_t bit_of(std::string_view name) {
  if (name == "all") return (uint32_t{1} << kLogTopics.size()) - 1;
  const auto found = std::find(kLogTopics.begin(), kLogTopics.end(), name);
  return found == kLogTopics.end() ? 0 : uint32_t{1} << (found - kLogTopics.begin());
}

void say(std::string_view topic, std::string_view text) {
  const std::chrono::duration<double> since = Clock::now() - started;
  std::string line = fmt::format("aftercheck {:.6f} {}: {}", since.count(), topic, text);
  line.resize(std::min(line.size(), kLongest - 1));
  std::replace(line.begin(), line.end(), '\n', ' ');
  line += '\n';
  say_on_standard_error(line);
}

}  // namespace

void detail::write_log_line(LogTopic topic, std::string_view text) noexcept {
  try {
    say(kLogTopics[static_cast<size_t>(topic)], text);
  } catch (const std::exception&) {  // no memory for a line: it is lost
  }
}

void start_log(std::string_view list) noexcept {
  started = Clock::now();
  uint32_t mask = 0;
  while (!list.empty()) {
    const std::string_view name = list.substr(0, list.find(','));
    list.remove_prefix(std::min(name.size() + 1, list.size()));
    const uint32_t bits = bit_of(name);
    mask |= bits;
    if (bits != 0 || name.empty()) continue;
    try {
      say("log", fmt::format("AFTERCHECK_LOG: no topic \"{}\"; topics are all, {}", name,
                             fmt::join(kLogTopics, ", ")));
    } catch (const std::exception&) {  // as above
    }
  }
  detail::log_mask = mask;
}

}  // namespace aftercheck
