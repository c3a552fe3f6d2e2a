#include "kvm-recorder/proc_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>

#include "base/fd.h"
#include "kvm-recorder/guest_threads.h"
#include "kvm-recorder/proc_status.h"
#include "kvm-recorder/process_numbers.h"
#include "kvm-recorder/process_tree.h"

namespace aftercheck {
namespace {

// The folder of this process's descriptors as it was before the guest could change its root directory. Kept
// for good: /proc need not be there later, and other mounts of it may have other numbers for processes.
UniqueFd& own_folder() {
  static UniqueFd folder = [] {
    UniqueFd opened(open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC));
    return opened ? move_out_of_guest_reach(std::move(opened)) : std::move(opened);
  }();
  return folder;
}
int own_descriptor_folder() { return own_folder().get(); }

std::string link_at(int directory, const std::string& path) {
  std::array<char, PATH_MAX> target;
  const ssize_t size = readlinkat(directory, path.c_str(), target.data(), target.size());
  return size > 0 ? std::string(target.data(), static_cast<size_t>(size)) : std::string();
}

// Those seen so far. File systems without a disk have major number 0.
struct ProcDevices {
  std::mutex mutex;
  std::vector<std::pair<uint64_t, bool>> known;
};
ProcDevices& proc_devices() {
  static ProcDevices devices;
  return devices;
}

bool on_proc(int fd, struct stat& file) {
  if (fstat(fd, &file) != 0) return false;
  if (const std::optional<bool> known = is_proc_device(file.st_dev)) return *known;
  struct statfs status {};
  const bool proc = fstatfs(fd, &status) == 0 && status.f_type == PROC_SUPER_MAGIC;
  const std::lock_guard lock(proc_devices().mutex);
  proc_devices().known.emplace_back(file.st_dev, proc);
  return proc;
}

// Where something lies in the procfs that it is of.
struct ProcPlace {
  std::string root;   // where that is mounted, with a '/' at the end; empty where that can't be seen
  std::string below;  // "123/maps"
};

ProcPlace place_in_proc(const std::string& path, dev_t device) {
  // "/proc/<this process>/fd", or what is left of it below a root directory of the guest's own
  const std::string own = descriptor_path(own_descriptor_folder());
  const size_t fd = own.rfind("/fd"), process = fd == std::string::npos ? fd : own.rfind('/', fd - 1);
  if (process != std::string::npos && path.starts_with(own.substr(0, process + 1)))
    return {own.substr(0, process + 1), path.substr(process + 1)};
  std::string likely;
  for (size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1)) {
    if (slash + 1 >= path.size() || path[slash + 1] < '0' || path[slash + 1] > '9') continue;
    std::string root = path.substr(0, slash + 1);
    struct stat status {};
    if (stat(root.c_str(), &status) == 0 && status.st_dev == device) return {root, path.substr(slash + 1)};
    if (likely.empty()) likely = path.substr(slash + 1);
  }
  return {{}, likely};
}

// The number that the text starts with, and which a '/' or the end follows; it is taken off.
std::optional<int> take_number(std::string& text) {
  int number = -1;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const auto size = static_cast<size_t>(rest - text.data());
  if (error != std::errc() || (size < text.size() && text[size] != '/')) return std::nullopt;
  text.erase(0, std::min(size + 1, text.size()));
  return number;
}

std::optional<int> last_number(const std::string& path) {
  size_t end = path.size();
  while (end > 0 && path[end - 1] == '/') end--;
  const size_t slash = path.rfind('/', end == 0 ? 0 : end - 1);
  const size_t begin = slash == std::string::npos ? 0 : slash + 1;
  int number = -1;
  const auto [rest, error] = std::from_chars(path.data() + begin, path.data() + end, number);
  if (error != std::errc() || rest != path.data() + end) return std::nullopt;
  return number;
}

