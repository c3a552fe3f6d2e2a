#include "kvm-recorder/proc_status.h"

#include <fmt/format.h>
#include <linux/prctl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <iterator>
#include <map>
#include <optional>
#include <vector>

#include "kvm-recorder/memory_limits.h"
#include "kvm-recorder/proc_files.h"
#include "kvm-recorder/process_signals.h"
#include "kvm-recorder/process_tree.h"
#include "kvm-recorder/resource_limits.h"
#include "kvm-recorder/seccomp.h"

namespace aftercheck {
namespace {

// In bytes; struct mm_struct of the kernel.
struct Sizes {
  uint64_t total = 0, data = 0, stack = 0, locked = 0, executable = 0;
  Range code{}, program_data{};  // of the program's file
};

void extend(Range& range, const Mapping& mapping) {
  if (range.end == 0) range.start = mapping.start;
  range.end = mapping.end;
}

Sizes sizes_of(const GuestProcess& process) {
  Sizes sizes;
  for (const auto& [start, mapping] : process.memory.space().mappings()) {
    const uint64_t size = mapping.end - start;
    const bool writable = (mapping.prot & PROT_WRITE) != 0, runs = (mapping.prot & PROT_EXEC) != 0;
    sizes.total += size;
    if (is_data(mapping.shared, mapping.prot, mapping.grows_down)) sizes.data += size;
    if (mapping.grows_down) sizes.stack += size;
    if (mapping.locked) sizes.locked += size;
    if (runs && !writable && !mapping.grows_down) sizes.executable += size;
    if (mapping.name != process.executable) continue;
    if (runs) extend(sizes.code, mapping);
    if (writable) extend(sizes.program_data, mapping);
  }
  return sizes;
}

// Resident bytes, as many as the guest can have.
struct Resident {
  uint64_t all = 0, anonymous = 0, shared_memory = 0;
  Resident(uint64_t all_of_kernel, uint64_t anonymous_of_kernel, uint64_t shared_of_kernel, uint64_t total)
      : all(std::min(all_of_kernel, total)),
        anonymous(std::min(anonymous_of_kernel, all)),
        shared_memory(std::min(shared_of_kernel, all - anonymous)) {}
};

// create_elf_tables() puts the strings one after the other, and the program's name behind them.
struct Strings {
  uint64_t arguments = 0, environment = 0, end = 0;
};

uint64_t length(const std::vector<std::string>& strings) {
  uint64_t size = 0;
  for (const std::string& string : strings) size += string.size() + 1;
  return size;
}

Strings strings_of(const GuestProcess& process) {
  Strings strings;
  for (size_t i = 0; i + 1 < process.auxv.size(); i += 2)
    if (process.auxv[i] == AT_EXECFN) strings.end = process.auxv[i + 1];
  strings.environment = strings.end - length(process.environment);
  strings.arguments = strings.environment - length(process.arguments);
  return strings;
}

uint64_t number_in(const std::string& text, int base = 10) {
  const size_t start = std::min(text.find_first_not_of(" \t"), text.size());
  uint64_t number = 0;
  std::from_chars(text.data() + start, text.data() + text.size(), number, base);
  return number;
}

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find(at, start), text.size());
    parts.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return parts;
}

// files_struct's table has a power of two, 64 at least.
uint64_t descriptor_slots() {
  uint64_t end = 64;
  for (const int fd : open_descriptors())
    if (!is_own_fd(fd)) end = std::max(end, static_cast<uint64_t>(fd) + 1);
  return std::bit_ceil(end);
}

// A first thread that has ended is one of them as long as the process is there.
size_t threads_of(const GuestProcess& process) {
  const bool first_ended = process.tree != nullptr && process.tree->first_thread_ended(getpid());
  return process.signals.threads() + (first_ended ? 1 : 0);
}

struct Limit {
  int resource;
  const char *name, *unit;
};
// fs/proc/base.c, lnames, in its order.
constexpr Limit kLimits[] = {
    {RLIMIT_CPU, "Max cpu time", "seconds"},         {RLIMIT_FSIZE, "Max file size", "bytes"},
    {RLIMIT_DATA, "Max data size", "bytes"},         {RLIMIT_STACK, "Max stack size", "bytes"},
    {RLIMIT_CORE, "Max core file size", "bytes"},    {RLIMIT_RSS, "Max resident set", "bytes"},
    {RLIMIT_NPROC, "Max processes", "processes"},    {RLIMIT_NOFILE, "Max open files", "files"},
    {RLIMIT_MEMLOCK, "Max locked memory", "bytes"},  {RLIMIT_AS, "Max address space", "bytes"},
    {RLIMIT_LOCKS, "Max file locks", "locks"},       {RLIMIT_SIGPENDING, "Max pending signals", "signals"},
    {RLIMIT_MSGQUEUE, "Max msgqueue size", "bytes"}, {RLIMIT_NICE, "Max nice priority", ""},
    {RLIMIT_RTPRIO, "Max realtime priority", ""},    {RLIMIT_RTTIME, "Max realtime timeout", "us"},
};

