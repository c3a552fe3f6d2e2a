#include "kvm-recorder/reach.h"

#include <linux/openat2.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdio>
#include <deque>
#include <optional>
#include <utility>

#include "kvm-recorder/file_names.h"
#include "kvm-recorder/proc_files.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

constexpr uint64_t kNoMagicLinks = RESOLVE_NO_MAGICLINKS;
constexpr int kMostLinks = 40;  // MAXSYMLINKS, include/linux/namei.h

long open_how_call(int directory, const char* path, const open_how& how) {
  return host_call(SYS_openat2, static_cast<uint64_t>(directory), host_pointer(path), host_pointer(&how),
                   sizeof how);
}

// Not before Linux 5.6, nor where a sandbox answers it as it likes: what it says of a name must be about
// that.
bool has_openat2() {
  static const bool has = [] {
    open_how how{};
    how.flags = O_PATH | O_CLOEXEC;
    const UniqueFd root(static_cast<int>(open_how_call(AT_FDCWD, "/", how)));
    return static_cast<bool>(root);
  }();
  return has;
}

// Without going through links such as /proc/self/fd/N, which lead to a thing and not to a name. -errno.
int open_plainly(int directory, const char* path, uint64_t flags, uint64_t resolve) {
  if (!has_openat2()) return -ENOSYS;
  open_how how{};
  how.flags = flags | O_PATH | O_CLOEXEC;
  how.resolve = resolve | kNoMagicLinks;
  return static_cast<int>(open_how_call(directory, path, how));
}

// One part of a name, or a whole one, by the kernel alone. None on any error.
UniqueFd open_part(int directory, const char* part, int flags) {
  return UniqueFd(openat(directory, part, flags | O_PATH | O_CLOEXEC));
}

std::optional<std::string> link_text(int link) {
  std::array<char, PATH_MAX> text;
  const ssize_t size = readlinkat(link, "", text.data(), text.size());
  if (size < 0) return std::nullopt;
  return std::string(text.data(), static_cast<size_t>(size));
}

// "a/b" -> "a/", "b" -> "."
std::string folder_of(const std::string& path) {
  size_t end = path.size();
  while (end > 0 && path[end - 1] == '/') --end;
  const size_t slash = end == 0 ? 0 : path.rfind('/', end - 1);
  if (end == 0 || slash == std::string::npos) return end == 0 ? "/" : ".";
  return path.substr(0, slash + 1);
}

// Goes through a name part by part, as path_resolution(7) does, and looks at each part that lies in /proc.
class Walk {
 public:
  Walk(const GuestProcess& process, const NameOfFile& name) : process_(process), name_(name) {
    followed_ = name.followed || name.path.ends_with('/');
  }

  Reached run() {
    if (!restart(name_.path, name_.directory)) return {};
    while (!parts_.empty()) {
      const std::string part = std::move(parts_.front());
      parts_.pop_front();
      if (!enter(part)) return std::move(result_);
    }
    result_.error = refusal(process_, at_.get());
    result_.object = std::move(at_);
    return std::move(result_);
  }

 private:
  const GuestProcess& process_;
  const NameOfFile& name_;
  bool followed_ = true;
  UniqueFd at_;
  std::deque<std::string> parts_;  // still to go
  int links_ = 0;
  Reached result_;