std::string maps_line(const Mapping& mapping) {
  const auto flag = [&](int bit, char letter) { return mapping.prot & bit ? letter : '-'; };
  // show_vma_header_prefix and show_map_vma, fs/proc/task_mmu.c: the name starts in column 73.
  std::string line = fmt::format("{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {}", mapping.start, mapping.end,
                                 flag(PROT_READ, 'r'), flag(PROT_WRITE, 'w'), flag(PROT_EXEC, 'x'),
                                 mapping.shared ? 's' : 'p', mapping.offset + mapping.copied_from,
                                 major(mapping.device), minor(mapping.device), mapping.inode);
  if (!mapping.name.empty()) {
    constexpr size_t kNameColumn = 73;
    line.resize(std::max(line.size() + 1, kNameColumn), ' ');
    line += mapping.name;
  }
  return line + '\n';
}

std::string maps(const GuestProcess& process) {
  std::string text;
  for (const auto& [start, mapping] : process.memory.space().mappings()) text += maps_line(mapping);
  return text;
}

// Sizes are true; how much of it is resident is the recorder's secret, so every page counts as such.
std::string smaps(const GuestProcess& process) {
  std::string text;
  for (const auto& [start, mapping] : process.memory.space().mappings()) {
    const uint64_t kilobytes = (mapping.end - mapping.start) / 1024;
    text += maps_line(mapping);
    for (const char* name : {"Size", "Rss", "Pss", mapping.shared ? "Shared_Clean" : "Private_Dirty"})
      text += fmt::format("{:<15} {:>8} kB\n", std::string(name) + ":", kilobytes);
    text += fmt::format("{:<15} {:>8} kB\n{:<15} {:>8} kB\nVmFlags:{}{}{}{}\n", "KernelPageSize:", 4,
                        "MMUPageSize:", 4, mapping.prot & PROT_READ ? " rd" : "",
                        mapping.prot & PROT_WRITE ? " wr" : "", mapping.prot & PROT_EXEC ? " ex" : "",
                        mapping.shared ? " sh" : "");
  }
  return text;
}

std::string joined(const std::vector<std::string>& strings) {
  std::string text;
  for (const std::string& string : strings) text.append(string).push_back('\0');
  return text;
}

std::string auxv(const GuestProcess& process) {
  std::string text(process.auxv.size() * sizeof(uint64_t), '\0');
  std::memcpy(text.data(), process.auxv.data(), text.size());
  return text;
}

std::string text_of(int file) {
  std::string text;
  std::array<char, 4096> part;
  ssize_t size = 0;
  while ((size = read(file, part.data(), part.size())) > 0)
    text.append(part.data(), static_cast<size_t>(size));
  return text;
}

// The kernel's text of an entry of this process, or of one of its threads.
std::string of_kernel(const char* name, pid_t thread) {
  const std::string path =
      thread == 0 ? fmt::format("../{}", name) : fmt::format("../task/{}/{}", thread, name);
  const UniqueFd file(openat(own_descriptor_folder(), path.c_str(), O_RDONLY | O_CLOEXEC));
  return text_of(file.get());
}

struct Entry {
  const char* name;
  std::string (*contents)(const GuestProcess&, pid_t);  // null: EACCES, as for a process of somebody else
};

// An entry that is the same for all threads.
template <std::string (*kContents)(const GuestProcess&)>
std::string of_process(const GuestProcess& process, pid_t) {
  return kContents(process);
}
std::string arguments(const GuestProcess& process) { return joined(process.arguments); }
std::string environment(const GuestProcess& process) { return joined(process.environment); }
std::string personality(const GuestProcess& process) { return fmt::format("{:08x}\n", process.personality); }
std::string statm(const GuestProcess& process) { return proc_statm(process, of_kernel("statm", 0)); }
std::string status(const GuestProcess& process, pid_t thread) {
  if (process.threads != nullptr) process.threads->clear_pins();  // Cpus_allowed
  return proc_status(process, of_kernel("status", thread), thread);
}
std::string stat_of(const GuestProcess& process, pid_t thread) {
  return proc_stat(process, of_kernel("stat", thread), thread);
}

