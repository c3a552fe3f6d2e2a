#include "tools/output.h"

#include <fmt/format.h>
#include <unistd.h>

#include "base/error.h"
#include "tools/console.h"

namespace aftercheck::tools {

std::string printable(const std::string& text) {
  std::string result;
  for (const char letter : text) {
    constexpr unsigned char kSpace = 0x20, kDelete = 0x7f;
    const auto byte = static_cast<unsigned char>(letter);
    if (letter == '\t' || (byte >= kSpace && byte != kDelete))
      result += letter;
    else
      result += fmt::format("\\x{:02x}", byte);
  }
  return result;
}

namespace {

constexpr size_t kBufferSize = 64 << 10;

// Names and command lines are bytes; what is not UTF-8 in them shows as U+FFFD.
std::string dump(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

Output::~Output() { write_all(STDOUT_FILENO, buffer_.data(), buffer_.size()); }

void Output::text(std::string_view text) {
  buffer_ += text;
  if (buffer_.size() >= kBufferSize) flush();
}

void Output::line(std::string_view text) {
  this->text(text);
  this->text("\n");
}

void Output::json(const Json& value) { line(dump(value, 2)); }
void Output::json_line(const Json& value) { line(dump(value, -1)); }

void Output::flush() {
  std::string pending;
  pending.swap(buffer_);
  const int error = write_all(STDOUT_FILENO, pending.data(), pending.size());
  if (error != 0) fail(ErrorKind::io, "standard output can't be written: {}", errno_text(error));
}

}  // namespace aftercheck::tools
