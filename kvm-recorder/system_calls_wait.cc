// Calls that wait: poll, select, epoll, sleeps, futex. A signal mask that holds for one call is the guest's
// business, not the host's: it is emulated around a call made without it.
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include <algorithm>
#include <vector>

#include "base/fd.h"
#include "kvm-recorder/guest_threads.h"
#include "kvm-recorder/process_tree.h"
#include "kvm-recorder/system_calls.h"
#include "kvm-recorder/waiting_call.h"

namespace aftercheck {
namespace {

constexpr uint64_t kSigsetSize = 8;  // sizeof(kernel sigset_t) on x86-64

// The guest's mask for one call. Ends with the call, unless a signal interrupts it: then the signal is
// delivered under the mask, and the delivery ends it (thread_signals.h), as the kernel's
// restore_saved_sigmask_unless.
class TemporaryMask {
 public:
  explicit TemporaryMask(Call& call) : signals_(call.task.signals) {}
  // `set` is a guest address, maybe 0. 0 or -errno.
  long apply(GuestProcess& process, uint64_t set, uint64_t size) {
    if (set == 0) return 0;
    if (size != kSigsetSize) return -EINVAL;
    uint64_t mask = 0;
    if (!process.memory.read_object(set, mask)) return -EFAULT;
    signals_.set_temporary_mask(mask);
    active_ = true;
    return 0;
  }
  long finish(long result) {
    if (active_ && result != -EINTR) signals_.restore_mask();
    return result;
  }

