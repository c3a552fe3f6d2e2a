#include "tools/duration.h"

#include <array>
#include <charconv>
#include <string_view>

#include "base/error.h"

namespace aftercheck::tools {

uint64_t parse_duration(const std::string& option, const std::string& text) {
  struct Unit {
    std::string_view name;
    double nanoseconds;
  };
  constexpr std::array<Unit, 6> kUnits = {
      {{"", 1e9}, {"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"m", 60e9}, {"h", 3600e9}}};
  constexpr double kMost = 1e18;  // some thirty years
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  for (const Unit& known : kUnits)
    if (error == std::errc() && unit == known.name && value >= 0 && value * known.nanoseconds <= kMost)
      return static_cast<uint64_t>(value * known.nanoseconds);
  fail(ErrorKind::usage, "{} {}: say a length of time like 2s, 500ms, 1.5s or 3m", option, text);
}

}  // namespace aftercheck::tools
