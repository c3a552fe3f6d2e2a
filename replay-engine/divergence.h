// The error that says: the replay left the recording.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"

namespace aftercheck {

// what() is the whole report: event number, what was expected, what came.
class Divergence : public Error {
 public:
  Divergence(uint64_t event, const std::string& expected, const std::string& actual,
             const std::string& detail)
      : Error(ErrorKind::divergence,
              fmt::format("the replay diverges at event {}\n  expected: {}\n  came:     {}\n  {}", event,
                          expected, actual, detail)),
        event_(event),
        expected_(expected),
        actual_(actual),
        detail_(detail) {}
  uint64_t event() const { return event_; }
  const std::string& expected() const { return expected_; }
  const std::string& actual() const { return actual_; }
  const std::string& detail() const { return detail_; }

 private:
  uint64_t event_;
  std::string expected_, actual_, detail_;
};

}  // namespace aftercheck
