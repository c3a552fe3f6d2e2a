#include <fcntl.h>
#include <linux/fs.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "base/error.h"
#include "base/fd.h"
#include "machine/cpu_model.h"
#include "tools/console.h"
#include "tools/doctor.h"

namespace aftercheck::tools {
namespace {

namespace fs = std::filesystem;

constexpr const char* kHost = "host";

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "value" of the first line "key : value" in a file like /proc/cpuinfo.
std::string field(const fs::path& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key)) {
      const size_t start = line.find_first_not_of(" \t", line.find(':') + 1);
      return start == std::string::npos ? "" : line.substr(start);
    }
  return "";
}

Finding fact(const char* name, const char* title, std::string value) {
  return {.group = kHost, .name = name, .title = title, .works = {}, .value = std::move(value), .cost = {}};
}

Finding probe(const char* name, const char* title, bool works, std::string value, const char* cost) {
  return {
      .group = kHost, .name = name, .title = title, .works = works, .value = std::move(value), .cost = cost};
}

std::vector<Finding> identity() {
  utsname host{};
  uname(&host);
  std::string modules;
  for (const char* module : {"kvm_intel", "kvm_amd", "kvm_pvm"})
    if (fs::exists(fs::path("/sys/module") / module))
      modules += std::string(modules.empty() ? "" : ", ") + module;
  return {fact("cpu", "processor", field("/proc/cpuinfo", "model name")),
          fact("kernel", "kernel", std::string(host.sysname) + " " + host.release),
          fact("kvm_module", "KVM module", modules.empty() ? "none loaded" : modules)};
}

UniqueFd open_event(perf_event_attr& attributes) {
  attributes.size = sizeof attributes;
  return UniqueFd(
      static_cast<int>(syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC)));
}

// A loop with a known number of branches.
[[gnu::noinline]] void take_branches(uint64_t count) {
  asm volatile("1: dec %0; jnz 1b" : "+r"(count)::"cc");
}

// Counts the same loop's branches many times: a position in a run can only be told by a counter that never
// differs.
Finding branch_counter() {
  constexpr const char* kName = "branch_counter";
  constexpr const char* kTitle = "a counter of branches that is exact";
  constexpr const char* kCost = "asynchronous stops are found by comparing the whole state";
  perf_event_attr attributes{};
  attributes.type = PERF_TYPE_HARDWARE;
  attributes.config = PERF_COUNT_HW_BRANCH_INSTRUCTIONS;
  attributes.exclude_kernel = 1;
  attributes.exclude_hv = 1;
  attributes.disabled = 1;
  const UniqueFd event = open_event(attributes);
  if (!event) return probe(kName, kTitle, false, "perf_event_open: " + errno_text(errno), kCost);
  constexpr int kRuns = 100;
  uint64_t first = 0;
  for (int run = 0; run < kRuns; ++run) {
    constexpr uint64_t kBranches = 100'000;
    ioctl(event.get(), PERF_EVENT_IOC_RESET, 0);
    ioctl(event.get(), PERF_EVENT_IOC_ENABLE, 0);
    take_branches(kBranches);
    ioctl(event.get(), PERF_EVENT_IOC_DISABLE, 0);
    uint64_t count = 0;
    if (read(event.get(), &count, sizeof count) != sizeof count)
      return probe(kName, kTitle, false, "the counter can't be read", kCost);
    if (count < kBranches)
      return probe(kName, kTitle, false, fmt::format("it counted {} of {}", count, kBranches), kCost);
    if (run == 0) first = count;
    if (count != first)
      return probe(kName, kTitle, false, fmt::format("{} and {} in the same loop", first, count), kCost);
  }
  return probe(kName, kTitle, true, fmt::format("the same in {} runs", kRuns), kCost);
}

