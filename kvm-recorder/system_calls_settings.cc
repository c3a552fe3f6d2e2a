// Limits, prctl, capabilities, System V control calls: sub-tables where the operation decides about the
// arguments.
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "base/fd.h"
#include "kvm-recorder/guest_threads.h"
#include "kvm-recorder/memory_limits.h"
#include "kvm-recorder/operations.h"
#include "kvm-recorder/process_numbers.h"
#include "kvm-recorder/resource_limits.h"
#include "kvm-recorder/system_calls.h"

namespace aftercheck {
namespace {

// Limits that would bind the recorder (its windows, its own stack, its log, its descriptors) as much as the
// guest: the guest sees what it sets, the kernel does not.
constexpr int kOwnLimits[] = {RLIMIT_AS,    RLIMIT_DATA,   RLIMIT_STACK,
                              RLIMIT_FSIZE, RLIMIT_NOFILE, RLIMIT_NPROC};

bool kept_here(int resource) {
  return std::find(std::begin(kOwnLimits), std::end(kOwnLimits), resource) != std::end(kOwnLimits);
}

long set_limit(GuestProcess& process, int resource, const ResourceLimit& limit) {
  if (!kept_here(resource))
    return host_call(SYS_prlimit64, 0, static_cast<uint64_t>(resource), host_pointer(&limit), 0);
  ResourceLimit old;
  if (const long error = get_limit(process, resource, old)) return error;
  if (limit.soft > limit.hard) return -EINVAL;
  if (limit.hard > old.hard && (geteuid() != 0 || resource == RLIMIT_NOFILE)) return -EPERM;
  process.limits[resource] = limit;
  return 0;
}

long limit_call(Call& call, int resource, uint64_t new_address, uint64_t old_address) {
  ResourceLimit wanted, old;
  if (new_address != 0 && !call.process.memory.read_object(new_address, wanted)) return -EFAULT;
  if (const long error = get_limit(call.process, resource, old)) return error;
  if (new_address != 0)
    if (const long error = set_limit(call.process, resource, wanted)) return error;
  return old_address == 0 || call.answer.write_object(old_address, old) ? 0 : -EFAULT;
}

enum class Use : uint8_t { value, in, out, fixed };

struct Option {
  int option;
  Use use;
  int16_t size_or_result = 0;
};

// prctl(2). Everything else answers EINVAL, as on a kernel that lacks it.
constexpr Option kOptions[] = {
    {PR_SET_PDEATHSIG, Use::value},
    {PR_GET_PDEATHSIG, Use::out, 4},
    {PR_MCE_KILL, Use::value},
    {PR_MCE_KILL_GET, Use::value},
    {PR_SET_SPECULATION_CTRL, Use::value},
    {PR_SET_TIMING, Use::value},
    {PR_SET_MM, Use::fixed, -EPERM},  // as without CAP_SYS_RESOURCE: the layout is the recorder's, too
    {PR_GET_KEEPCAPS, Use::value},
    {PR_SET_KEEPCAPS, Use::value},
    {PR_GET_TIMING, Use::value},
    {PR_SET_NAME, Use::in, 1},
    {PR_GET_NAME, Use::out, 16},
    {PR_GET_SECCOMP, Use::fixed, 0},  // as kept_option() says
    {PR_SET_SECCOMP, Use::fixed, 0},
    {PR_CAPBSET_READ, Use::value},
    {PR_CAPBSET_DROP, Use::value},
    {PR_GET_SECUREBITS, Use::value},
    {PR_SET_SECUREBITS, Use::value},
    {PR_SET_TIMERSLACK, Use::value},
    {PR_GET_TIMERSLACK, Use::value},
    {PR_SET_CHILD_SUBREAPER, Use::value},
    {PR_GET_CHILD_SUBREAPER, Use::out, 4},
    {PR_SET_NO_NEW_PRIVS, Use::value},
    {PR_GET_NO_NEW_PRIVS, Use::value},
    {PR_SET_THP_DISABLE, Use::fixed, 0},
    {PR_GET_THP_DISABLE, Use::fixed, 0},
    {PR_CAP_AMBIENT, Use::value},
    {PR_GET_SPECULATION_CTRL, Use::value},
    {PR_SET_PTRACER, Use::fixed, 0},
};

}  // namespace

uint64_t soft_limit(GuestProcess& process, int resource) {
  ResourceLimit limit{RLIM_INFINITY, RLIM_INFINITY};
  get_limit(process, resource, limit);
  return limit.soft;
}

namespace calls {

long getrlimit(Call& call) {
  if (call.args[1] == 0) return -EFAULT;
  return limit_call(call, call.fd(0), 0, call.args[1]);
}

long setrlimit(Call& call) {
  if (call.args[1] == 0) return -EFAULT;
  return limit_call(call, call.fd(0), call.args[1], 0);
}

long prlimit64(Call& call) {
  const int pid = call.fd(0);
  if (pid != 0 && pid != getpid()) return -EPERM;
  return limit_call(call, call.fd(1), call.args[2], call.args[3]);
}

namespace {

// Options whose state the recorder keeps, since it is not the host process's. Nothing: not one of them.
std::optional<long> kept_option(Call& call) {
  GuestProcess& process = call.process;
  constexpr int kGetAuxv = 0x41555856;  // PR_GET_AUXV, include/uapi/linux/prctl.h since 6.4
  switch (call.fd(0)) {
    case PR_GET_DUMPABLE:
      return process.dumpable;
    case PR_SET_DUMPABLE:  // 2 is the administrator's (fs.suid_dumpable)
      if (call.args[1] > 1) return -EINVAL;
      process.dumpable = static_cast<int>(call.args[1]);
      return 0;
    case PR_GET_TSC:
      return call.answer.write_object(call.args[1], process.forbids_tsc ? PR_TSC_SIGSEGV : PR_TSC_ENABLE)
                 ? 0
                 : -EFAULT;
    case PR_SET_TSC:
      if (call.args[1] != PR_TSC_ENABLE && call.args[1] != PR_TSC_SIGSEGV) return -EINVAL;
      process.forbids_tsc = call.args[1] == PR_TSC_SIGSEGV;
      return 0;
    case PR_GET_SECCOMP:
      return call.task.seccomp.mode();
    case PR_SET_SECCOMP:
      return set_seccomp_mode(call, call.args[1], call.args[2]);
    case PR_GET_TID_ADDRESS:
      return call.answer.write_object(call.args[1], call.task.clear_child_tid) ? 0 : -EFAULT;
    case kGetAuxv: {
      // Kernels that lack it say so before they look at the rest.
      if (const long error = host_call(SYS_prctl, kGetAuxv, 0, 0, 0, 0); error == -EINVAL) return error;
      if (call.args[3] != 0 || call.args[4] != 0) return -EINVAL;
      const uint64_t size = process.auxv.size() * sizeof process.auxv[0];
      const uint64_t shown = std::min(size, call.args[2]);
      if (shown != 0 && !call.answer.write(call.args[1], process.auxv.data(), shown)) return -EFAULT;
      return static_cast<long>(size);
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

long prctl(Call& call) {
  if (const std::optional<long> kept = kept_option(call)) return *kept;
  const auto* row = std::find_if(std::begin(kOptions), std::end(kOptions),
                                 [&](const Option& entry) { return entry.option == call.fd(0); });
  if (row == std::end(kOptions)) return -EINVAL;
  if (row->use == Use::fixed) return row->size_or_result;
  const auto size = static_cast<uint64_t>(row->size_or_result);
  std::array<uint64_t, 6> args = call.args;
  if (row->use != Use::value) args[1] = guest_pointer(args[1], size);
  FailedWrites watched;
  if (row->use == Use::out) watched.watch(args[1], size);
  const long result = host_call(SYS_prctl, args[0], args[1], args[2], args[3], args[4]);
  if (result < 0) watched.note(call);
  if (row->use == Use::out) {
    if (result >= 0) call.answer.written(args[1], size);
    if (result == -EFAULT) note_reachable(call, args[1], size);
  }
  return result;
}

long affinity(Call& call) {
  if (call.process.threads != nullptr) call.process.threads->clear_pins();
  return pass(call);
}

// The number of data elements depends on the version in the header, which the kernel replaces when it doesn't
// know it (kernel/capability.c, cap_validate_magic).
long capget(Call& call) {
  constexpr uint64_t kHeader = sizeof(__user_cap_header_struct);
  const uint64_t header = guest_pointer(call.args[0], kHeader);
  __user_cap_header_struct wanted{};
  if (call.process.memory.read_object(header, wanted) && whose(wanted.pid) == Whose::recorder) return -ESRCH;
  const uint64_t elements =
      wanted.version == _LINUX_CAPABILITY_VERSION_1 ? _LINUX_CAPABILITY_U32S_1 : _LINUX_CAPABILITY_U32S_3;
  const uint64_t size = elements * sizeof(__user_cap_data_struct);
  const uint64_t data = guest_pointer(call.args[1], size);
  const long result = host_call(SYS_capget, header, data);
  note_reachable(call, header, kHeader);
  if (result == 0 || result == -EFAULT) note_reachable(call, data, size);
  return result;
}

namespace {

struct Control {
  int command;
  Use use;
  uint16_t size = 0;  // 0: two bytes per semaphore of the set
};

// include/uapi/linux/{ipc,sem,msg}.h.
constexpr Control kSemaphoreControls[] = {
    {IPC_RMID, Use::value},   {IPC_SET, Use::in, 104},      {IPC_STAT, Use::out, 104},
    {IPC_INFO, Use::out, 40}, {GETPID, Use::value},         {GETVAL, Use::value},
    {GETALL, Use::out, 0},    {GETNCNT, Use::value},        {GETZCNT, Use::value},
    {SETVAL, Use::value},     {SETALL, Use::in, 0},         {SEM_STAT, Use::out, 104},
    {SEM_INFO, Use::out, 40}, {SEM_STAT_ANY, Use::out, 104}};
constexpr Control kMessageControls[] = {{IPC_RMID, Use::value},       {IPC_SET, Use::in, 120},
                                        {IPC_STAT, Use::out, 120},    {IPC_INFO, Use::out, 32},
                                        {MSG_STAT, Use::out, 120},    {MSG_INFO, Use::out, 32},
                                        {MSG_STAT_ANY, Use::out, 120}};

// include/uapi/linux/shm.h: shmid64_ds, shminfo64, shm_info.
constexpr Control kSegmentControls[] = {
    {IPC_RMID, Use::value},    {IPC_SET, Use::in, 112},  {IPC_STAT, Use::out, 112},
    {IPC_INFO, Use::out, 72},  {SHM_LOCK, Use::value},   {SHM_UNLOCK, Use::value},
    {SHM_STAT, Use::out, 112}, {SHM_INFO, Use::out, 48}, {SHM_STAT_ANY, Use::out, 112}};

std::vector<Operation> operations_of(std::span<const Control> controls) {
  std::vector<Operation> operations;
  for (const Control& row : controls)
    operations.push_back({static_cast<uint64_t>(row.command), Treatment::recorded});
  return operations;
}

long control(Call& call, std::span<const Control> controls, size_t command, size_t pointer) {
  const auto row = std::find_if(controls.begin(), controls.end(),
                                [&](const Control& entry) { return entry.command == call.fd(command); });
  if (row == controls.end()) return -EINVAL;
  uint64_t size = row->size;
  if (row->use != Use::value && size == 0) {
    semid_ds set{};
    const long error = host_call(SYS_semctl, call.args[0], 0, IPC_STAT, host_pointer(&set));
    if (error < 0) return error;
    size = set.sem_nsems * sizeof(uint16_t);
  }
  std::array<uint64_t, 6> args = call.args;
  if (row->use != Use::value) args[pointer] = guest_pointer(args[pointer], size);
  FailedWrites watched;
  if (row->use == Use::out) watched.watch(args[pointer], size);
  const long result = host_call(call.row.number, args[0], args[1], args[2], args[3]);
  if (result < 0) watched.note(call);
  if (row->use == Use::out && result >= 0) call.answer.written(args[pointer], size);
  if (row->use == Use::out && result == -EFAULT) note_reachable(call, args[pointer], size);
  return result;
}

}  // namespace

long semctl(Call& call) { return control(call, kSemaphoreControls, 2, 3); }
long msgctl(Call& call) { return control(call, kMessageControls, 1, 2); }
long shmctl(Call& call) { return control(call, kSegmentControls, 1, 2); }

}  // namespace calls

std::vector<Operation> prctl_operations() {
  std::vector<Operation> operations;
  for (const Option& row : kOptions)
    operations.push_back({static_cast<uint32_t>(row.option),
                          row.use == Use::fixed ? Treatment::answered : Treatment::recorded});
  return operations;
}

std::vector<Operation> semctl_operations() { return calls::operations_of(calls::kSemaphoreControls); }
std::vector<Operation> msgctl_operations() { return calls::operations_of(calls::kMessageControls); }

std::vector<Operation> shmctl_operations() {
  std::vector<Operation> operations;
  for (const calls::Control& row : calls::kSegmentControls)
    operations.push_back({static_cast<uint64_t>(row.command), Treatment::recorded});
  return operations;
}

}  // namespace aftercheck