  // Puts the text's parts before those that are still to go.
  void prepend(const std::string& text) {
    std::deque<std::string> parts;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('/', begin), text.size());
      if (end > begin && text.compare(begin, end - begin, ".") != 0)
        parts.push_back(text.substr(begin, end - begin));
      begin = end + 1;
    }
    parts_.insert(parts_.begin(), parts.begin(), parts.end());
  }

  bool restart(const std::string& text, int directory) {
    prepend(text);
    if (text.starts_with('/')) {
      at_ = open_part(AT_FDCWD, "/", O_DIRECTORY);
    } else if (directory == AT_FDCWD) {
      at_ = open_part(AT_FDCWD, ".", O_DIRECTORY);
    } else {
      at_ = open_part(directory, ".", O_DIRECTORY);
    }
    return static_cast<bool>(at_);
  }

  // False when the walk ends here, with result_.
  bool enter(const std::string& part) {
    UniqueFd next = open_part(at_.get(), part.c_str(), O_NOFOLLOW);
    if (!next) {
      if (errno == ENOENT && parts_.empty() && name_.made) result_.error = refusal(process_, at_.get());
      return false;
    }
    struct stat status {};
    if (fstat(next.get(), &status) != 0) return false;
    const std::optional<ProcEntry> entry = proc_entry(next.get());
    if (entry && (entry->of_recorder || is_own_descriptor_entry(entry->name))) {
      result_.error = ENOENT;
      return false;
    }
    if (S_ISLNK(status.st_mode) && (!parts_.empty() || followed_)) return follow(next, status, entry, part);
    at_ = std::move(next);
    return true;
  }

  bool follow(const UniqueFd& link, const struct stat& status, const std::optional<ProcEntry>& entry,
              const std::string& part) {
    if (++links_ > kMostLinks) return false;
    std::string program = entry && entry->name == "exe" ? process_.executable_path() : std::string();
    if (!entry && part == "exe" && process_.tree != nullptr)
      if (const std::optional<OtherProcEntry> other = entry_of_other(link.get()))
        program = process_.tree->executable_of(other->process);
    if (!program.empty()) {
      result_.instead = std::move(program);
      at_ = open_part(AT_FDCWD, result_.instead.c_str(), 0);
      for (const std::string& rest : parts_) result_.instead += '/' + rest;
      return static_cast<bool>(at_);
    }
    if (entry && answer_proc_entry(process_, *entry).kind == ProcAnswer::Kind::forbidden) {
      result_.error = EACCES;
      return false;
    }
    if (entry || is_proc_device(status.st_dev).value_or(false)) {
      at_ = open_part(at_.get(), part.c_str(), 0);  // leads to a thing; /proc's other links lead into it
      if (!at_) return false;
      const std::optional<ProcEntry> target = proc_entry(at_.get());
      if (!target || !target->of_recorder) return true;
      result_.error = ENOENT;
      return false;
    }
    const std::optional<std::string> text = link_text(link.get());
    if (!text) return false;
    if (text->starts_with('/')) return restart(*text, AT_FDCWD);
    prepend(*text);
    return true;
  }
};

}  // namespace

int refusal(const GuestProcess& process, int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0 || !process.own_files.may_be_ours(status.st_dev, status.st_ino, status.st_ctim))
    return 0;
  if (const std::optional<ProcEntry> entry = proc_entry(fd))
    return entry->of_recorder || is_own_descriptor_entry(entry->name) ? ENOENT
           : entry->name.starts_with("map_files/")                    ? EACCES
                                                                      : 0;
  return process.own_files.holds(fd, status, process.memory.host_thread()) ? EACCES : 0;
}

namespace {

Reached find(const GuestProcess& process, const NameOfFile& name) {
  if (name.path.empty() || (name.path[0] != '/' && !process.descriptors.allowed(name.directory))) return {};
  const uint64_t flags = name.followed ? 0 : O_NOFOLLOW;
  const int fd = open_plainly(name.directory, name.path.c_str(), flags, name.resolve);
  if (fd >= 0) {
    Reached reached;
    reached.object.reset(fd);
    reached.error = refusal(process, fd);
    return reached;
  }
  constexpr uint64_t kNoSuchLinksAnyway =
      RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH | RESOLVE_IN_ROOT;  // openat2(2)
  if ((fd == -ELOOP || fd == -ENOSYS) && !(name.resolve & kNoSuchLinksAnyway))
    return Walk(process, name).run();
  if (fd != -ENOENT || !name.made) return {};
  if (name.followed && !(name.resolve & kNoSuchLinksAnyway)) {
    const int link = open_plainly(name.directory, name.path.c_str(), O_NOFOLLOW, name.resolve);
    if (link >= 0) {  // leads to what is not there yet
      close(link);
      return Walk(process, name).run();
    }
  }
  const UniqueFd folder(
      open_plainly(name.directory, folder_of(name.path).c_str(), O_DIRECTORY, name.resolve));
  if (folder.get() == -ELOOP && !(name.resolve & kNoSuchLinksAnyway)) return Walk(process, name).run();
  Reached reached;
  if (folder) reached.error = refusal(process, folder.get());
  return reached;
}

}  // namespace

