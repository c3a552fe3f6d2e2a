// Runs the built `aftercheck` as a user would, and makes the files that it is given.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace aftercheck::test {

// A directory of its own for one test; gone with it.
class Workplace {
 public:
  Workplace();
  ~Workplace();
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

struct Finished {
  int status = -1;  // exit status, or -1
  int signal = 0;   // that killed it, or 0
  std::string out, err;
};

struct How {
  std::vector<std::string> environment{};  // added
  bool as_nobody = false;                  // user and group 65534
  bool error_on_terminal = false;          // standard error is a terminal; `err` is what it showed
  bool output_without_reader = false;      // standard output is a pipe that nobody reads
  bool close_output = false;               // descriptor 1 is closed
  uint64_t file_size_limit = 0;            // RLIMIT_FSIZE that not even root may raise; 0: as it is
  std::string output_to{};                 // a file for standard output, "" for `out`
};

// Runs `aftercheck ARGUMENTS...` in `directory`, with an empty standard input. Kills it after a minute.
Finished run_tool(const std::vector<std::string>& arguments, const std::filesystem::path& directory,
                  const How& how = {});

// Of output with a JSON value on each line.
std::vector<nlohmann::json> json_lines(const std::string& text);

void write_file(const std::filesystem::path& path, const std::string& bytes, unsigned mode = 0644);
std::string read_file(const std::filesystem::path& path);

// A whole ELF program, made by hand.
struct TinyElf {
  uint8_t elf_class = 2;      // 2: 64-bit
  uint16_t machine = 62;      // EM_X86_64
  std::string interpreter{};  // PT_INTERP, "" for none
  std::string code{};         // machine code; runs from its first byte
  std::string bytes() const;
};

// Writes "hello\n" to standard output and "oops\n" to standard error, and exits with status 3.
std::string hello_program();
// Executes UD2: dies of SIGILL.
std::string illegal_program();

// Calls fork twice, which can't be recorded, then does what hello_program does.
std::string forking_program();

// Asks the kernel for 32 MB of random bytes, which no log can compress, then does what hello_program does.
std::string random_program();

// Makes `hello` and records it into `recording`, both in `place`.
void record_hello(const Workplace& place);

}  // namespace aftercheck::test
