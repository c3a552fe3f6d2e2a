// The system calls of checks: those of the VAssert protocol, and the few that malloc and stdio need. Whatever
// would reach outside ends the check.
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>

#include "base/error.h"
#include "checks/excursion.h"
#include "vassert-hooks/include/vassert_format.h"

namespace aftercheck {
namespace {

// Text that one check may leave in the report.
constexpr size_t kMostText = 64 << 10;

struct Arguments {
  uint64_t number, a, b, c, d;
};

bool is_output(uint64_t fd) { return fd == STDOUT_FILENO || fd == STDERR_FILENO; }

size_t text_size(const CheckVisit& visit) {
  size_t size = visit.output.size();
  for (const std::vector<std::string>* list : {&visit.failures, &visit.logs})
    for (const std::string& text : *list) size += text.size() + 1;
  return size;
}

}  // namespace

// Each gives the call's result; nullopt: a check may not make it.
struct Excursions::SystemCalls {
  using Result = std::optional<int64_t>;

  static Result write(Excursions& self, const Arguments& call) {
    if (!is_output(call.a)) return std::nullopt;
    if (!self.keep_output(call.b, call.c)) return -EFAULT;
    return static_cast<int64_t>(call.c);
  }

  static Result writev(Excursions& self, const Arguments& call) {
    if (!is_output(call.a)) return std::nullopt;
    if (call.c > IOV_MAX) return -EINVAL;
    int64_t total = 0;
    for (uint64_t i = 0; i < call.c; ++i) {
      iovec part{};
      if (!self.memory_->read(call.b + i * sizeof part, &part, sizeof part)) return -EFAULT;
      if (!self.keep_output(reinterpret_cast<uint64_t>(part.iov_base), part.iov_len)) return -EFAULT;
      total += static_cast<int64_t>(part.iov_len);
    }
    return total;
  }

  static Result mmap(Excursions& self, const Arguments& call) {
    if ((call.d & MAP_ANONYMOUS) == 0 || (call.d & MAP_FIXED) != 0) return std::nullopt;
    const std::optional<uint64_t> address = self.memory_->map_scratch(call.b);
    return address ? static_cast<int64_t>(*address) : -ENOMEM;
  }

  // The program's own mappings stay as they are; the check can't tell the difference.
  static Result nothing(Excursions&, const Arguments&) { return 0; }

  static Result mprotect(Excursions& self, const Arguments& call) {
    if (!self.memory_->is_scratch(call.a, call.b)) return std::nullopt;
    return 0;
  }

  static Result madvise(Excursions& self, const Arguments& call) {
    if (call.c != MADV_DONTNEED && call.c != MADV_FREE && call.c != MADV_REMOVE) return 0;
    if (!self.memory_->is_scratch(call.a, call.b)) return -EINVAL;
    return ::madvise(reinterpret_cast<void*>(call.a), call.b, MADV_DONTNEED) == 0 ? 0 : -errno;
  }

  static Result no_memory(Excursions&, const Arguments&) { return -ENOMEM; }

  // A pipe, as far as stdio cares: not a terminal, no position.
  static Result status_of_output(Excursions& self, uint64_t address) {
    struct stat status {};
    status.st_mode = S_IFIFO | S_IRUSR | S_IWUSR;
    status.st_blksize = kPageSize;
    status.st_nlink = 1;
    return self.memory_->write(address, &status, sizeof status) ? 0 : -EFAULT;
  }
  static Result fstat(Excursions& self, const Arguments& call) {
    if (!is_output(call.a)) return std::nullopt;
    return status_of_output(self, call.b);
  }
  static Result newfstatat(Excursions& self, const Arguments& call) {
    char first = 0;
    const bool of_descriptor =
        (call.d & AT_EMPTY_PATH) != 0 && self.memory_->read(call.b, &first, 1) && first == 0;
    if (!is_output(call.a) || !of_descriptor) return std::nullopt;
    return status_of_output(self, call.c);
  }
  static Result ioctl(Excursions&, const Arguments& call) {
    if (!is_output(call.a)) return std::nullopt;
    return -ENOTTY;
  }
  static Result lseek(Excursions&, const Arguments& call) {
    if (!is_output(call.a)) return std::nullopt;
    return -ESPIPE;
  }

  // To wait would be for ever: nobody else runs.
  static Result futex(Excursions&, const Arguments& call) {
    const uint64_t operation = call.b & ~uint64_t{FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME};
    if (operation != FUTEX_WAKE && operation != FUTEX_WAKE_BITSET) return std::nullopt;
    return 0;
  }

  static Result getrandom(Excursions& self, const Arguments& call) {
    constexpr uint64_t kMost = 256;  // what getrandom(2) gives without interruption
    const uint64_t size = std::min(call.b, kMost);
    std::array<uint64_t, kMost / sizeof(uint64_t)> words{};
    for (uint64_t& word : words) word = self.random_word();
    return self.memory_->write(call.a, words.data(), size) ? static_cast<int64_t>(size) : -EFAULT;
  }

