// Results on standard output.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace aftercheck::tools {

using Json = nlohmann::ordered_json;

// Text from a program or a recording without control characters, which could play with a terminal.
std::string printable(const std::string& text);

// Standard output, buffered. Throws Error(io) when it can't be written (a full disk); a reader that went away
// ends the process with SIGPIPE as with any filter.
class Output {
 public:
  Output() = default;
  ~Output();  // flushes what is left, errors ignored: call flush() to hear of them
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  void text(std::string_view text);
  void line(std::string_view text);
  // One object, over several lines.
  void json(const Json& value);
  // One object on one line.
  void json_line(const Json& value);
  void flush();

 private:
  std::string buffer_;
};

}  // namespace aftercheck::tools
