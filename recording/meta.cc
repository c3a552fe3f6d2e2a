#include "recording/meta.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/fd.h"
#include "recording/file_io.h"

namespace aftercheck::recording {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxMetaBytes = 64 << 20;
// The format nests two deep; anything deeper or larger is an attack on the parser's memory.
constexpr int kMaxDepth = 8;
constexpr uint64_t kMaxValues = 1 << 21;

// Command lines, paths and environments are bytes, JSON strings are Unicode. Bytes that are not UTF-8 are
// kept as
// {"hex": "..."}.
json encode(const std::string& bytes) {
  json text(bytes);
  try {
    text.dump();
    return text;
  } catch (const json::type_error&) {
  }
  std::string hex;
  for (const char c : bytes) hex += fmt::format("{:02x}", static_cast<uint8_t>(c));
  return json{{"hex", hex}};
}

json encode(const std::vector<std::string>& list) {
  json array = json::array();
  for (const std::string& entry : list) array.push_back(encode(entry));
  return array;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// Reads the fields of a parsed `meta`; errors name file and field.
class FieldReader {
 public:
  FieldReader(std::string path, const json& object) : path_(std::move(path)), object_(object) {}

  std::string text(const char* field) const { return decode(get(field), field); }

  uint64_t number(const char* field, uint64_t most) const {
    const json& value = get(field);
    if (!value.is_number_unsigned() || value.get<uint64_t>() > most)
      wrong(field, "an unsigned number", value);
    return value.get<uint64_t>();
  }

  std::vector<std::string> list(const char* field) const {
    const json& value = get(field);
    if (!value.is_array()) wrong(field, "an array of strings", value);
    std::vector<std::string> result;
    for (const json& entry : value)
      result.push_back(decode(entry, fmt::format("{}[{}]", field, result.size())));
    return result;
  }

  // Fields that recordings of earlier versions lack.
  std::string text_or_none(const char* field) const {
    return object_.contains(field) ? text(field) : std::string();
  }

  std::vector<AnsweredCall> answered_calls(const char* field) const {
    std::vector<AnsweredCall> result;
    const auto found = object_.find(field);
    if (found == object_.end()) return result;
    if (!found->is_array()) wrong(field, "an array of objects", *found);
    for (const json& entry : *found) {
      const std::string name = fmt::format("{}[{}]", field, result.size());
      if (!entry.is_object()) wrong(name, "an object", entry);
      const FieldReader fields(fmt::format("{}: {}", path_, name), entry);
      result.push_back({fields.text("call"), fields.text("answer"),
                        fields.number("times", std::numeric_limits<uint64_t>::max())});
    }
    return result;
  }

  uint64_t number_or_none(const char* field, uint64_t most) const {
    return object_.contains(field) ? number(field, most) : 0;
  }

  std::optional<Parent> parent(const char* field) const {
    const auto found = object_.find(field);
    if (found == object_.end()) return std::nullopt;
    if (!found->is_object()) wrong(field, "an object", *found);
    const FieldReader fields(fmt::format("{}: {}", path_, field), *found);
    return Parent{static_cast<uint32_t>(fields.number("process", std::numeric_limits<uint32_t>::max())),
                  fields.number("event", std::numeric_limits<uint64_t>::max())};
  }

  std::map<std::string, std::string> map(const char* field) const {
    const json& value = get(field);
    if (!value.is_object()) wrong(field, "an object of strings", value);
    std::map<std::string, std::string> result;
    for (const auto& [key, entry] : value.items())
      result[key] = decode(entry, fmt::format("{}.{}", field, key));
    return result;
  }

 private:
  const json& get(const char* field) const {
    const auto found = object_.find(field);
    if (found == object_.end()) fail(ErrorKind::bad_input, "{}: field `{}` is missing", path_, field);
    return *found;
  }

  [[noreturn]] void wrong(const std::string& field, const char* expected, const json& value) const {
    fail(ErrorKind::bad_input, "{}: field `{}` is not {} but {}", path_, field, expected,
         value.is_number() ? "another number" : value.type_name());
  }

  std::string decode(const json& value, const std::string& field) const {
    if (value.is_string()) return value.get<std::string>();
    const auto hex = value.is_object() && value.size() == 1 ? value.find("hex") : value.end();
    if (hex == value.end() || !hex->is_string()) wrong(field, "a string", value);
    const auto& digits = hex->get_ref<const std::string&>();
    std::string result;
    for (size_t i = 0; i + 1 < digits.size(); i += 2) {
      const int high = hex_digit(digits[i]), low = hex_digit(digits[i + 1]);
      if (high < 0 || low < 0) wrong(field, "hexadecimal", value);
      result += static_cast<char>(high * 16 + low);
    }
    if (digits.size() % 2 != 0) wrong(field, "hexadecimal", value);
    return result;
  }

  std::string path_;
  const json& object_;
};

void write_file(int fd, const std::string& path, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(ErrorKind::io, "{}: {}", path, errno_text(n < 0 ? errno : ENOSPC));
    text.remove_prefix(static_cast<size_t>(n));
  }
}

void sync_directory(const std::filesystem::path& directory) {
  const UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || fsync(fd.get()) != 0)
    fail(ErrorKind::io, "{}: fsync: {}", directory.string(), errno_text(errno));
}

