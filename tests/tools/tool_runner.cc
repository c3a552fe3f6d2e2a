#include "tool_runner.h"

#include <elf.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <sstream>

namespace aftercheck::test {
namespace {

namespace fs = std::filesystem;

struct Pipe {
  int read_end = -1, write_end = -1;
};

Pipe make_pipe(bool terminal) {
  Pipe pipe;
  if (terminal) {
    REQUIRE(openpty(&pipe.read_end, &pipe.write_end, nullptr, nullptr, nullptr) == 0);
    fcntl(pipe.read_end, F_SETFD, FD_CLOEXEC);
    fcntl(pipe.write_end, F_SETFD, FD_CLOEXEC);
  } else {
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    pipe = {ends[0], ends[1]};
  }
  return pipe;
}

// Reads both until they are closed; false when that takes more than a minute.
bool collect(std::array<int, 2> from, std::array<std::string*, 2> to) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  std::array<bool, 2> open{true, true};
  while (open[0] || open[1]) {
    std::array<pollfd, 2> ready{};
    for (size_t i = 0; i < 2; ++i) ready[i] = {.fd = open[i] ? from[i] : -1, .events = POLLIN, .revents = 0};
    if (std::chrono::steady_clock::now() > end) return false;
    poll(ready.data(), ready.size(), 1000);
    for (size_t i = 0; i < 2; ++i) {
      if (ready[i].revents == 0) continue;
      char buffer[4096];
      const ssize_t got = read(from[i], buffer, sizeof buffer);
      if (got <= 0)  // a terminal says EIO when its last user is gone
        open[i] = false;
      else
        to[i]->append(buffer, static_cast<size_t>(got));
    }
  }
  return true;
}

[[noreturn]] void become_tool(const std::vector<std::string>& arguments, const fs::path& directory,
                              const How& how, int out, int err) {
  const int null = open("/dev/null", O_RDONLY);
  dup2(null, STDIN_FILENO);
  if (!how.output_to.empty()) out = open(how.output_to.c_str(), O_WRONLY | O_CREAT, 0644);
  dup2(out, STDOUT_FILENO);
  if (how.close_output) close(STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  constexpr unsigned kNobody = 65534;
  if (chdir(directory.c_str()) != 0) _exit(120);
  if (how.as_nobody && (setgroups(0, nullptr) != 0 || setgid(kNobody) != 0 || setuid(kNobody) != 0))
    _exit(121);
  if (how.file_size_limit != 0) {
    prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0);  // refused to those who have none to lose
    const rlimit limit{how.file_size_limit, how.file_size_limit};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(123);
  }
  for (const std::string& entry : how.environment)
    setenv(entry.substr(0, entry.find('=')).c_str(), entry.substr(entry.find('=') + 1).c_str(), 1);
  std::vector<std::string> words{AFTERCHECK_BINARY};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  _exit(122);
}

template <typename T>
void append(std::string& bytes, const T& value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace

Workplace::Workplace() {
  std::string pattern = (fs::temp_directory_path() / "aftercheck-test-XXXXXX").string();
  REQUIRE(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
  chmod(pattern.c_str(), 0755);
}

Workplace::~Workplace() {
  std::error_code error;
  fs::remove_all(path_, error);
}

Finished run_tool(const std::vector<std::string>& arguments, const fs::path& directory, const How& how) {
  const Pipe out = make_pipe(false), err = make_pipe(how.error_on_terminal);
  int unread = -1;
  if (how.output_without_reader) {
    const Pipe pipe = make_pipe(false);
    close(pipe.read_end);
    unread = pipe.write_end;
  }
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) become_tool(arguments, directory, how, unread >= 0 ? unread : out.write_end, err.write_end);
  close(out.write_end);
  close(err.write_end);
  if (unread >= 0) close(unread);
  Finished finished;
  const bool in_time = collect({out.read_end, err.read_end}, {&finished.out, &finished.err});
  if (!in_time) kill(child, SIGKILL);
  close(out.read_end);
  close(err.read_end);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status)) finished.status = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) finished.signal = WTERMSIG(status);
  return finished;
}

std::vector<nlohmann::json> json_lines(const std::string& text) {
  std::istringstream lines(text);
  std::vector<nlohmann::json> values;
  for (std::string line; std::getline(lines, line);) values.push_back(nlohmann::json::parse(line));
  return values;
}