 private:
  ThreadSignals& signals_;
  bool active_ = false;
};

uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// Descriptors of the recorder in the guest's set: to the guest they are not open.
bool names_own_fd(std::span<const pollfd> fds) {
  return std::any_of(fds.begin(), fds.end(),
                     [](const pollfd& entry) { return entry.fd >= 0 && is_own_fd(entry.fd); });
}

long poll_around_own(Call& call, std::vector<pollfd> fds) {
  std::vector<bool> own(fds.size());
  for (size_t i = 0; i < fds.size(); i++) {
    own[i] = fds[i].fd >= 0 && is_own_fd(fds[i].fd);
    if (own[i]) fds[i].fd = ~fds[i].fd;
  }
  timespec none{};  // POLLNVAL is there at once
  long result = host_call(SYS_ppoll, host_pointer(fds.data()), fds.size(), host_pointer(&none), 0, 0);
  if (result < 0) return result;
  for (size_t i = 0; i < fds.size(); i++) {
    if (!own[i]) continue;
    fds[i].fd = ~fds[i].fd;
    fds[i].revents = POLLNVAL;
    result++;
  }
  const uint64_t size = fds.size() * sizeof(pollfd);
  return call.answer.write(call.args[0], fds.data(), size) ? result : -EFAULT;
}

long poll_with(Call& call, uint64_t timeout) {
  const uint64_t address = call.args[0], count = static_cast<uint32_t>(call.args[1]);
  if (count > static_cast<uint64_t>(own_fd_floor())) return -EINVAL;
  const uint64_t size = count * sizeof(pollfd);
  std::array<pollfd, 64> few;
  std::vector<pollfd> many;
  std::span<pollfd> fds(few.data(), std::min<size_t>(count, few.size()));
  if (count > few.size()) {
    many.resize(count);
    fds = many;
  }
  if (count != 0 && !call.process.memory.read(address, fds.data(), size)) return -EFAULT;
  if (names_own_fd(fds)) return poll_around_own(call, {fds.begin(), fds.end()});
  const uint64_t host_address = count == 0 ? 0 : host_pointer(fds.data());
  const long result = blocking_call(call, SYS_ppoll, {host_address, count, timeout, 0, 0, 0});
  // revents are stored whether or not a signal came (fs/select.c, do_sys_poll).
  if ((result >= 0 || result == -EINTR) && !call.answer.write(address, fds.data(), size)) return -EFAULT;
  return result;
}

}  // namespace

namespace calls {

long poll(Call& call) {
  TemporaryMask mask(call);
  long result = 0;
  if (call.row.number == SYS_ppoll) {
    const uint64_t timeout = call.buffers.stand_in(guest_pointer(call.args[2], sizeof(timespec)),
                                                   sizeof(timespec), CallBuffers::Use::in);
    if (const long error = mask.apply(call.process, call.args[3], call.args[4])) return error;
    result = mask.finish(poll_with(call, timeout));
    std::array<uint64_t, 6> args{0, 0, timeout};
    note_writes(call, args, result == -EFAULT ? -EINTR : result);
  } else {
    const int milliseconds = static_cast<int>(call.args[2]);
    // The kernel keeps the time that remains in here when something that isn't the guest's business
    // interrupts.
    timespec remaining{milliseconds / 1000, (milliseconds % 1000) * 1'000'000};
    result = poll_with(call, milliseconds < 0 ? 0 : host_pointer(&remaining));
  }
  return interrupted_result(call, result);
}

long select(Call& call) {
  const int asked = static_cast<int>(call.args[0]);
  if (asked < 0) return -EINVAL;
  // The kernel looks no further than the descriptor table goes; the guest's ends at the floor.
  const auto count = static_cast<uint64_t>(std::min(asked, own_fd_floor()));
  const uint64_t size = (count + 63) / 64 * 8;  // FDS_BYTES, fs/select.c
  std::array<uint64_t, 6> args{count};
  for (size_t i = 1; i <= 3; i++)
    args[i] = call.buffers.stand_in(guest_pointer(call.args[i], size), size, CallBuffers::Use::contents);
  constexpr uint64_t kTime = sizeof(timespec);
  args[4] = call.buffers.stand_in(guest_pointer(call.args[4], kTime), kTime, CallBuffers::Use::in);
  TemporaryMask mask(call);
  if (call.row.number == SYS_pselect6 && call.args[5] != 0) {
    std::array<uint64_t, 2> set_and_size{};
    if (!call.process.memory.read_object(call.args[5], set_and_size)) return -EFAULT;
    if (const long error = mask.apply(call.process, set_and_size[0], set_and_size[1])) return error;
  }
  const long result = mask.finish(blocking_call(call, call.row.number, args));
  for (size_t i = 1; i <= 3; i++) {
    if (args[i] == 0) continue;
    if (result >= 0) note_written(call, args[i], size);
    if (result == -EFAULT) note_reachable(call, args[i], size);
  }
  note_writes(call, {0, 0, 0, 0, args[4], 0}, result == -EFAULT ? -EINTR : result);
  return interrupted_result(call, result);
}

long epoll_wait(Call& call) {
  std::array<uint64_t, 6> args;
  if (!prepare(call, args)) return -EBADF;
  const int max_events = static_cast<int>(args[2]);
  // EP_MAX_EVENTS, fs/eventpoll.c.
  constexpr int kMaxEvents = INT32_MAX / static_cast<int>(sizeof(epoll_event));
  if (max_events <= 0 || max_events > kMaxEvents) return -EINVAL;
  const uint64_t all = static_cast<uint64_t>(max_events) * sizeof(epoll_event);
  // One call need not give all that is ready.
  constexpr int kMostAtOnce = 1 << 16;
  args[2] = static_cast<uint64_t>(std::min(max_events, kMostAtOnce));
  const uint64_t size = args[2] * sizeof(epoll_event);
  args[1] = call.buffers.stand_in(guest_pointer(args[1], all), size, CallBuffers::Use::out);
  const uint64_t set = args[4];
  args[4] = args[5] = 0;
  TemporaryMask mask(call);
  if (call.row.number != SYS_epoll_wait)
    if (const long error = mask.apply(call.process, set, call.args[5])) return error;
  const uint64_t started = now_ns();
  const int timeout = static_cast<int>(args[3]);
  long result = 0;
  for (;;) {
    result = waiting_call(call.task, call.row.number, args[0], args[1], args[2], args[3]);
    if (result != -EINTR) break;
    call.task.signals.update();  // see blocking_call()
    if (call.task.signals.deliverable()) break;
    if (call.row.number == SYS_epoll_pwait2 || timeout <= 0) continue;
    const uint64_t passed_ms = (now_ns() - started) / 1'000'000;
    args[3] = passed_ms >= static_cast<uint64_t>(timeout) ? 0 : static_cast<uint64_t>(timeout) - passed_ms;
  }
  if (result > 0) note_written(call, args[1], static_cast<uint64_t>(result) * sizeof(epoll_event));
  if (result == -EFAULT) note_reachable(call, args[1], size);
  return mask.finish(result);
}

namespace {

// Sleeps until done or a signal for the guest comes; then `*remaining` is what is left of a relative sleep.
long sleep(Call& call, clockid_t clock, int flags, timespec& remaining) {
  const bool absolute = (flags & TIMER_ABSTIME) != 0;
  const timespec until = remaining;
  long result = 0;
  do {
    const uint64_t request = host_pointer(absolute ? &until : &remaining);
    const uint64_t rest = absolute ? 0 : host_pointer(&remaining);
    result = waiting_call(call.task, SYS_clock_nanosleep, static_cast<uint64_t>(clock),
                          static_cast<uint64_t>(flags), request, rest);
    if (result == -EINTR) call.task.signals.update();  // see blocking_call()
  } while (result == -EINTR && !call.task.signals.deliverable());
  return result;
}

long sleep_call(Call& call, clockid_t clock, int flags, uint64_t request, uint64_t rest) {
  timespec time{};
  if (!call.process.memory.read_object(request, time)) return -EFAULT;
  const long result = sleep(call, clock, flags, time);
  if (result == -EINTR && rest != 0 && !(flags & TIMER_ABSTIME) && !call.answer.write_object(rest, time))
    return -EFAULT;
  return interrupted_result(call, result);
}

}  // namespace

long nanosleep(Call& call) { return sleep_call(call, CLOCK_MONOTONIC, 0, call.args[0], call.args[1]); }

long clock_nanosleep(Call& call) {
  return sleep_call(call, static_cast<clockid_t>(call.args[0]), static_cast<int>(call.args[1]), call.args[2],
                    call.args[3]);
}

long pause(Call& call) { return interrupted_result(call, blocking_call(call, SYS_pause, {})); }

namespace {

// The kernel stores in the word when such a wait begins, and others run meanwhile, who would see that at no
// place in the log. So only what need not wait is done: also a try stores in the word of one that another
// has.
bool another_has(Call& call, uint64_t address) {
  uint32_t word = 0;
  if (!call.process.memory.read_object(address, word)) return false;
  const auto owner = static_cast<pid_t>(word & FUTEX_TID_MASK);
  if (owner == 0 || owner == call.task.signals.host_thread()) return false;
  if (call.process.threads->find(owner) != nullptr) return true;
  // One of another process.
  return has_other_processes(call.process) && host_call(SYS_tkill, static_cast<uint64_t>(owner), 0) != -ESRCH;
}

long wait_with_inheritance(Call& call, uint32_t operation, const std::array<uint64_t, 6>& args) {
  if (operation != FUTEX_WAIT_REQUEUE_PI && !another_has(call, args[0])) {
    const uint64_t flags = args[1] & FUTEX_PRIVATE_FLAG;
    const long result = host_call(SYS_futex, args[0], FUTEX_TRYLOCK_PI | flags, 0, 0, 0, 0);
    if (call.process.memory.space().accessible(args[0], 4, PROT_WRITE)) call.answer.written(args[0], 4);
    if (result != -EWOULDBLOCK) return result;
  }
  return cannot_record(call, "futex (a thread that waits for a lock with priority inheritance)", ENOSYS,
                       "Use locks without PTHREAD_PRIO_INHERIT, where the program has a setting for that");
}

}  // namespace

// What an operation does with its arguments (futex(2)).
long futex(Call& call) {
  struct Operation {
    bool timeout = false, second = false;  // what the 4th and 5th arguments are
    bool writes_first = false, writes_second = false;
    bool waits = timeout;
  };
  static constexpr Operation kOperations[] = {
      {true, false, false, false},   // FUTEX_WAIT
      {false, false, false, false},  // FUTEX_WAKE
      {false, false, false, false},  // FUTEX_FD
      {false, true, false, false},   // FUTEX_REQUEUE
      {false, true, false, false},   // FUTEX_CMP_REQUEUE
      {false, true, false, true},    // FUTEX_WAKE_OP
      {true, false, true, false},    // FUTEX_LOCK_PI
      {false, false, true, false},   // FUTEX_UNLOCK_PI
      {false, false, true, false},   // FUTEX_TRYLOCK_PI
      {true, false, false, false},   // FUTEX_WAIT_BITSET
      {false, false, false, false},  // FUTEX_WAKE_BITSET
      {true, true, false, true},     // FUTEX_WAIT_REQUEUE_PI
      {false, true, false, true},    // FUTEX_CMP_REQUEUE_PI
      {true, false, true, false},    // FUTEX_LOCK_PI2
  };
  const auto number = static_cast<uint32_t>(call.args[1]) & static_cast<uint32_t>(FUTEX_CMD_MASK);
  if (number >= std::size(kOperations)) return -ENOSYS;
  const Operation& operation = kOperations[number];
  // Before they are looked at (get_futex_key()).
  if (number != FUTEX_FD && (call.args[0] % 4 != 0 || (operation.second && call.args[4] % 4 != 0)))
    return -EINVAL;
  std::array<uint64_t, 6> args = call.args;
  // The one call whose memory has no stand-in: its words are what threads share. Waits only read the first of
  // them, before they block; with priority inheritance the kernel stores the owner in it.
  args[0] = guest_pointer(args[0], 4);
  if (operation.timeout) args[3] = guest_pointer(args[3], sizeof(timespec));
  if (operation.second) args[4] = guest_pointer(args[4], 4);
  if (call.task.waits != nullptr && operation.waits && (operation.writes_first || operation.writes_second))
    return wait_with_inheritance(call, number, args);
  // The word is looked at by the kernel, which has the last word; what it would refuse does not wait.
  uint32_t word = 0;
  timespec timeout{};
  const bool waits = operation.waits && (!call.process.memory.read_object(args[0], word) ||
                                         word == static_cast<uint32_t>(args[2]));
  if (waits && args[3] != 0 && call.process.memory.read_object(args[3], timeout))
    args[3] = host_pointer(&timeout);
  const long result = waits ? blocking_call(call, SYS_futex, args)
                            : host_call(SYS_futex, args[0], args[1], args[2], args[3], args[4], args[5]);
  // Owner and waiter bits change even when the call fails (a timeout, for one).
  const AddressSpace& space = call.process.memory.space();
  if (operation.writes_first && space.accessible(args[0], 4, PROT_WRITE)) call.answer.written(args[0], 4);
  if (operation.writes_second && space.accessible(args[4], 4, PROT_WRITE)) call.answer.written(args[4], 4);
  if (result == -EINTR && operation.timeout && args[3] != 0) return kRestartNoHand;
  return interrupted_result(call, result);
}

}  // namespace calls
}  // namespace aftercheck
