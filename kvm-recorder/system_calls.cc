// The generic engine: everything that follows from a row of the table alone.
#include "kvm-recorder/system_calls.h"

#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/fd.h"
#include "kvm-recorder/interruptible_syscall.h"
#include "kvm-recorder/memory_limits.h"
#include "kvm-recorder/process_numbers.h"
#include "kvm-recorder/reach.h"
#include "kvm-recorder/resource_limits.h"
#include "kvm-recorder/waiting_call.h"
#include "system-calls/system_call_names.h"

namespace aftercheck {
namespace {

struct Extent {
  uint64_t size = 0;
  bool byte_count = false;  // the count argument is the number of bytes itself
};

// What argument `index` of the row may cover, before the result is known.
Extent extent(const Arg& arg, const std::array<uint64_t, 6>& args) {
  if (arg.count == Arg::kOnce) return {arg.size, false};
  uint64_t count = args[arg.count & ~Arg::kInt];
  if (arg.count & Arg::kInt) count = static_cast<uint32_t>(count);
  count = std::min(count, kMaxTransfer);
  return {std::min(count * arg.size + arg.extra, kMaxTransfer), arg.size == 1 && arg.extra == 0};
}

// Bytes from `pointer` to the end of its window, or of those that lie side by side; 0 outside.
uint64_t room_in_window(uint64_t pointer) {
  uint64_t end = pointer;
  for (Range window = window_of(end); window.size() != 0; window = window_of(end)) end = window.end;
  return end - pointer;
}

// A transfer may name more bytes than there are behind the buffer; the kernel stops where memory ends. Ours
// must stop where the window ends: the count itself is lowered.
void clip_transfer(std::array<uint64_t, 6>& args, size_t index, const Arg& arg, uint64_t size) {
  const uint64_t room = room_in_window(args[index]);
  if (room != 0 && room < size) args[arg.count & ~Arg::kInt] = room;
}

bool socket_has_timeout(int fd) {
  for (const int option : {SO_RCVTIMEO, SO_SNDTIMEO}) {
    timeval timeout{};
    socklen_t size = sizeof timeout;
    if (host_call(SYS_getsockopt, fd, SOL_SOCKET, option, host_pointer(&timeout), host_pointer(&size)) == 0 &&
        (timeout.tv_sec != 0 || timeout.tv_usec != 0))
      return true;
  }
  return false;
}

}  // namespace

void note_written(Call& call, uint64_t address, uint64_t size) {
  if (address == 0 || address == kBadPointer || size == 0) return;
  if (call.buffers.deliver(call.answer, address, size)) return;
  if (call.process.memory.space().accessible(address, size, PROT_WRITE)) {
    call.answer.written(address, size);
  } else {
    note_reachable(call, address, size);
  }
}

long host_call(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
  long result = number;
  register uint64_t r10 asm("r10") = d;
  register uint64_t r8 asm("r8") = e;
  register uint64_t r9 asm("r9") = f;
  asm volatile("syscall"
               : "+a"(result)
               : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}

uint64_t guest_pointer(uint64_t pointer, uint64_t size) {
  if (pointer == 0 || in_windows(pointer, std::max<uint64_t>(size, 1))) return pointer;
  // Nothing is touched of an empty buffer, but the kernel still looks whether the pointer could be a user's.
  return size == 0 ? kLowWindow.start : kBadPointer;
}

bool prepare(Call& call, std::array<uint64_t, 6>& args) {
  args = call.args;
  for (size_t i = 0; i < args.size(); i++) {
    const Arg& arg = call.row.args[i];
    switch (arg.kind) {
      case ArgKind::value:
        break;
      case ArgKind::fd:
        if (!call.process.descriptors.allowed(static_cast<int>(args[i]))) return false;
        break;
      case ArgKind::path:
        args[i] = !call.instead.empty() && call.instead_of == i ? host_pointer(call.instead.c_str())
                                                                : guest_pointer(args[i], 1);
        break;
      case ArgKind::length_inout:
        args[i] = guest_pointer(args[i], sizeof(uint32_t));
        break;
      case ArgKind::address_out:
        args[i] = guest_pointer(args[i], 1);
        break;
      case ArgKind::in:
      case ArgKind::out:
      case ArgKind::inout:
      case ArgKind::inout_always:
      case ArgKind::out_result: {
        const Extent bytes = extent(arg, args);
        if (bytes.byte_count) {
          clip_transfer(args, i, arg, bytes.size);
          args[i] = guest_pointer(args[i], bytes.size == 0 ? 0 : 1);
        } else {
          args[i] = guest_pointer(args[i], bytes.size);
        }
        break;
      }
      case ArgKind::iovec_in:
      case ArgKind::iovec_out:
      case ArgKind::message_in:
      case ArgKind::message_out:
      case ArgKind::nested:
        break;  // the handler's
    }
  }
  return true;
}

namespace {

// Calls that look as if they could wait, on what never does: the kernel completes them, whatever signal
// comes.
bool never_waits(long number, const std::array<uint64_t, 6>& args) {
  constexpr uint64_t kAtOnce = 256;  // getrandom(2), NOTES
  struct stat status {};
  switch (number) {
    case SYS_getrandom:
      return args[1] <= kAtOnce && (args[2] & GRND_RANDOM) == 0;
    case SYS_read:
    case SYS_write:
    case SYS_pread64:
    case SYS_pwrite64:
    case SYS_readv:
    case SYS_writev:
    case SYS_preadv:
    case SYS_pwritev:
    case SYS_preadv2:
    case SYS_pwritev2:
      return fstat(static_cast<int>(args[0]), &status) == 0 && S_ISREG(status.st_mode);
    default:
      return false;
  }
}

}  // namespace

long blocking_call(Call& call, long number, const std::array<uint64_t, 6>& args) {
  if (call.row.wait == Wait::never)
    return host_call(number, args[0], args[1], args[2], args[3], args[4], args[5]);
  for (;;) {
    const bool waits = call.task.waits != nullptr && !never_waits(number, args);
    const long result =
        waits ? waiting_call(call.task, number, args[0], args[1], args[2], args[3], args[4], args[5])
              : interruptible_syscall(call.task.signals.waiting(), number, args[0], args[1], args[2], args[3],
                                      args[4], args[5]);
    // A signal that the guest blocks or ignores interrupts the host's call, but never the guest's.
    if (result != -EINTR) return result;
    if (!waits && never_waits(number, args))
      return host_call(number, args[0], args[1], args[2], args[3], args[4], args[5]);
    call.task.signals.update();  // what the guest blocks may be noted all the same (SIGSEGV, SIGBUS)
    if (call.task.signals.deliverable()) return result;
  }
}

bool may_block(const Call& call, int fd, uint64_t bytes) {
  constexpr uint64_t kWorthALook = 64 << 10;
  if (call.row.wait == Wait::never) return false;
  struct stat status {};
  if (bytes < kWorthALook || call.row.args[0].kind != ArgKind::fd) return true;
  return fstat(fd, &status) != 0 || !S_ISREG(status.st_mode);
}

long interrupted_result(const Call& call, long result) {
  if (result != -EINTR) return result;
  switch (call.row.wait) {
    case Wait::restarts:
      // signal(7): a socket with a timeout is never restarted.
      return call.row.args[0].kind == ArgKind::fd && socket_has_timeout(call.fd(0)) ? result : kRestartSys;
    case Wait::unless_handled:
      return kRestartNoHand;
    case Wait::never:
    case Wait::interrupted:
      break;
  }
  return result;
}

void note_reachable(Call& call, uint64_t address, uint64_t size) {
  if (address == kBadPointer || size == 0) return;
  if (call.buffers.deliver_reached(call.answer, address)) return;
  const uint64_t end = address + std::min(size, room_in_window(address));
  uint64_t reached = address;
  while (reached < end) {
    const Mapping* mapping = call.process.memory.space().find(reached);
    if (mapping == nullptr || !(mapping->prot & PROT_WRITE)) break;
    reached = std::min(mapping->end, end);
  }
  if (reached > address) call.answer.written(address, reached - address);
}

void note_writes(Call& call, const std::array<uint64_t, 6>& args, long result) {
  const bool done = result >= 0;
  for (size_t i = 0; i < args.size(); i++) {
    const Arg& arg = call.row.args[i];
    switch (arg.kind) {
      case ArgKind::out:
      case ArgKind::inout:
        if (done) note_written(call, args[i], extent(arg, args).size);
        break;
      case ArgKind::inout_always:
        note_written(call, args[i], extent(arg, args).size);
        break;
      case ArgKind::out_result:
        if (done) {
          const uint64_t bytes = static_cast<uint64_t>(result) * arg.size + arg.extra;
          note_written(call, args[i], std::min(bytes, extent(arg, args).size));
        }
        break;
      case ArgKind::length_inout:
        if (done) note_written(call, args[i], sizeof(uint32_t));
        break;
      default:
        break;
    }
    // The kernel copies until it meets the page that it can't write.
    if (result == -EFAULT &&
        (arg.kind == ArgKind::out || arg.kind == ArgKind::inout || arg.kind == ArgKind::out_result))
      note_reachable(call, args[i], extent(arg, args).size);
  }
}

void watch_outputs(const Call& call, const std::array<uint64_t, 6>& host, FailedWrites& watched) {
  for (size_t i = 0; i < host.size(); i++) {
    const Arg& arg = call.row.args[i];
    switch (arg.kind) {
      case ArgKind::out:
      case ArgKind::inout:
      case ArgKind::out_result:
        watched.watch(host[i], extent(arg, host).size);
        break;
      case ArgKind::length_inout:
        watched.watch(host[i], sizeof(uint32_t));
        break;
      case ArgKind::value:
      case ArgKind::fd:
      case ArgKind::path:
      case ArgKind::in:
      case ArgKind::inout_always:  // noted in any case
      case ArgKind::address_out:   // its length is here only
      case ArgKind::iovec_in:
      case ArgKind::iovec_out:
      case ArgKind::message_in:
      case ArgKind::message_out:
      case ArgKind::nested:
        break;
    }
  }
}

namespace {

// Socket addresses: the kernel writes as much as the guest's length allowed, and sets the length to what
// there was.
constexpr uint32_t kLongestAddress = 128;  // sockaddr_storage: the kernel stores no more
struct AddressOut {
  size_t index = 0;
  uint32_t allowed = 0;
};

std::optional<AddressOut> find_address(Call& call, const std::array<uint64_t, 6>& args) {
  for (size_t i = 0; i < args.size(); i++) {
    const Arg& arg = call.row.args[i];
    if (arg.kind != ArgKind::address_out || args[i] == 0) continue;
    AddressOut address{i, 0};
    call.process.memory.read_object(args[arg.count], address.allowed);
    return address;
  }
  return std::nullopt;
}

// `host`: what the kernel got. The length has been noted already.
void note_address(Call& call, const std::array<uint64_t, 6>& args, const std::array<uint64_t, 6>& host,
                  const AddressOut& address, long result) {
  if (result < 0) {
    if (result == -EFAULT) note_reachable(call, host[address.index], address.allowed);
    return;
  }
  uint32_t length = 0;
  call.process.memory.read_object(args[call.row.args[address.index].count], length);
  note_written(call, host[address.index], std::min(length, address.allowed));
}

bool has_address(const SystemCall& row) {
  return std::any_of(std::begin(row.args), std::end(row.args),
                     [](const Arg& arg) { return arg.kind == ArgKind::address_out; });
}

// The transfer that the row describes, in bytes; 0: none.
uint64_t transfer_size(const Call& call, const std::array<uint64_t, 6>& args) {
  uint64_t most = 0;
  for (const Arg& arg : call.row.args)
    if (arg.kind == ArgKind::out_result || (arg.kind == ArgKind::in && arg.count != Arg::kOnce))
      most = std::max(most, extent(arg, args).size);
  return most;
}

// What the kernel gets instead of `args` while the call may block. Of what it reads only transfers are
// copied: the rest it takes before it waits.
std::array<uint64_t, 6> stand_ins(Call& call, const std::array<uint64_t, 6>& args,
                                  const std::optional<AddressOut>& address) {
  using Use = CallBuffers::Use;
  std::array<uint64_t, 6> host = args;
  for (size_t i = 0; i < args.size(); i++) {
    const Arg& arg = call.row.args[i];
    const uint64_t size = extent(arg, args).size;
    switch (arg.kind) {
      case ArgKind::out:
      case ArgKind::inout:
        host[i] = call.buffers.stand_in(args[i], size, Use::contents);
        break;
      case ArgKind::inout_always:  // may be read-only: then it stays as it is
        host[i] = call.buffers.stand_in(args[i], size, Use::in);
        break;
      case ArgKind::out_result:
        host[i] = call.buffers.stand_in(args[i], size, Use::out);
        break;
      case ArgKind::in:
        if (arg.count != Arg::kOnce && arg.size == 1) host[i] = call.buffers.stand_in(args[i], size, Use::in);
        break;
      case ArgKind::address_out:
        if (address)
          host[i] = call.buffers.stand_in(args[i], std::min(address->allowed, kLongestAddress), Use::out);
        break;
      case ArgKind::length_inout:
        host[i] = call.buffers.stand_in(args[i], sizeof(uint32_t), Use::contents);
        break;
      case ArgKind::value:
      case ArgKind::fd:
      case ArgKind::path:
      case ArgKind::iovec_in:
      case ArgKind::iovec_out:
      case ArgKind::message_in:
      case ArgKind::message_out:
      case ArgKind::nested:
        break;
    }
  }
  return host;
}

}  // namespace

long pass(Call& call) {
  std::array<uint64_t, 6> args;
  if (!prepare(call, args)) return -EBADF;
  std::optional<AddressOut> address;
  if (has_address(call.row)) address = find_address(call, args);
  const bool blocks = may_block(call, call.fd(0), transfer_size(call, args));
  const std::array<uint64_t, 6> host = blocks ? stand_ins(call, args, address) : args;
  FailedWrites watched;
  watch_outputs(call, host, watched);
  if (address) watched.watch(host[address->index], std::min(address->allowed, kLongestAddress));
  long result = blocking_call(call, call.row.number, host);
  if (result < 0) watched.note(call);
  note_writes(call, host, result);
  if (address) note_address(call, args, host, *address, result);
  if (call.row.makes_fd && result >= 0) result = within_limit(call.process, result);
  if (!call.row.makes_fd && result >= 0 && call.buffers.lost()) result = -EFAULT;
  return interrupted_result(call, result);
}

void tell_once(GuestProcess& process, const std::string& key, const std::string& text) {
  if (process.message && process.told.insert(key).second) process.message(text);
}

bool capable(int capability) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets{};
  if (host_call(SYS_capget, host_pointer(&header), host_pointer(sets.data())) != 0) return false;
  return (sets[CAP_TO_INDEX(capability)].effective & CAP_TO_MASK(capability)) != 0;
}

long answer_undone(Call& call, const std::string& what, int error) {
  const std::string answer = strerrorname_np(error);
  tell_once(call.process, what,
            fmt::format("the program called {}: can't be recorded, answered {}", what, answer));
  call.process.unsupported.note(what, answer);
  return -error;
}

long cannot_record(Call& call, const std::string& what, int error, const std::string& advice) {
  UnsupportedCalls& unsupported = call.process.unsupported;
  if (unsupported.answer_them) return answer_undone(call, what, error);
  unsupported.stop(what, advice, strerrorname_np(error));
  call.outcome.kind = CallOutcome::Kind::refused;
  return -error;
}

long refuse(Call& call) {
  const SystemCall& row = call.row;
  if (row.meaning != nullptr) {
    if (row.capability >= 0 && !capable(row.capability)) return -EPERM;
    return cannot_record(call, fmt::format("{} ({})", row.name, row.meaning), row.error);
  }
  if (!row.quiet)
    tell_once(call.process, row.name,
              fmt::format("the program called {}: not supported, answered {}", row.name,
                          strerrorname_np(row.error)));
  return -row.error;
}

namespace {

// A process or thread of which the guest must not know.
bool names_recorder(const Call& call) {
  if (call.row.pids == 0 || (call.row.pids_if >= 0 && call.fd(0) != call.row.pids_if)) return false;
  for (size_t i = 0; i < call.args.size(); ++i)
    if ((call.row.pids & (1U << i)) != 0 && whose(call.fd(i)) == Whose::recorder) return true;
  return false;
}

}  // namespace

CallOutcome make_system_call(GuestTask& task, Registers& registers) {
  if (task.seccomp.mode() != SECCOMP_MODE_DISABLED)
    if (std::optional<CallOutcome> stopped = stopped_by_filter(task, registers, registers.rax))
      return std::move(*stopped);
  // The kernel looks at the low half of RAX only (arch/x86/entry/common.c, do_syscall_64).
  const auto number = static_cast<uint32_t>(registers.rax);
  const SystemCall* row = find_system_call(number);
  if (row == nullptr) {
    const std::string name = system_call_name(number);
    tell_once(task.process, name, fmt::format("the program called {}: unknown, answered ENOSYS", name));
    return {CallOutcome::Kind::result, -ENOSYS};
  }
  task.buffers.begin();
  reach_stack(task, registers.rsp);  // the kernel lets it grow where a buffer on it is
  Call call{task,
            registers,
            *row,
            {registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9}};
  long value = 0;
  if (names_recorder(call)) {
    value = -ESRCH;
  } else if (row->klass == CallClass::refused) {
    value = refuse(call);
  } else {
    value = check_names(call);
    if (row->changes_rights) task.process.memory.host_thread().keep_apart();
    if (value == 0) value = row->handler ? row->handler(call) : pass(call);
  }
  if (call.outcome.kind == CallOutcome::Kind::result) call.outcome.value = value;
  return std::move(call.outcome);
}

}  // namespace aftercheck