Finding user_counter() {
  constexpr const char* kName = "rdpmc";
  constexpr const char* kTitle = "counters can be read without a system call (RDPMC)";
  constexpr const char* kCost = "reading a counter costs a system call";
  perf_event_attr attributes{};
  attributes.type = PERF_TYPE_HARDWARE;
  attributes.config = PERF_COUNT_HW_INSTRUCTIONS;
  attributes.exclude_kernel = 1;
  const UniqueFd event = open_event(attributes);
  if (!event) return probe(kName, kTitle, false, "perf_event_open: " + errno_text(errno), kCost);
  const auto size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_SHARED, event.get(), 0);
  if (mapped == MAP_FAILED) return probe(kName, kTitle, false, "mmap: " + errno_text(errno), kCost);
  const bool can = static_cast<perf_event_mmap_page*>(mapped)->cap_user_rdpmc != 0;
  munmap(mapped, size);
  return probe(kName, kTitle, can, can ? "" : "the kernel does not allow it", kCost);
}

Finding reflink() {
  constexpr const char* kName = "reflink";
  constexpr const char* kTitle = "files here can share blocks (reflink)";
  constexpr const char* kCost = "program files that are mapped get copied into the recording";
  const UniqueFd from(open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)),
      to(open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!from || !to)
    return probe(kName, kTitle, false, "no file can be made here: " + errno_text(errno), kCost);
  const std::string block(64 << 10, 'x');
  if (write_all(from.get(), block.data(), block.size()) != 0)
    return probe(kName, kTitle, false, "no file can be written here", kCost);
  if (ioctl(to.get(), FICLONE, from.get()) != 0) return probe(kName, kTitle, false, errno_text(errno), kCost);
  return probe(kName, kTitle, true, "", kCost);
}

// Pages in use are found through pagemap (Documentation/admin-guide/mm/pagemap.rst: bit 63 is "present").
Finding page_map() {
  const auto size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<char> memory(2 * size, 'x');
  const UniqueFd file(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  uint64_t entry = 0;
  const auto offset =
      static_cast<off_t>((reinterpret_cast<uintptr_t>(memory.data()) + size) / size * sizeof entry);
  const bool works =
      file && pread(file.get(), &entry, sizeof entry, offset) == sizeof entry && entry >> 63 != 0;
  return probe("pagemap", "/proc/self/pagemap tells which pages are in use", works, "",
               "recordings have no digests of memory: damage shows later");
}

Finding descriptors() {
  constexpr rlim_t kEnough = 256;
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return probe("descriptors", "enough file descriptors (RLIMIT_NOFILE)", limit.rlim_cur >= kEnough,
               std::to_string(limit.rlim_cur), "programs may run out of them; raise `ulimit -n`");
}

Finding level_v3() {
  std::string missing;
  try {
    require_host(CpuModelKind::v3);
  } catch (const Error& error) {
    missing = error.what();
  }
  return probe("cpu_v3", "processor of level x86-64-v3 (AVX2, FMA, BMI)", missing.empty(), missing,
               "neither `record --cpu v3` nor replays of such recordings");
}

Finding memory() {
  constexpr uint64_t kEnough = uint64_t{256} << 20;
  const uint64_t bytes = std::strtoull(field("/proc/meminfo", "MemAvailable").c_str(), nullptr, 10) * 1024;
  return probe("memory", "memory available", bytes >= kEnough, human_size(bytes),
               "programs may be killed for lack of it");
}

}  // namespace

std::vector<Finding> examine_host() {
  std::vector<Finding> findings = identity();
  findings.push_back(level_v3());
  findings.push_back(memory());
  findings.push_back(descriptors());
  findings.push_back(page_map());
  findings.push_back(reflink());
  findings.push_back(
      fact("perf_event_paranoid", "perf_event_paranoid", first_line("/proc/sys/kernel/perf_event_paranoid")));
  findings.push_back(branch_counter());
  findings.push_back(user_counter());
  for (Finding& finding : examine_processor_trace()) findings.push_back(std::move(finding));
  return findings;
}

}  // namespace aftercheck::tools