Reached reach(const GuestProcess& process, const NameOfFile& name) {
  Reached reached = find(process, name);
  struct stat status {};
  if (name.moved && reached.error == 0 && reached.object && fstat(reached.object.get(), &status) == 0 &&
      process.own_files.is_above(status))
    reached.error = EACCES;
  return reached;
}

bool has_number(std::string_view path) {
  constexpr std::string_view kDigits = "0123456789";
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    if (end > begin && path.substr(begin, end - begin).find_first_not_of(kDigits) == std::string_view::npos)
      return true;
    begin = end + 1;
  }
  return false;
}

bool is_clearly_elsewhere(const GuestProcess& process, const NameOfFile& name) {
  if (name.path.empty() || !process.descriptors.allowed(name.directory) || has_number(name.path))
    return false;
  struct stat status {};
  const long error =
      host_call(SYS_newfstatat, static_cast<uint64_t>(name.directory), host_pointer(name.path.c_str()),
                host_pointer(&status), name.followed ? 0 : AT_SYMLINK_NOFOLLOW);
  if (error != 0) return error == -ENOENT;
  return !process.own_files.may_be_ours(status.st_dev, status.st_ino, status.st_ctim);
}

namespace {

NameOfFile name_in(const Call& call, const FileName& rule) {
  NameOfFile name;
  if (rule.directory != FileName::kNone) name.directory = call.fd(rule.directory);
  name.followed = rule.end == FileName::End::followed || rule.end == FileName::End::asked;
  if (rule.flags != FileName::kNone && (call.args[rule.flags] & rule.flag)) name.followed = !name.followed;
  name.made = rule.end == FileName::End::made;
  // Of two names that are exchanged the second one moves, too.
  name.moved = rule.end == FileName::End::moved ||
               (call.row.number == SYS_renameat2 && (call.args[4] & RENAME_EXCHANGE) != 0);
  return name;
}

// bind and connect: a name of the file system starts in the address and ends with it or with a 0; names of
// the abstract kind start with one (unix(7)).
long check_address(Call& call) {
  sockaddr_un address{};
  const size_t size = std::min<size_t>(static_cast<uint32_t>(call.args[2]), sizeof address);
  if (size <= offsetof(sockaddr_un, sun_path) || !call.process.memory.read(call.args[1], &address, size) ||
      address.sun_family != AF_UNIX || address.sun_path[0] == '\0')
    return 0;
  NameOfFile name;
  const size_t room = size - offsetof(sockaddr_un, sun_path);
  name.path.assign(address.sun_path, strnlen(address.sun_path, room));
  name.made = call.row.number == SYS_bind;
  name.followed = !name.made;
  return -reach(call.process, name).error;
}

}  // namespace

long check_names(Call& call) {
  for (const FileName& rule : file_names(call.row.number)) {
    if (rule.end == FileName::End::handler || rule.end == FileName::End::no_file) continue;
    NameOfFile name = name_in(call, rule);
    if (!call.process.memory.read_string(call.args[rule.argument], name.path, PATH_MAX)) continue;
    if (rule.end == FileName::End::asked && is_clearly_elsewhere(call.process, name)) continue;
    Reached reached = reach(call.process, name);
    if (reached.error != 0) return -reached.error;
    if (reached.instead.empty()) continue;
    call.instead = std::move(reached.instead);
    call.instead_of = rule.argument;
  }
  if (call.row.number == SYS_bind || call.row.number == SYS_connect) return check_address(call);
  return 0;
}

}  // namespace aftercheck