std::string read_bounded(const std::filesystem::path& directory, const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd && (errno == ENOENT || errno == ENOTDIR))
    fail(ErrorKind::bad_input, "{}: not a recording: it has no file `meta`", directory.string());
  struct stat status {};
  if (!fd || fstat(fd.get(), &status) != 0) fail(ErrorKind::io, "{}: {}", path, errno_text(errno));
  if (!S_ISREG(status.st_mode)) fail(ErrorKind::bad_input, "{}: not a regular file", path);
  std::string text;
  for (;;) {
    constexpr size_t kPiece = 64 << 10;
    const size_t size = text.size();
    text.resize(size + kPiece);
    const ssize_t n = ::read(fd.get(), text.data() + size, kPiece);
    text.resize(size + static_cast<size_t>(n > 0 ? n : 0));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(ErrorKind::io, "{}: {}", path, errno_text(errno));
    if (n == 0) return text;
    if (text.size() > kMaxMetaBytes)
      fail(ErrorKind::bad_input, "{}: more than {} MiB: not written by aftercheck", path,
           kMaxMetaBytes >> 20);
  }
}

json parse(const std::string& path, const std::string& text) {
  uint64_t values = 0;
  const auto check = [&](int depth, json::parse_event_t, json&) {
    if (depth > kMaxDepth || ++values > kMaxValues)
      fail(ErrorKind::bad_input, "{}: nested too deep or too many values: not written by aftercheck", path);
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::exception& e) {
    fail(ErrorKind::bad_input, "{}: {}", path, e.what());
  }
}

std::string text_of(const Meta& meta, const std::string& path) {
  json object = {
      {"format_version", meta.format_version},   {"writer", encode(meta.writer)},
      {"command", encode(meta.command)},         {"working_directory", encode(meta.working_directory)},
      {"environment", encode(meta.environment)}, {"machine", encode(meta.machine)},
      {"cpu_model", encode(meta.cpu_model)},     {"host_cpu", encode(meta.host_cpu)},
      {"host_kernel", encode(meta.host_kernel)}, {"host_name", encode(meta.host_name)},
      {"start_time_ns", meta.start_time_ns},     {"capabilities", json::object()},
  };
  for (const auto& [name, value] : meta.capabilities) object["capabilities"][name] = encode(value);
  for (const AnsweredCall& call : meta.answered_calls)
    object["answered_calls"].push_back(
        {{"call", encode(call.call)}, {"answer", encode(call.answer)}, {"times", call.times}});
  object["process_id"] = meta.process_id;
  if (meta.parent) {
    object["process"] = meta.process;
    object["recording"] = meta.recording;
    object["parent"] = {{"process", meta.parent->process}, {"event", meta.parent->event}};
  }
  if (!meta.stopped_at.empty()) object["stopped_at"] = encode(meta.stopped_at);
  std::string text;
  try {
    text = object.dump(2) + "\n";
  } catch (const json::exception& e) {  // only a capability's name is left that may not be UTF-8
    fail(ErrorKind::internal, "{}: {}", path, e.what());
  }
  if (text.size() > kMaxMetaBytes)
    fail(ErrorKind::unsupported, "{}: command and environment take {} bytes, more than {} MiB", path,
         text.size(), kMaxMetaBytes >> 20);
  return text;
}

}  // namespace

