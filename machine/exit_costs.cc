#include "machine/exit_costs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "base/child_answer.h"
#include "base/error.h"
#include "base/log.h"
#include "base/version.h"

namespace aftercheck {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// The words of the file, and of the child's answer: "kvm 31.25" or "kvm - why not", a line each.
constexpr const char* kNothing = "-";

// The least of a few batches: what others do on this host meanwhile only adds.
double cost_of_exit(Vcpu& vcpu, uint64_t code) {
  constexpr int kBatches = 8, kExits = 32;
  vcpu.registers().rip = code;
  double least = std::numeric_limits<double>::max();
  for (int batch = 0; batch < kBatches; ++batch) {
    const Clock::time_point start = Clock::now();
    for (int exit = 0; exit < kExits; ++exit)
      if (const Exit came = vcpu.run(); came.kind != ExitKind::syscall)
        fail(ErrorKind::host_lacks, "a system call gave: {}", describe(came));
    const std::chrono::duration<double, std::micro> took = Clock::now() - start;
    least = std::min(least, took.count() / kExits);
  }
  return least;
}

std::string measured(MachineKind kind, AddressSpace& space) {
  static constexpr std::array<uint8_t, 4> kLoop = {0x0f, 0x05, 0xeb, 0xfc};  // 1: syscall; jmp 1b
  constexpr uint64_t kCode = kMainWindow.start;
  try {
    const CpuModel cpu(CpuModelKind::portable);
    const std::unique_ptr<Machine> machine = create_machine(choice_of(kind), space, cpu);
    const std::unique_ptr<Vcpu> vcpu = machine->create_vcpu();
    vcpu->set_fpu(FpuState::initial());
    if (space.map_anonymous({kCode, kCode + kPageSize}, PROT_READ | PROT_EXEC, false) != 0 ||
        !space.write(kCode, kLoop.data(), kLoop.size()))
      fail(ErrorKind::host_lacks, "no memory for a guest");
    return fmt::format("{} {:.4f}\n", name(kind), cost_of_exit(*vcpu, kCode));
  } catch (const Error& error) {
    std::string why = error.what();
    std::replace(why.begin(), why.end(), '\n', ' ');
    return fmt::format("{} {} {}\n", name(kind), kNothing, why);
  }
}

void measure_in_child(MachineKind kind, AddressSpace& space, int out) {
  const std::string line = measured(kind, space);
  for (size_t done = 0; done < line.size();) {
    const ssize_t count = write(out, line.data() + done, line.size() - done);
    if (count <= 0) return;
    done += static_cast<size_t>(count);
  }
}

// One line of the above. False where it is none.
bool parse(const std::string& line, ExitCosts& costs) {
  std::istringstream words(line);
  std::string machine, cost, why;
  words >> machine >> cost;
  const bool kvm = machine == name(MachineKind::kvm);
  if (!kvm && machine != name(MachineKind::translated)) return false;
  if (cost == kNothing) {
    std::getline(words >> std::ws, why);
    (kvm ? costs.why_not_kvm : costs.why_not_translated) = why;
    return !why.empty();
  }
  double number = 0;
  std::istringstream digits(cost);
  digits.imbue(std::locale::classic());
  if (!(digits >> number) || !digits.eof() || !(number > 0)) return false;
  (kvm ? costs.kvm : costs.translated) = number;
  return true;
}

void measure(MachineKind kind, AddressSpace& space, ExitCosts& costs) {
  constexpr std::chrono::seconds kLimit{10};
  const ChildAnswer answer = answer_of_child(kLimit, [&](int out) { measure_in_child(kind, space, out); });
  if (const size_t end = answer.text.find('\n'); end != std::string::npos)
    if (parse(answer.text.substr(0, end), costs)) return;
  (kind == MachineKind::kvm ? costs.why_not_kvm : costs.why_not_translated) =
      !answer.in_time ? "a system call took more than ten seconds"
                      : fmt::format("a tiny guest ended in wait status {:#x}", answer.wait_status);
}

// Model and microcode of the first processor; the modules of KVM that are loaded.
std::string host() {
  std::string text = kVersion;
  utsname kernel{};
  if (uname(&kernel) == 0)
    text += fmt::format("\n{}\n{}\n{}", kernel.nodename, kernel.release, kernel.version);
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line) && !line.empty();)
    if (line.starts_with("model name") || line.starts_with("microcode")) text += "\n" + line;
  std::vector<std::string> modules;
  std::error_code error;
  for (auto entry = fs::directory_iterator("/sys/module", error); !error && entry != fs::directory_iterator();
       entry.increment(error))
    if (const std::string name = entry->path().filename(); name.starts_with("kvm")) modules.push_back(name);
  std::sort(modules.begin(), modules.end());
  for (const std::string& module : modules) text += "\n" + module;
  return text;
}