void write_file(const fs::path& path, const std::string& bytes, unsigned mode) {
  std::ofstream file(path, std::ios::binary);
  file << bytes;
  file.close();
  REQUIRE(file.good());
  chmod(path.c_str(), mode);
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string TinyElf::bytes() const {
  constexpr uint64_t kBase = 0x400000;
  const size_t headers = interpreter.empty() ? 1 : 2;
  const uint64_t interpreter_at = sizeof(Elf64_Ehdr) + headers * sizeof(Elf64_Phdr);
  const uint64_t interpreter_size = interpreter.empty() ? 0 : interpreter.size() + 1;
  const uint64_t code_at = interpreter_at + interpreter_size;
  const uint64_t size = code_at + code.size();

  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = elf_class;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = machine;
  header.e_version = EV_CURRENT;
  header.e_entry = kBase + code_at;
  header.e_phoff = sizeof header;
  header.e_ehsize = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = static_cast<Elf64_Half>(headers);
  std::string bytes;
  append(bytes, header);
  if (!interpreter.empty()) {
    Elf64_Phdr named{};
    named.p_type = PT_INTERP;
    named.p_flags = PF_R;
    named.p_offset = interpreter_at;
    named.p_vaddr = named.p_paddr = kBase + interpreter_at;
    named.p_filesz = named.p_memsz = interpreter_size;
    append(bytes, named);
  }
  Elf64_Phdr load{};
  load.p_type = PT_LOAD;
  load.p_flags = PF_R | PF_X;
  load.p_vaddr = load.p_paddr = kBase;
  load.p_filesz = load.p_memsz = size;
  load.p_align = 0x1000;
  append(bytes, load);
  if (!interpreter.empty()) bytes.append(interpreter.c_str(), interpreter_size);
  return bytes + code;
}

namespace {

// Writes to both outputs and exits. Position-independent.
std::string hello_code() {
  using namespace std::string_literals;
  // mov $1, %eax; mov $1, %edi; lea out(%rip), %rsi; mov $6, %edx; syscall
  // mov $1, %eax; mov $2, %edi; lea err(%rip), %rsi; mov $5, %edx; syscall
  // mov $231, %eax; mov $3, %edi; syscall; out: err:
  const std::string first = "\xb8\x01\0\0\0\xbf\x01\0\0\0\x48\x8d\x35\x2b\0\0\0\xba\x06\0\0\0\x0f\x05"s;
  const std::string second = "\xb8\x01\0\0\0\xbf\x02\0\0\0\x48\x8d\x35\x19\0\0\0\xba\x05\0\0\0\x0f\x05"s;
  const std::string last = "\xb8\xe7\0\0\0\xbf\x03\0\0\0\x0f\x05"s;
  return first + second + last + "hello\noops\n";
}

}  // namespace

std::string hello_program() { return TinyElf{.code = hello_code()}.bytes(); }

std::string random_program() {
  using namespace std::string_literals;
  // mov $8192, %ebx; sub $0x2000, %rsp
  // 1: mov $318, %eax; mov %rsp, %rdi; mov $4096, %esi; xor %edx, %edx; syscall; dec %ebx; jnz 1b
  const std::string loop =
      "\xbb\0\x20\0\0\x48\x81\xec\0\x20\0\0"
      "\xb8\x3e\x01\0\0\x48\x89\xe7\xbe\0\x10\0\0\x31\xd2\x0f\x05\xff\xcb\x75\xeb"s;
  return TinyElf{.code = loop + hello_code()}.bytes();
}

std::string forking_program() {
  using namespace std::string_literals;
  const std::string fork = "\xb8\x39\0\0\0\x0f\x05"s;  // mov $57, %eax; syscall
  return TinyElf{.code = fork + fork + hello_code()}.bytes();
}

std::string illegal_program() { return TinyElf{.code = "\x0f\x0b"}.bytes(); }

void record_hello(const Workplace& place) {
  write_file(place / "hello", hello_program(), 0755);
  const Finished recorded = run_tool({"record", "-o", "recording", "./hello"}, place.path());
  INFO(recorded.err);
  REQUIRE(recorded.status == 3);
}

}  // namespace aftercheck::test