void write_meta(const std::filesystem::path& directory, const Meta& meta, bool synced) {
  const std::string path = (directory / "meta").string(), temporary = path + ".new";
  const std::string text = text_of(meta, path);
  const UniqueFd fd(::open(temporary.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644));
  if (!fd) fail(ErrorKind::io, "{}: {}", temporary, errno_text(errno));
  try {
    write_file(fd.get(), temporary, text);
    // The name first: a disk may take a tenth of a second to say that it has the bytes, and whoever dies
    // meanwhile leaves a recording.
    if (rename(temporary.c_str(), path.c_str()) != 0) fail(ErrorKind::io, "{}: {}", path, errno_text(errno));
    if (synced && fsync(fd.get()) != 0) fail(ErrorKind::io, "{}: fsync: {}", path, errno_text(errno));
  } catch (const Error&) {
    unlink(temporary.c_str());
    throw;
  }
  if (synced) sync_directory(directory);
}

void write_meta_over(const std::filesystem::path& directory, const Meta& meta) {
  const std::string path = (directory / "meta").string();
  std::string text = text_of(meta, path);
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
  struct stat status {};
  if (!fd || fstat(fd.get(), &status) != 0) fail(ErrorKind::io, "{}: {}", path, errno_text(errno));
  const auto before = static_cast<uint64_t>(status.st_size);
  if (text.size() < before && before <= kMaxMetaBytes) text.resize(before, '\n');
  const auto bytes = std::as_bytes(std::span(text));
  if (const int error = write_all(fd.get(), bytes, 0); error != 0)
    fail(ErrorKind::io, "{}: {}", path, errno_text(error));
}

Meta read_meta(const std::filesystem::path& directory) {
  const std::string path = (directory / "meta").string();
  const json object = parse(path, read_bounded(directory, path));
  if (!object.is_object())
    fail(ErrorKind::bad_input, "{}: not a JSON object but {}", path, object.type_name());
  const FieldReader fields(path, object);
  Meta meta;
  meta.format_version =
      static_cast<uint32_t>(fields.number("format_version", std::numeric_limits<uint32_t>::max()));
  if (meta.format_version > kFormatVersion)
    fail(ErrorKind::unsupported,
         "{}: format version {}, this program reads up to version {}: use a newer aftercheck", path,
         meta.format_version, kFormatVersion);
  if (meta.format_version == 0) fail(ErrorKind::bad_input, "{}: field `format_version` is 0", path);
  meta.writer = fields.text("writer");
  meta.command = fields.list("command");
  meta.working_directory = fields.text("working_directory");
  meta.environment = fields.list("environment");
  meta.machine = fields.text("machine");
  meta.cpu_model = fields.text("cpu_model");
  meta.host_cpu = fields.text("host_cpu");
  meta.host_kernel = fields.text("host_kernel");
  meta.host_name = fields.text("host_name");
  meta.start_time_ns = fields.number("start_time_ns", std::numeric_limits<uint64_t>::max());
  meta.capabilities = fields.map("capabilities");
  meta.answered_calls = fields.answered_calls("answered_calls");
  meta.process =
      static_cast<uint32_t>(fields.number_or_none("process", std::numeric_limits<uint32_t>::max()));
  meta.parent = fields.parent("parent");
  meta.recording =
      static_cast<uint32_t>(fields.number_or_none("recording", std::numeric_limits<uint32_t>::max()));
  meta.process_id =
      static_cast<uint32_t>(fields.number_or_none("process_id", std::numeric_limits<uint32_t>::max()));
  meta.stopped_at = fields.text_or_none("stopped_at");
  return meta;
}

}  // namespace aftercheck::recording
