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

#include "base/fd.h"

namespace aftercheck {
namespace {

std::string link_target(const std::string& path) {
  std::array<char, PATH_MAX> target;
  const ssize_t size = readlink(path.c_str(), target.data(), target.size());
  return size > 0 ? std::string(target.data(), static_cast<size_t>(size)) : std::string();
}

bool on_proc(int fd) {
  struct statfs status {};
  return fstatfs(fd, &status) == 0 && status.f_type == PROC_SUPER_MAGIC;
}

// The link or file that the name leads to, its last part not followed.
UniqueFd open_unfollowed(int directory, const std::string& path) {
  return UniqueFd(openat(directory, path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
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

struct Entry {
  const char* name;
  std::string (*contents)(const GuestProcess&);  // null: EACCES, as for a process of somebody else
};

constexpr Entry kEntries[] = {
    {"maps", maps},
    {"smaps", smaps},
    {"cmdline", [](const GuestProcess& process) { return joined(process.arguments); }},
    {"environ", [](const GuestProcess& process) { return joined(process.environment); }},
    {"auxv", auxv},
    {"personality", [](const GuestProcess& process) { return fmt::format("{:08x}\n", process.personality); }},
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

std::string descriptor_path(int fd) { return link_target(fmt::format("/proc/self/fd/{}", fd)); }

std::optional<std::string> own_proc_entry(int fd) {
  if (!on_proc(fd)) return std::nullopt;
  const std::string path = descriptor_path(fd);
  static const std::string self = fmt::format("/{}/", link_target("/proc/self"));
  const size_t found = path.find(self);
  if (found == std::string::npos) return std::nullopt;
  std::string entry = path.substr(found + self.size());
  if (entry.starts_with("task/")) {
    const size_t slash = entry.find('/', 5);
    if (slash == std::string::npos) return std::nullopt;
    entry.erase(0, slash + 1);
  }
  return entry;
}

bool is_own_executable_link(int directory, const std::string& path) {
  if (path.empty()) return own_proc_entry(directory) == "exe";  // AT_EMPTY_PATH
  const UniqueFd link = open_unfollowed(directory, path);
  return link && own_proc_entry(link.get()) == "exe";
}

bool is_own_descriptor_link(int directory, const std::string& path) {
  const std::optional<int> number = last_number(path);
  if (!number || !is_own_fd(*number)) return false;
  const UniqueFd link = open_unfollowed(directory, path);
  if (!link) return false;
  const std::optional<std::string> entry = own_proc_entry(link.get());
  return entry && (entry->starts_with("fd/") || entry->starts_with("fdinfo/"));
}

bool is_recorder_program(uint64_t device, uint64_t inode) {
  static const struct stat program = [] {
    struct stat status {};
    stat("/proc/self/exe", &status);
    return status;
  }();
  return program.st_ino == inode && program.st_dev == device;
}

ProcAnswer answer_proc_entry(const GuestProcess& process, const std::string& entry) {
  for (const Entry& known : kEntries) {
    if (entry != known.name &&
        !(entry.starts_with("map_files/") && std::strcmp(known.name, "map_files") == 0))
      continue;
    if (known.contents == nullptr) return {ProcAnswer::Kind::forbidden, {}};
    return {ProcAnswer::Kind::contents, known.contents(process)};
  }
  return {};
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