  // abort() and raise() ask for these on their way to tgkill.
  static Result identity(Excursions&, const Arguments&) { return 1; }
  static Result signal_mask(Excursions& self, const Arguments& call) {
    const std::array<std::byte, 8> empty{};
    if (call.c != 0 && !self.memory_->write(call.c, empty.data(), empty.size())) return -EFAULT;
    return 0;
  }

  struct Row {
    uint64_t number;
    Result (*answer)(Excursions&, const Arguments&);
  };
  static constexpr std::array<Row, 18> kTable = {{{SYS_write, write},
                                                  {SYS_writev, writev},
                                                  {SYS_mmap, mmap},
                                                  {SYS_munmap, nothing},
                                                  {SYS_mprotect, mprotect},
                                                  {SYS_mremap, no_memory},
                                                  {SYS_madvise, madvise},
                                                  // Less than was asked for: the heap does not grow.
                                                  {SYS_brk, nothing},
                                                  {SYS_fstat, fstat},
                                                  {SYS_newfstatat, newfstatat},
                                                  {SYS_ioctl, ioctl},
                                                  {SYS_lseek, lseek},
                                                  {SYS_futex, futex},
                                                  {SYS_getrandom, getrandom},
                                                  {SYS_sched_yield, nothing},
                                                  {SYS_getpid, identity},
                                                  {SYS_gettid, identity},
                                                  {SYS_rt_sigprocmask, signal_mask}}};
};

void Excursions::at_system_call() {
  Registers& registers = vcpu_->registers();
  if (registers.rax == static_cast<uint64_t>(VASSERT_SYSCALL)) return vassert_call();
  const Arguments call{registers.rax, registers.rdi, registers.rsi, registers.rdx, registers.r10};
  for (const SystemCalls::Row& row : SystemCalls::kTable) {
    if (row.number != call.number) continue;
    const SystemCalls::Result result = row.answer(*this, call);
    if (!result) break;
    registers.rax = static_cast<uint64_t>(*result);
    return;
  }
  if (call.number == SYS_tgkill || call.number == SYS_kill || call.number == SYS_tkill) {
    const uint64_t signal = call.number == SYS_tgkill ? call.c : call.b;
    const char* abbreviation = signal < NSIG ? sigabbrev_np(static_cast<int>(signal)) : nullptr;
    return give_up(Verdict::fault, abbreviation != nullptr ? fmt::format("raises SIG{}", abbreviation)
                                                           : fmt::format("raises signal {}", signal));
  }
  const std::string called = options_.system_call_name ? options_.system_call_name(call.number)
                                                       : fmt::format("system call {}", call.number);
  give_up(Verdict::touches_world,
          fmt::format("calls {}({:#x}, {:#x}, {:#x}, {:#x})", called, call.a, call.b, call.c, call.d));
}

void Excursions::vassert_call() {
  Registers& registers = vcpu_->registers();
  const uint64_t operation = registers.rdi;
  const uint64_t first = registers.rsi, second = registers.rdx, third = registers.r10;
  registers.rax = 0;
  switch (operation) {
    case VASSERT_OP_BEGIN:
      registers.rax = visits_.size() - 1;
      return;
    case VASSERT_OP_FAILED:
      return keep(visits_.back().failures, second, third);
    case VASSERT_OP_LOG:
      return keep(visits_.back().logs, first, second);
    case VASSERT_OP_GHOST_MAP: {
      const std::optional<uint64_t> address = memory_->map_ghost(first);
      registers.rax = address ? *address : static_cast<uint64_t>(-ENOMEM);
      return;
    }
    case VASSERT_OP_END:
      return leave();
    default:
      registers.rax = static_cast<uint64_t>(-ENOSYS);
  }
}

// A text of the check's for the report, as far as there is room: a failure counts even if there is none.
void Excursions::keep(std::vector<std::string>& list, uint64_t address, uint64_t length) {
  CheckVisit& visit = visits_.back();
  const size_t used = text_size(visit), room = used < kMostText ? kMostText - used : 0;
  std::string text(std::min<uint64_t>(length, room), '\0');
  if (!memory_->read(address, text.data(), text.size())) text = "(text that can't be read)";
  visit.dropped += length - std::min<uint64_t>(length, room);
  if (room == 0 && !list.empty()) return;
  list.push_back(std::move(text));
}

bool Excursions::keep_output(uint64_t address, uint64_t length) {
  CheckVisit& visit = visits_.back();
  const size_t used = text_size(visit), room = used < kMostText ? kMostText - used : 0;
  std::string text(std::min<uint64_t>(length, room), '\0');
  if (!memory_->read(address, text.data(), text.size())) return false;
  visit.dropped += length - text.size();
  visit.output += text;
  return true;
}

}  // namespace aftercheck