// /proc/<PID>/stat.
struct StatFields {
  std::string number_and_name;      // the first two fields
  std::vector<std::string> others;  // from the third on

  // By its number in proc(5), from 3; null: the kernel has no such field.
  std::string* at(size_t number) { return number - 3 < others.size() ? &others[number - 3] : nullptr; }
};

std::optional<StatFields> stat_fields(const std::string& text) {
  // The name may have blanks and parentheses in it.
  const size_t end_of_name = text.rfind(')');
  if (end_of_name == std::string::npos || end_of_name + 2 > text.size()) return std::nullopt;
  std::string rest = text.substr(end_of_name + 2);
  while (rest.ends_with('\n')) rest.pop_back();
  return StatFields{text.substr(0, end_of_name + 1), split(rest, ' ')};
}

}  // namespace

std::string proc_status(const GuestProcess& process, const std::string& of_kernel, pid_t thread) {
  const std::vector<std::string> lines = split(of_kernel, '\n');
  std::map<std::string, std::string> kernel;
  for (const std::string& line : lines)
    if (const size_t colon = line.find(':'); colon != std::string::npos)
      kernel[line.substr(0, colon)] = line.substr(colon + 1);

  const Sizes sizes = sizes_of(process);
  const Resident resident(number_in(kernel["VmRSS"]) << 10, number_in(kernel["RssAnon"]) << 10,
                          number_in(kernel["RssShmem"]) << 10, sizes.total);
  const uint64_t text = std::min(sizes.code.size(), sizes.executable);
  const SignalSets signals = process.signals.sets(thread);
  std::map<std::string, std::string> of_guest;
  const auto kilobytes = [&](const char* name, uint64_t bytes) {
    of_guest[name] = fmt::format("\t{:8} kB", bytes >> 10);
  };
  const auto set = [&](const char* name, uint64_t bits) { of_guest[name] = fmt::format("\t{:016x}", bits); };
  of_guest["FDSize"] = fmt::format("\t{}", descriptor_slots());
  of_guest["Threads"] = fmt::format("\t{}", threads_of(process));
  kilobytes("VmPeak", sizes.total);
  kilobytes("VmSize", sizes.total);
  kilobytes("VmLck", sizes.locked);
  kilobytes("VmHWM", std::clamp(number_in(kernel["VmHWM"]) << 10, resident.all, sizes.total));
  kilobytes("VmRSS", resident.all);
  kilobytes("RssAnon", resident.anonymous);
  kilobytes("RssFile", resident.all - resident.anonymous - resident.shared_memory);
  kilobytes("RssShmem", resident.shared_memory);
  kilobytes("VmData", sizes.data);
  kilobytes("VmStk", sizes.stack);
  kilobytes("VmExe", text);
  kilobytes("VmLib", sizes.executable - text);
  set("SigPnd", signals.pending | number_in(kernel["SigPnd"], 16));
  set("ShdPnd", signals.shared_pending | number_in(kernel["ShdPnd"], 16));
  set("SigBlk", signals.blocked);
  set("SigIgn", signals.ignored);
  set("SigCgt", signals.caught);
  // Beside those that the recorder was started with, which bind its guest as well.
  if (process.seccomp != nullptr && process.seccomp->mode() != SECCOMP_MODE_DISABLED) {
    of_guest["Seccomp"] = fmt::format("\t{}", process.seccomp->mode());
    of_guest["Seccomp_filters"] =
        fmt::format("\t{}", number_in(kernel["Seccomp_filters"]) + process.seccomp->filters());
  }

  std::string status;
  for (const std::string& line : lines) {
    const std::string name = line.substr(0, line.find(':'));
    const auto own = of_guest.find(name);
    status += own == of_guest.end() ? line : name + ':' + own->second;
    status += '\n';
  }
  return status;
}

