#include "kvm-recorder/resource_limits.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "base/fd.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

// Nothing where there is no limit: that is usual, so it must cost nothing.
std::optional<uint64_t> kept_limit(const GuestProcess& process, int resource) {
  if (process.limits.empty()) return std::nullopt;
  const auto kept = process.limits.find(resource);
  if (kept == process.limits.end() || kept->second.soft == RLIM_INFINITY) return std::nullopt;
  return kept->second.soft;
}

long too_large(Call& call) {
  siginfo_t info{};
  info.si_signo = SIGXFSZ;
  info.si_code = SI_USER;  // send_sig(): as if the thread had sent it
  info.si_pid = getpid();
  info.si_uid = getuid();
  call.task.signals.raise(SIGXFSZ, info);
  return -EFBIG;
}

}  // namespace

void take_over_limits(GuestProcess& process) {
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  process.limits[RLIMIT_FSIZE] = {limit.rlim_cur, limit.rlim_max};
  const rlimit none{RLIM_INFINITY, RLIM_INFINITY}, most{limit.rlim_max, limit.rlim_max};
  if (setrlimit(RLIMIT_FSIZE, &none) != 0) setrlimit(RLIMIT_FSIZE, &most);
}

long get_limit(const GuestProcess& process, int resource, ResourceLimit& limit) {
  const auto kept = process.limits.find(resource);
  if (kept != process.limits.end()) {
    limit = kept->second;
    return 0;
  }
  const long result = host_call(SYS_prlimit64, 0, static_cast<uint64_t>(resource), 0, host_pointer(&limit));
  if (result == 0 && resource == RLIMIT_NOFILE) {
    const auto most = static_cast<uint64_t>(own_fd_floor());
    limit.soft = std::min(limit.soft, most);
    limit.hard = std::min(limit.hard, most);
  }
  return result;
}

int end_of_descriptors(const GuestProcess& process) {
  const auto floor = static_cast<uint64_t>(own_fd_floor());
  return static_cast<int>(std::min(kept_limit(process, RLIMIT_NOFILE).value_or(floor), floor));
}

long within_limit(const GuestProcess& process, long fd) {
  if (fd < end_of_descriptors(process)) return fd;
  host_call(SYS_close, static_cast<uint64_t>(fd));
  return -EMFILE;
}

long room_in_file(Call& call, int fd, std::optional<int64_t> offset, uint64_t count) {
  const auto all = static_cast<long>(std::min(count, kMaxTransfer));
  const std::optional<uint64_t> limit = kept_limit(call.process, RLIMIT_FSIZE);
  struct stat status {};
  if (!limit || count == 0 || !call.process.descriptors.allowed(fd)) return all;
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
    return all;
  int64_t at = offset ? *offset : lseek(fd, 0, SEEK_CUR);
  if ((flags & O_APPEND) != 0) at = status.st_size;
  if (at < 0) return all;
  if (static_cast<uint64_t>(at) >= *limit) return too_large(call);
  return static_cast<long>(
      std::min<uint64_t>(static_cast<uint64_t>(all), *limit - static_cast<uint64_t>(at)));
}

long check_file_size(Call& call, int64_t now, int64_t size) {
  const std::optional<uint64_t> limit = kept_limit(call.process, RLIMIT_FSIZE);
  if (!limit || size <= now || static_cast<uint64_t>(size) <= *limit) return 0;
  return too_large(call);
}

}  // namespace aftercheck