constexpr Entry kEntries[] = {
    {"maps", of_process<maps>},
    {"smaps", of_process<smaps>},
    {"cmdline", of_process<arguments>},
    {"environ", of_process<environment>},
    {"auxv", of_process<auxv>},
    {"personality", of_process<personality>},
    {"status", status},
    {"stat", stat_of},
    {"statm", of_process<statm>},
    {"limits", of_process<proc_limits>},
    {"mem", nullptr},
    {"pagemap", nullptr},
    {"clear_refs", nullptr},
    {"map_files", nullptr},
    {"numa_maps", nullptr},
    {"smaps_rollup", nullptr},
    {"stack", nullptr},
    {"syscall", nullptr},
};

}  // namespace

std::string kernel_text_of_own(const char* name) { return of_kernel(name, 0); }

namespace {

// What the kernel would say is the recorder's.
bool is_untold_of_others(const std::string& name) {
  constexpr std::array kNames = {"maps",       "smaps", "smaps_rollup", "numa_maps", "pagemap",
                                 "clear_refs", "mem",   "stack",        "syscall"};
  return name.starts_with("map_files") ||
         std::any_of(kNames.begin(), kNames.end(), [&](const char* known) { return name == known; });
}

}  // namespace

std::vector<int> open_descriptors() {
  std::vector<int> fds;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir("/proc/self/fd"), closedir);
  if (!directory) return fds;
  while (const dirent* entry = readdir(directory.get())) {
    const std::optional<int> fd = last_number(entry->d_name);
    if (fd && *fd != dirfd(directory.get())) fds.push_back(*fd);
  }
  return fds;
}

std::string GuestProcess::executable_path() const {
  return executable_file ? fmt::format("/proc/self/fd/{}", executable_file.get()) : executable;
}

namespace {

// As that mount of /proc calls it, which may be of another namespace of processes.
int number_here() {
  struct stat status {};
  fstat(own_descriptor_folder(), &status);
  std::string text = place_in_proc(descriptor_path(own_descriptor_folder()), status.st_dev).below;
  return take_number(text).value_or(getpid());
}

int& own_process() {
  static int process = number_here();
  return process;
}

}  // namespace

