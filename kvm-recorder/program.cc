// find_program: what execve(2) does before it touches the old image (fs/exec.c, fs/binfmt_script.c).
#include <linux/limits.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <string_view>

#include "kvm-recorder/elf_program.h"
#include "kvm-recorder/loader.h"
#include "kvm-recorder/proc_files.h"
#include "kvm-recorder/process_stack.h"

namespace aftercheck {
namespace {

// fs/exec.c, exec_binprm(): a script's interpreter may itself be a script, and so on.
constexpr int kMaxInterpreterDepth = 5;
// include/uapi/linux/binfmts.h, BINPRM_BUF_SIZE: all that the kernel sees of a script.
constexpr size_t kScriptHead = 256;

bool has_regular_file(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

// As execvp(3): a candidate that isn't executable doesn't end the search, but decides the error if nothing
// else is found.
std::string search_path(const std::string& name, const std::vector<std::string>& environment) {
  std::string_view path = "/bin:/usr/bin";  // confstr(_CS_PATH), when the environment has no PATH
  for (const std::string& entry : environment)
    if (entry.starts_with("PATH=")) {
      path = std::string_view(entry).substr(5);
      break;
    }
  std::string forbidden;
  for (;;) {
    const size_t colon = path.find(':');
    const std::string directory(path.substr(0, colon));
    std::string candidate = directory.empty() ? name : fmt::format("{}/{}", directory, name);
    if (has_regular_file(candidate)) {
      if (access(candidate.c_str(), X_OK) == 0) return candidate;
      if (forbidden.empty()) forbidden = candidate;
    }
    if (colon == std::string_view::npos) break;
    path.remove_prefix(colon + 1);
  }
  if (!forbidden.empty()) return forbidden;
  refuse_exec(ENOENT, "{}: not found in PATH", name);
}

bool blank(char c) { return c == ' ' || c == '\t'; }

struct InterpreterLine {
  std::string interpreter;
  std::optional<std::string> argument;  // the rest of the line, one argument whatever blanks it holds
};

// The "#!" line at the start of `head`, as load_script() reads it: without a newline in the first 256 bytes
// the interpreter's path must at least end there; an argument may be cut off. nullopt: not a script.
std::optional<InterpreterLine> interpreter_line(const std::string& path, std::string_view head) {
  if (!head.starts_with("#!")) return std::nullopt;
  const size_t newline = head.find('\n');
  std::string_view line = head.substr(2, newline == std::string_view::npos ? newline : newline - 2);
  const bool cut = newline == std::string_view::npos && head.size() == kScriptHead;
  if (cut) line.remove_suffix(1);  // the kernel keeps the last byte for a NUL
  size_t start = 0;
  while (start < line.size() && blank(line[start])) ++start;
  size_t end = start;
  while (end < line.size() && !blank(line[end]) && line[end] != '\0') ++end;
  if (start == end) refuse_exec(ENOEXEC, "{}: its #! line names no interpreter", path);
  if (cut && end == line.size())
    refuse_exec(ENOEXEC,
                "{}: the interpreter's path in its #! line is longer than the {} bytes the kernel reads",
                path, kScriptHead);
  InterpreterLine result{std::string(line.substr(start, end - start)), std::nullopt};
  if (end < line.size() && line[end] != '\0') {
    std::string_view rest = line.substr(end);
    while (!rest.empty() && blank(rest.front())) rest.remove_prefix(1);
    // At the end of a short file the kernel sees NULs, not the line's end, and keeps trailing blanks.
    while ((newline != std::string_view::npos || cut) && !rest.empty() && blank(rest.back()))
      rest.remove_suffix(1);
    rest = rest.substr(0, rest.find('\0'));
    if (!rest.empty()) result.argument = std::string(rest);
  }
  return result;
}

std::string read_head(const std::string& path, int fd) {
  std::array<char, kScriptHead> head{};
  size_t size = 0;
  while (size < head.size()) {
    const ssize_t got = pread(fd, head.data() + size, head.size() - size, static_cast<off_t>(size));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse_exec(errno, "{}: {}", path, errno_text(errno));
    if (got == 0) break;
    size += static_cast<size_t>(got);
  }
  return {head.data(), size};
}

Program resolve(const std::string& name, const std::vector<std::string>& arguments,
                const std::vector<std::string>& environment) {
  if (name.empty()) refuse_exec(ENOENT, "the program's name is empty");
  if (name.find('\0') != std::string::npos) refuse_exec(ENOENT, "the program's name contains a NUL byte");
  if (name.size() >= PATH_MAX)
    refuse_exec(ENAMETOOLONG, "{}...: {}", name.substr(0, 60), errno_text(ENAMETOOLONG));
  Program program;
  program.execfn = name.find('/') == std::string::npos ? search_path(name, environment) : name;
  program.path = program.execfn;
  program.arguments = arguments;
  if (program.arguments.empty()) program.arguments.emplace_back();  // fs/exec.c since Linux 5.18

  std::string via;  // the script whose interpreter is being looked at
  for (int depth = 0;; ++depth) {
    if (depth > kMaxInterpreterDepth)
      refuse_exec(ELOOP, "{}: more than {} interpreters in a row, the last {}", program.execfn,
                  kMaxInterpreterDepth, program.path);
    try {
      UniqueFd fd = open_executable(program.path);
      const std::optional<InterpreterLine> line =
          interpreter_line(program.path, read_head(program.path, fd.get()));
      if (!line) {
        program.files = std::make_shared<ProgramFiles>(open_program(program.path, std::move(fd)));
        break;
      }
      std::vector<std::string> expanded{line->interpreter};
      if (line->argument) expanded.push_back(*line->argument);
      expanded.push_back(program.path);
      expanded.insert(expanded.end(), program.arguments.begin() + 1, program.arguments.end());
      program.arguments = std::move(expanded);
      via = program.path;
      program.path = line->interpreter;
    } catch (const ExecError& error) {
      if (via.empty() || program.path == via) throw;
      throw ExecError(error.code,
                      fmt::format("{}: the interpreter of its #! line can't be used: {}", via, error.what()),
                      error.kind());
    }
  }
  program.script = !via.empty();
  // As /proc shows it, also where it has no name (any more).
  program.executable = descriptor_path(program.files->program.fd.get());
  check_argument_size(program, environment);
  return program;
}

}  // namespace

Program find_program(const std::string& name, const std::vector<std::string>& arguments,
                     const std::vector<std::string>& environment, int* cause_errno) {
  try {
    return resolve(name, arguments, environment);
  } catch (const ExecError& error) {
    if (cause_errno != nullptr) *cause_errno = error.code;
    throw;
  }
}

}  // namespace aftercheck