// FNV-1a: a name for a file, nothing that anybody would want to forge.
uint64_t digest(const std::string& text) {
  uint64_t value = 0xcbf2'9ce4'8422'2325;
  for (const char letter : text) value = (value ^ static_cast<uint8_t>(letter)) * 0x100'0000'01b3;
  return value;
}

}  // namespace

ExitCosts measure_exit_costs(AddressSpace& space) {
  ExitCosts costs;
  for (const MachineKind kind : {MachineKind::kvm, MachineKind::translated}) measure(kind, space, costs);
  return costs;
}

std::string exit_costs_file() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  fs::path folder;
  if (cache != nullptr && *cache == '/')
    folder = cache;
  else if (home != nullptr && *home == '/')
    folder = fs::path(home) / ".cache";
  else
    return {};
  return folder / "aftercheck" / fmt::format("exit-costs-{:016x}", digest(host()));
}

std::optional<ExitCosts> read_exit_costs(const std::string& file) {
  struct stat status {};
  // Not a pipe that somebody has put there: opening one would wait.
  if (stat(file.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  std::ifstream in(file);
  ExitCosts costs;
  std::string kvm, translated;
  if (!std::getline(in, kvm) || !std::getline(in, translated)) return std::nullopt;
  if (!parse(kvm, costs) || !parse(translated, costs) || !costs.kvm || !costs.translated) return std::nullopt;
  return costs;
}

bool keep_exit_costs(const std::string& file, const ExitCosts& costs) {
  if (file.empty() || !costs.kvm || !costs.translated) return false;
  std::error_code error;
  fs::create_directories(fs::path(file).parent_path(), error);
  const std::string temporary = fmt::format("{}.{}", file, getpid());
  {
    std::ofstream out(temporary);
    out << fmt::format("{} {:.4f}\n{} {:.4f}\n", name(MachineKind::kvm), *costs.kvm,
                       name(MachineKind::translated), *costs.translated);
    if (!out.flush()) {
      unlink(temporary.c_str());
      return false;
    }
  }
  if (rename(temporary.c_str(), file.c_str()) == 0) return true;
  unlink(temporary.c_str());
  return false;
}

ExitCosts exit_costs_of_host(AddressSpace& space) {
  // Then there is nothing to compare.
  if (access("/dev/kvm", R_OK | W_OK) != 0)
    return {.kvm = {},
            .translated = {},
            .why_not_kvm = fmt::format("/dev/kvm: {}", errno_text(errno)),
            .why_not_translated = "not tried"};
  const std::string file = exit_costs_file();
  if (std::optional<ExitCosts> kept = read_exit_costs(file)) return *kept;
  const ExitCosts costs = measure_exit_costs(space);
  if (!keep_exit_costs(file, costs))
    AFTERCHECK_LOG_TO(LogTopic::machine, "what exits cost is measured each time: {} can't be written",
                      file.empty() ? "no cache" : file);
  return costs;
}

}  // namespace aftercheck
