// fcntl(2) by command.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>

#include "base/fd.h"
#include "kvm-recorder/operations.h"
#include "kvm-recorder/process_numbers.h"
#include "kvm-recorder/resource_limits.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

enum class Use : uint8_t { value, in, out, inout, duplicate };

struct Command {
  int command;
  Use use;
  uint16_t size = 0;
  bool waits = false;
};

// include/uapi/linux/fcntl.h and include/uapi/asm-generic/fcntl.h of the kernel.
constexpr Command kCommands[] = {
    {F_DUPFD, Use::duplicate},
    {F_DUPFD_CLOEXEC, Use::duplicate},
    {F_GETFD, Use::value},
    {F_SETFD, Use::value},
    {F_GETFL, Use::value},
    {F_SETFL, Use::value},
    {F_GETLK, Use::inout, 32},
    {F_SETLK, Use::in, 32},
    {F_SETLKW, Use::in, 32, true},
    {36, Use::inout, 32},     // F_OFD_GETLK
    {37, Use::in, 32},        // F_OFD_SETLK
    {38, Use::in, 32, true},  // F_OFD_SETLKW
    {8, Use::value},          // F_SETOWN
    {9, Use::value},          // F_GETOWN
    {10, Use::value},         // F_SETSIG
    {11, Use::value},         // F_GETSIG
    {15, Use::in, 8},         // F_SETOWN_EX
    {16, Use::out, 8},        // F_GETOWN_EX
    {17, Use::out, 8},        // F_GETOWNER_UIDS
    {1024, Use::value},       // F_SETLEASE
    {1025, Use::value},       // F_GETLEASE
    {1026, Use::value},       // F_NOTIFY
    {1031, Use::value},       // F_SETPIPE_SZ
    {1032, Use::value},       // F_GETPIPE_SZ
    {1033, Use::value},       // F_ADD_SEALS
    {1034, Use::value},       // F_GET_SEALS
    {1035, Use::out, 8},      // F_GET_RW_HINT
    {1036, Use::in, 8},       // F_SET_RW_HINT
    {1037, Use::out, 8},      // F_GET_FILE_RW_HINT
    {1038, Use::in, 8},       // F_SET_FILE_RW_HINT
};

long duplicate(Call& call, const std::array<uint64_t, 6>& args) {
  if (args[2] >= static_cast<uint64_t>(end_of_descriptors(call.process)))
    return -EINVAL;  // beyond the guest's RLIMIT_NOFILE
  long fd = host_call(SYS_fcntl, args[0], args[1], args[2]);
  if (fd >= 0) fd = within_limit(call.process, fd);
  if (fd < 0) return fd;
  call.process.descriptors.duplicated(call.fd(0), static_cast<int>(fd));
  return fd;
}

}  // namespace

namespace calls {

long fcntl(Call& call) {
  std::array<uint64_t, 6> args;
  if (!prepare(call, args)) return -EBADF;
  const auto* row = std::find_if(std::begin(kCommands), std::end(kCommands),
                                 [&](const Command& entry) { return entry.command == call.fd(1); });
  if (row == std::end(kCommands)) return -EINVAL;
  if (row->use == Use::duplicate) return duplicate(call, args);
  if (row->use != Use::value) args[2] = guest_pointer(args[2], row->size);
  if (f_owner_ex owner{}; call.fd(1) == F_SETOWN_EX && call.process.memory.read_object(args[2], owner) &&
                          whose(owner.pid) == Whose::recorder)
    return -ESRCH;
  FailedWrites watched;
  if (row->use == Use::out || row->use == Use::inout) watched.watch(args[2], row->size);
  const long result =
      row->waits ? blocking_call(call, SYS_fcntl, args) : host_call(SYS_fcntl, args[0], args[1], args[2]);
  if (result < 0) watched.note(call);
  if (row->use == Use::out || row->use == Use::inout) {
    if (result >= 0) call.answer.written(args[2], row->size);
    if (result == -EFAULT) note_reachable(call, args[2], row->size);
  }
  return interrupted_result(call, result);
}

}  // namespace calls

std::vector<Operation> fcntl_operations() {
  std::vector<Operation> operations;
  for (const Command& row : kCommands)
    operations.push_back({static_cast<uint64_t>(row.command), Treatment::recorded});
  return operations;
}

}  // namespace aftercheck