std::string proc_stat(const GuestProcess& process, const std::string& of_kernel, pid_t thread) {
  std::optional<StatFields> stat = stat_fields(of_kernel);
  if (!stat) return of_kernel;
  const auto put = [&](size_t number, uint64_t value) {
    if (std::string* place = stat->at(number)) *place = std::to_string(value);
  };
  const Sizes sizes = sizes_of(process);
  const Strings strings = strings_of(process);
  const SignalSets signals = process.signals.sets(thread);
  // Shown "for backward compatibility", without realtime signals.
  const auto standard = [](uint64_t bits) { return bits & 0x7fffffff; };
  put(20, threads_of(process));
  put(23, sizes.total);
  if (const std::string* pages = stat->at(24)) put(24, std::min(number_in(*pages), sizes.total / kPageSize));
  put(26, sizes.code.start);
  put(27, sizes.code.end);
  put(28, process.entry.rsp);
  put(29, 0);
  put(30, 0);
  put(31, standard(signals.pending));
  put(32, standard(signals.blocked));
  put(33, standard(signals.ignored));
  put(34, standard(signals.caught));
  put(45, sizes.program_data.start);
  put(46, sizes.program_data.end);
  put(47, process.heap_start);
  put(48, strings.arguments);
  put(49, strings.environment);
  put(50, strings.environment);
  put(51, strings.end);
  return fmt::format("{} {}\n", stat->number_and_name, fmt::join(stat->others, " "));
}

std::string proc_statm(const GuestProcess& process, const std::string& of_kernel) {
  const std::vector<std::string> fields = split(of_kernel, ' ');
  const auto pages = [&](size_t i) { return i < fields.size() ? number_in(fields[i]) : 0; };
  const Sizes sizes = sizes_of(process);
  const uint64_t total = sizes.total / kPageSize, resident = std::min(pages(1), total);
  return fmt::format("{} {} {} {} 0 {} 0\n", total, resident, std::min(pages(2), resident),
                     std::min(sizes.code.size(), sizes.executable) / kPageSize,
                     (sizes.data + sizes.stack) / kPageSize);
}

// fs/proc/array.c, do_task_stat() and proc_pid_status(); fs/proc/task_mmu.c.
std::string proc_text_of_ended(const std::string& name, const std::string& text) {
  if (name == "statm") return "0 0 0 0 0 0 0\n";
  if (name == "stat") {
    std::optional<StatFields> stat = stat_fields(text);
    if (!stat) return text;
    constexpr size_t kOfMemory[] = {23, 24, 26, 27, 28, 29, 30, 45, 46, 47, 48, 49, 50, 51};
    if (std::string* state = stat->at(3)) *state = "Z";
    for (const size_t number : kOfMemory)
      if (std::string* field = stat->at(number)) *field = "0";
    return fmt::format("{} {}\n", stat->number_and_name, fmt::join(stat->others, " "));
  }
  if (name == "status") {
    constexpr const char* kGone[] = {"Umask",       "Vm",          "Rss",       "HugetlbPages",
                                     "CoreDumping", "THP_enabled", "untag_mask"};
    std::string status;
    for (const std::string& line : split(text, '\n')) {
      if (std::ranges::any_of(kGone, [&](const char* gone) { return line.starts_with(gone); })) continue;
      if (line.starts_with("State:"))
        status += "State:\tZ (zombie)";
      else if (line.starts_with("FDSize:"))
        status += "FDSize:\t0";
      else
        status += line;
      status += '\n';
    }
    return status;
  }
  const bool of_memory =
      name == "maps" || name == "smaps" || name == "cmdline" || name == "environ" || name == "auxv";
  return of_memory ? std::string() : text;
}

void show_words_of_guest(const GuestProcess& process) {
  // What is not said anew must be said as it is.
  std::optional<StatFields> stat = stat_fields(kernel_text_of_own("stat"));
  if (!stat) return;
  const auto field = [&](size_t number) {
    const std::string* text = stat->at(number);
    return text != nullptr ? number_in(*text) : 0;
  };
  const Strings strings = strings_of(process);
  std::vector<uint64_t> words = process.auxv;
  prctl_mm_map map{};
  map.start_code = field(26);
  map.end_code = field(27);
  map.start_stack = field(28);
  map.start_data = field(45);
  map.end_data = field(46);
  map.start_brk = field(47);
  map.brk = static_cast<uint64_t>(syscall(SYS_brk, 0));
  map.arg_start = strings.arguments;
  map.arg_end = map.env_start = strings.environment;
  map.env_end = strings.end;
  map.auxv = reinterpret_cast<decltype(map.auxv)>(words.data());
  map.auxv_size = static_cast<uint32_t>(words.size() * sizeof(uint64_t));
  map.exe_fd = ~uint32_t{0};  // stays
  prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0);
}

std::string proc_limits(const GuestProcess& process) {
  const auto value = [](uint64_t limit) {
    return limit == RLIM_INFINITY ? std::string("unlimited") : std::to_string(limit);
  };
  std::string text =
      fmt::format("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
  for (const Limit& known : kLimits) {
    ResourceLimit limit{RLIM_INFINITY, RLIM_INFINITY};
    get_limit(process, known.resource, limit);
    text += fmt::format("{:<25} {:<20} {:<20} {:<10}\n", known.name, value(limit.soft), value(limit.hard),
                        known.unit);
  }
  return text;
}

}  // namespace aftercheck