void proc_files_forked() {
  // "self" leads to whoever follows it: from the parent's folder, whatever the guest's root directory is.
  UniqueFd opened(openat(own_descriptor_folder(), "../../self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!opened) opened.reset(open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (opened) own_folder() = move_out_of_guest_reach(std::move(opened));
  own_process() = number_here();
}

void prepare_proc_files() {
  own_process();
  is_recorder_program(0, 0);
}

std::string descriptor_path(int fd) { return link_at(own_descriptor_folder(), std::to_string(fd)); }

std::optional<bool> is_proc_device(uint64_t device) {
  if (major(device) != 0) return false;
  ProcDevices& devices = proc_devices();
  const std::lock_guard lock(devices.mutex);
  for (const auto& [known, proc] : devices.known)
    if (known == device) return proc;
  return std::nullopt;
}

namespace {

// `thread` as the procfs of own_descriptor_folder() has it.
Whose whose_here(int thread) {
  if (thread == own_process() || (thread > 0 && whose(thread) == Whose::guest)) return Whose::guest;
  const std::string name = fmt::format("../task/{}", thread);
  const bool ours = faccessat(own_descriptor_folder(), name.c_str(), F_OK, AT_EACCESS) == 0;
  return ours ? Whose::recorder : Whose::other;
}

// The folder of a process or thread in another procfs, which may have other numbers (of a namespace above).
Whose whose_there(const std::string& folder) {
  const std::optional<pid_t> number = number_of_folder(folder);
  return number ? whose(*number) : Whose::other;
}

}  // namespace

std::optional<ProcEntry> proc_entry(int fd) {
  struct stat file {
  }, own{};
  if (!on_proc(fd, file)) return std::nullopt;
  ProcPlace place = place_in_proc(descriptor_path(fd), file.st_dev);
  const bool here =
      place.root.empty() || (fstat(own_descriptor_folder(), &own) == 0 && own.st_dev == file.st_dev);
  int folder = 0;
  const auto take_folder = [&] {
    const std::optional<int> number = take_number(place.below);
    if (!number) return Whose::other;
    folder = *number;
    place.root += std::to_string(*number);
    return here ? whose_here(*number) : whose_there(place.root);
  };
  const Whose process = take_folder();
  if (process == Whose::other) return std::nullopt;
  ProcEntry entry{.of_recorder = process == Whose::recorder, .name = {}};
  if (folder != own_process()) entry.thread = folder;
  if (place.below.starts_with("task/")) {
    place.below.erase(0, std::strlen("task/"));
    place.root += "/task/";
    entry.of_recorder = take_folder() == Whose::recorder || entry.of_recorder;
    entry.thread = folder;
  }
  if (!here) entry.thread = 0;
  entry.name = std::move(place.below);
  return entry;
}

std::optional<OtherProcEntry> entry_of_other(int fd) {
  struct stat file {
  }, own{};
  if (!on_proc(fd, file) || fstat(own_descriptor_folder(), &own) != 0 || own.st_dev != file.st_dev)
    return std::nullopt;
  std::string below = place_in_proc(descriptor_path(fd), file.st_dev).below;
  const std::optional<int> number = take_number(below);
  if (!number || whose_here(*number) != Whose::other) return std::nullopt;
  pid_t thread = *number;
  if (below.starts_with("task/")) {
    below.erase(0, std::strlen("task/"));
    thread = take_number(below).value_or(thread);
  }
  return OtherProcEntry{*number, thread, std::move(below)};
}

bool is_recorder_thread(int folder, const char* name) {
  const UniqueFd thread(openat(folder, name, O_PATH | O_CLOEXEC));
  const std::optional<ProcEntry> entry = thread ? proc_entry(thread.get()) : std::nullopt;
  return entry && entry->of_recorder;
}

bool is_own_descriptor_entry(const std::string& name) {
  if (!name.starts_with("fd/") && !name.starts_with("fdinfo/")) return false;
  const std::optional<int> number = last_number(name);
  return number && is_own_fd(*number);
}

bool is_recorder_program(uint64_t device, uint64_t inode) {
  static const struct stat program = [] {
    struct stat status {};
    stat("/proc/self/exe", &status);
    return status;
  }();
  return program.st_ino == inode && program.st_dev == device;
}

ProcAnswer answer_proc_entry(const GuestProcess& process, const ProcEntry& entry) {
  for (const Entry& known : kEntries) {
    if (entry.name != known.name &&
        !(entry.name.starts_with("map_files/") && std::strcmp(known.name, "map_files") == 0))
      continue;
    if (known.contents == nullptr) return {ProcAnswer::Kind::forbidden, {}};
    std::string contents = known.contents(process, entry.thread);
    const bool of_first = entry.thread == 0 || entry.thread == getpid();
    if (of_first && process.tree != nullptr && process.tree->first_thread_ended(getpid()))
      contents = proc_text_of_ended(known.name, contents);
    return {ProcAnswer::Kind::contents, std::move(contents)};
  }
  return {};
}

ProcAnswer answer_entry_of_other(const ProcessTree& tree, const OtherProcEntry& entry, int fd) {
  if (!tree.is_recorded(entry.process)) return {};
  if (is_untold_of_others(entry.name)) return {ProcAnswer::Kind::forbidden, {}};
  constexpr std::array kOfThreads = {"stat", "status", "statm", "cmdline"};
  if (entry.thread != entry.process || std::ranges::find(kOfThreads, entry.name) == kOfThreads.end() ||
      !tree.first_thread_ended(entry.process))
    return {};
  const std::string text = text_of(fd);
  if (text.empty()) return {};  // not open for reading
  return {ProcAnswer::Kind::contents, proc_text_of_ended(entry.name, text)};
}

long open_contents(const std::string& contents, bool close_on_exec) {
  const UniqueFd file(memfd_create("proc", MFD_CLOEXEC));
  if (!file) return -errno;
  for (size_t done = 0; done < contents.size();) {
    const ssize_t size = write(file.get(), contents.data() + done, contents.size() - done);
    if (size < 0) return -errno;
    done += static_cast<size_t>(size);
  }
  const std::string path = fmt::format("/proc/self/fd/{}", file.get());
  const int fd = open(path.c_str(), O_RDONLY | (close_on_exec ? O_CLOEXEC : 0));
  return fd >= 0 ? fd : -errno;
}

}  // namespace aftercheck
